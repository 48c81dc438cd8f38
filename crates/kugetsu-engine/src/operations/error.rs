//! The errors of operations, with their exit status and hints about what to do next.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::Subject;
use crate::git::GitError;
use crate::opencode::{ApiError, DatabaseError, OpencodeError, Problem, ServerError};
use crate::process::{NO_ROOM, ProcessError};
use crate::settings::SettingsError;
use crate::store::{LeaseError, StoreError};
use crate::transport::TransportError;
use crate::turn::Interrupt;
use crate::worktree::WorktreeError;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::{Address, ErrorCode, IssueRef, RefError, RepoRef, SessionId, Verdict};
use kugetsu_forge::ForgeError;

/// The error of an operation.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The text is not a valid reference to an issue or a repository.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The settings are not valid.
    #[error(transparent)]
    Config(#[from] SettingsError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lease could not be taken.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// opencode is missing or unusable.
    #[error(transparent)]
    Opencode(#[from] OpencodeError),
    /// opencode's database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// opencode's database cannot be read at the moment, so the state of every session is unknown.
    #[error("{0}")]
    Unknown(#[source] DatabaseError),
    /// The database holds none of the store's sessions, so it is probably another one and proves nothing about them.
    #[error("opencode's database {} knows none of your sessions: is it the right one?", .database.display())]
    WrongDatabase {
        /// The file.
        database: PathBuf,
    },
    /// An earlier `init` was killed while its prompt ran.
    #[error("an earlier init of {repo} was cut off after its prompt had reached the session {session}")]
    InitCutOff {
        /// The repository of the base.
        repo: RepoRef,
        /// opencode's session.
        session: SessionId,
    },
    /// The changed policy is on record, but it could not be written to opencode's database.
    #[error("{error}; the change is on record nevertheless, and {then}")]
    NotApplied {
        /// The cause.
        #[source]
        error: Box<EngineError>,
        /// What will use the changed policy.
        then: &'static str,
    },
    /// opencode would run parts of a repository that nobody trusted.
    #[error(
        "{subject}: the repository is not trusted, and opencode {version} would run parts of it nevertheless: {parts}"
    )]
    UntrustedRepo {
        /// The session or the base.
        subject: Subject,
        /// The version of opencode.
        version: String,
        /// What it would run.
        parts: String,
        /// What to do.
        remedy: String,
    },
    /// opencode could not be reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A server could not be started.
    #[error("{0}")]
    Server(#[from] ServerError),
    /// A call to the server failed.
    #[error("opencode serve failed: {0}")]
    Api(#[from] ApiError),
    /// A process could not be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// git failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A temporary file could not be written.
    #[error("a temporary file could not be written: {0}")]
    TemporaryFile(std::io::Error),
    /// An operation on a worktree failed.
    #[error("{address}: {source}")]
    Worktree {
        /// The session's address.
        address: Address,
        /// The cause.
        source: WorktreeError,
    },
    /// A hook failed.
    #[error("{address}: the hook {name} {problem}, so {stopped}")]
    Hook {
        /// The session's address.
        address: Address,
        /// The setting, such as `hook_before_turn`.
        name: &'static str,
        /// What went wrong, such as `did not end within 1m`.
        problem: String,
        /// The step that was not done.
        stopped: &'static str,
        /// The log with the hook's output.
        log: PathBuf,
    },
    /// The issue could not be read from its forge.
    #[error("{source}")]
    Forge {
        /// The issue.
        issue: IssueRef,
        /// The cause.
        source: ForgeError,
    },
    /// A signal came before the turn began.
    #[error("interrupted before the model was asked")]
    Interrupted(Interrupt),
    /// A signal came during work outside a turn, or while the end of a turn was being recorded.
    #[error("{subject}: interrupted while {doing}")]
    InterruptedWhile {
        /// The session's address, or the base's repository.
        subject: String,
        /// What was being done, such as `its branch was being rebased`.
        doing: &'static str,
        /// Its code, if that is not the signal's own.
        code: Option<ErrorCode>,
        /// The signal.
        interrupt: Interrupt,
        /// What to do next.
        hint: String,
    },
    /// `start` on an address that already has a session.
    #[error("{address} already has a session ({session})")]
    AlreadyStarted {
        /// The session's address.
        address: Address,
        /// opencode's session.
        session: SessionId,
    },
    /// The machine has no sandbox for a session that needs one.
    #[error("this machine has no sandbox: {why}")]
    NoSandbox {
        /// What is missing.
        why: String,
    },
    /// The address has no session.
    #[error("{0} has no session yet")]
    NoSession(Address),
    /// The session of the address was removed, and the trash has all of it.
    #[error("{address} has no session: it was destroyed on {}", .when.strftime("%F %H:%M UTC"))]
    Destroyed {
        /// The session's address.
        address: Address,
        /// When it was removed.
        when: Timestamp,
    },
    /// The repository has no base, and there is no default base.
    #[error("{0} has no base session")]
    NoBase(RepoRef),
    /// `init` on a repository that already has a base.
    #[error("{repo} already has a base session ({session})")]
    BaseExists {
        /// The repository.
        repo: RepoRef,
        /// opencode's session.
        session: SessionId,
    },
    /// opencode no longer has the session that a record names.
    #[error("{subject}: opencode no longer has its session {session}")]
    SessionGone {
        /// The owner of the session.
        subject: Subject,
        /// The session.
        session: SessionId,
    },
    /// opencode would not see a new prompt as the newest message of the session.
    #[error("{subject}: {disorder}, so opencode would not see a new prompt in its session {session}")]
    ClockBehind {
        /// The owner of the session.
        subject: Subject,
        /// The session.
        session: SessionId,
        /// How its messages are out of order.
        disorder: Disorder,
    },
    /// The session's folder is gone.
    #[error("{subject}: its directory {directory} does not exist")]
    DirectoryGone {
        /// The owner of the session.
        subject: Subject,
        /// The folder.
        directory: PathBuf,
    },
    /// The turn still runs after the longest time to wait.
    #[error("{address}: its turn still runs after {}", crate::duration::print_duration(*.after))]
    StillRunning {
        /// The session's address.
        address: Address,
        /// How long the caller waited.
        after: Duration,
        /// What to do next.
        hint: String,
    },
    /// The command runs in a tool of the turn that it would wait for or end, or of a turn that this one began.
    #[error("{address}: {}", if *.itself {
        "this command runs in a tool of the turn of this very session, so it would wait for itself"
    } else {
        "this command runs in a turn that the turn of this session has begun, so it would wait for itself"
    })]
    OwnTurn {
        /// The session's address.
        address: Address,
        /// Whether the command is in a tool of that turn itself, not of one that it began.
        itself: bool,
    },
    /// The turn that the command would wait for waits for the turn whose tool runs the command.
    #[error(
        "{address}: its turn waits for the turn of {own}, whose tool runs this command, so neither would end"
    )]
    WaitsInACircle {
        /// The session that the command would wait for.
        address: Address,
        /// The session in whose turn the command runs.
        own: Address,
    },
    /// The supervisor of the turn whose tool this process is cannot be asked to start another turn.
    #[error("the supervisor of the turn{} whose tool runs this command cannot be asked to start another turn: {source}",
        of.as_ref().map(|of| format!(" of {of}")).unwrap_or_default())]
    NoSupervisor {
        /// The session of that turn, if it is known.
        of: Option<Address>,
        /// The system's error.
        source: std::io::Error,
    },
    /// A tool would begin a turn inside too many turns.
    #[error("{address}: its turn would be inside {depth} turns, and max_depth is {allowed}")]
    TooDeep {
        /// The session's address.
        address: Address,
        /// How many turns are above it.
        depth: usize,
        /// The setting.
        allowed: u32,
    },
    /// A tool would begin a turn beside too many others.
    #[error(
        "{address}: {running} turns that tools began run below the turn of {of}, and max_delegates is {allowed}"
    )]
    TooManyDelegates {
        /// The session's address.
        address: Address,
        /// The session whose turn no tool began.
        of: Address,
        /// How many run.
        running: usize,
        /// The setting.
        allowed: u32,
    },
    /// A tool would begin a turn below one that was stopped with all turns below it.
    #[error("{address}: the turn of {of} was stopped together with the turns that it began")]
    StoppedAbove {
        /// The session's address.
        address: Address,
        /// The session whose turn was stopped.
        of: Address,
    },
    /// A tool would begin a turn, and the tool's turn is no longer registered.
    #[error("{0}: the turn whose tool began this one has ended")]
    ParentEnded(Address),
    /// A tool would begin a turn, and nothing is left of a budget that the turn would count against.
    #[error("{address}: the budget of the turn of {of} is spent: {spent}")]
    BudgetSpent {
        /// The session's address.
        address: Address,
        /// The session whose turn has no budget left.
        of: Address,
        /// What was spent, as a phrase.
        spent: String,
    },
    /// A turn with the requested id is already on record.
    #[error("the turn {0} is already on record")]
    Recorded(uuid::Uuid),
    /// The requested id belongs to a turn with another message.
    #[error("{address} already has the turn {turn}, with another message")]
    OtherPrompt {
        /// The session's address.
        address: Address,
        /// The turn.
        turn: uuid::Uuid,
    },
    /// The export of a session does not match the session in opencode.
    #[error("the export of {session} cannot be trusted: {problem}; nothing was deleted")]
    Export {
        /// The session.
        session: SessionId,
        /// What is wrong with the export.
        problem: String,
    },
    /// The prompt of `init` failed, so no base was made.
    #[error("the base's prompt ended as {verdict}: {reason}")]
    BasePrompt {
        /// The session that received the prompt.
        session: SessionId,
        /// The verdict of the base's turn.
        verdict: Verdict,
        /// The cause.
        reason: String,
        /// Notes for people from before the turn.
        notes: Vec<String>,
    },
    /// A command of opencode failed.
    #[error("opencode {command} failed: {problem}")]
    Command {
        /// The command.
        command: String,
        /// The last line of its error output.
        problem: String,
    },
    /// opencode's terminal interface could not be started.
    #[error("opencode cannot be started on this terminal: {0}")]
    Attach(#[source] std::io::Error),
    /// A turn panicked because of a bug in kugetsu. The turn's opencode has ended, and the next command adopts the
    /// turn as lost.
    #[error("the turn {turn} ended because of a bug in kugetsu: {message}")]
    Panicked {
        /// The turn.
        turn: uuid::Uuid,
        /// The message of the panic.
        message: String,
    },
    /// An invariant of the engine does not hold, because of a bug in kugetsu.
    #[error("a bug in kugetsu: {0}")]
    Internal(&'static str),
    /// The request is not valid here.
    #[error("{problem}")]
    Usage {
        /// The cause.
        problem: String,
        /// What to do instead.
        hint: String,
    },
    /// A daemon refuses the turn, or the state of the home or of a file refuses the operation.
    #[error("{problem}")]
    Refused {
        /// Why.
        code: ErrorCode,
        /// Why, for people.
        problem: String,
        /// What to do instead.
        hint: String,
    },
    /// The requested thing does not exist.
    #[error("{problem}")]
    NotFound {
        /// The kind of thing.
        code: ErrorCode,
        /// What is missing.
        problem: String,
        /// What to do instead.
        hint: String,
    },
}

/// How the messages of a session are out of order with the system's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disorder {
    /// A message is newer than the clock.
    Future {
        /// The time of the newest message.
        newest: Timestamp,
        /// The system's time.
        now: Timestamp,
    },
    /// The ids of the messages are greater than new ones.
    Ids,
}

/// How far ahead of the clock a message may be for the turn to wait until the clock has passed it. A clock that is
/// kept right goes back by less.
const SMALL_STEP: Duration = Duration::from_secs(3);

impl Disorder {
    /// How far a message is ahead of the clock.
    pub(super) fn ahead(&self) -> Option<Duration> {
        match self {
            Self::Future { newest, now } => Duration::try_from(newest.duration_since(*now)).ok(),
            Self::Ids => None,
        }
    }

    /// Whether it lasts longer than a turn waits for it.
    pub(super) fn lasts(&self) -> bool {
        self.ahead().is_none_or(|ahead| ahead > SMALL_STEP)
    }
}

impl std::fmt::Display for Disorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Future { newest, now } => {
                write!(
                    f,
                    "the newest message is of {newest:.0}, and the system's clock says {now:.0}"
                )
            }
            Self::Ids => f.write_str("the ids of its messages are greater than new ones would be"),
        }
    }
}

impl EngineError {
    /// The error itself, or what `explain` makes of it if it is only an interrupt.
    pub(super) fn or_if_interrupted(self, explain: impl FnOnce(Interrupt) -> Self) -> Self {
        match self {
            Self::Interrupted(interrupt) => explain(interrupt),
            error => error,
        }
    }

    /// The stable code of the error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Ref(_) => ErrorCode::InvalidRef,
            Self::Config(_) => ErrorCode::InvalidSetting,
            Self::Store(error) | Self::Lease(LeaseError::Store(error)) => code_of_store(error),
            Self::Lease(LeaseError::Held { .. }) => ErrorCode::InUse,
            Self::Opencode(
                OpencodeError::NotFound | OpencodeError::Missing { .. } | OpencodeError::NotExecutable { .. },
            ) => ErrorCode::OpencodeMissing,
            Self::Opencode(_) => ErrorCode::OpencodeUnusable,
            Self::Database(error) => code_of_database(error),
            Self::Unknown(_) => ErrorCode::DatabaseUnusable,
            Self::WrongDatabase { .. } => ErrorCode::WrongDatabase,
            Self::InitCutOff { .. } => ErrorCode::InitCutOff,
            Self::NotApplied { error, .. } => error.code(),
            Self::Transport(error) => match error {
                TransportError::Database(error) => code_of_database(error),
                TransportError::Process(_) => ErrorCode::ProcessFailed,
                TransportError::Log { .. } => ErrorCode::LogUnwritable,
                TransportError::Config(_) => ErrorCode::OpencodeConfig,
                _ => ErrorCode::OpencodeFailed,
            },
            Self::UntrustedRepo { .. } => ErrorCode::UntrustedRepo,
            Self::Server(ServerError::Config(_))
            | Self::Api(ApiError {
                problem: Problem::Config(_),
                ..
            }) => ErrorCode::OpencodeConfig,
            Self::Server(ServerError::Process(_))
            | Self::Process(_)
            | Self::NoSupervisor { .. }
            | Self::Attach(_) => ErrorCode::ProcessFailed,
            Self::Server(_) | Self::Api(_) | Self::Command { .. } => ErrorCode::OpencodeFailed,
            Self::Git(error) => code_of_git(error),
            Self::TemporaryFile(_) => ErrorCode::StoreUnwritable,
            Self::Worktree { source, .. } => match source {
                WorktreeError::Refused { .. } => ErrorCode::WorktreeRefused,
                WorktreeError::AtRisk { .. } => ErrorCode::WorkAtRisk,
                WorktreeError::Lost { .. } => ErrorCode::WorktreeLost,
                WorktreeError::Git(error) => code_of_git(error),
                WorktreeError::File(_) => ErrorCode::WorktreeFile,
            },
            Self::Hook { .. } => ErrorCode::HookFailed,
            Self::Forge { source, .. } => code_of_forge(source),
            Self::InterruptedWhile { code: Some(code), .. } => *code,
            Self::Interrupted(interrupt) | Self::InterruptedWhile { interrupt, .. } => match interrupt {
                Interrupt::Terminated => ErrorCode::Terminated,
                _ => ErrorCode::Interrupted,
            },
            Self::AlreadyStarted { .. } => ErrorCode::AlreadyHasSession,
            Self::NoSession(_) | Self::Destroyed { .. } => ErrorCode::NoSession,
            Self::NoBase(_) => ErrorCode::NoBase,
            Self::NoSandbox { .. } => ErrorCode::NoSandbox,
            Self::BaseExists { .. } => ErrorCode::BaseExists,
            Self::SessionGone { .. } => ErrorCode::SessionGone,
            Self::ClockBehind { .. } => ErrorCode::ClockBehind,
            Self::DirectoryGone { .. } => ErrorCode::DirectoryGone,
            Self::StillRunning { .. } => ErrorCode::WaitTimeout,
            Self::OwnTurn { .. } | Self::WaitsInACircle { .. } => ErrorCode::OwnTurn,
            Self::TooDeep { .. } => ErrorCode::TooDeep,
            Self::TooManyDelegates { .. } => ErrorCode::TooManyDelegates,
            Self::ParentEnded(_) | Self::StoppedAbove { .. } => ErrorCode::ParentEnded,
            Self::BudgetSpent { .. } => ErrorCode::BudgetSpent,
            Self::Recorded(_) => ErrorCode::TurnRecorded,
            Self::OtherPrompt { .. } => ErrorCode::TurnIdReused,
            Self::Export { .. } => ErrorCode::ExportIncomplete,
            Self::BasePrompt { verdict, .. } => match verdict {
                Verdict::Quota => ErrorCode::Quota,
                Verdict::Blocked => ErrorCode::Blocked,
                // Only a signal file ends the turn with this verdict here. A signal to the process takes precedence in
                // the front end.
                Verdict::Aborted => ErrorCode::Terminated,
                _ => ErrorCode::BasePromptFailed,
            },
            Self::Panicked { .. } | Self::Internal(_) => ErrorCode::Internal,
            Self::Usage { .. } => ErrorCode::Usage,
            Self::NotFound { code, .. } | Self::Refused { code, .. } => *code,
        }
    }

    /// The exit status of a command that fails with this error.
    pub fn exit_status(&self) -> ExitStatus {
        self.code().exit_status()
    }

    /// Whether the same request, unchanged, may succeed later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unknown(error) => error.is_temporary(),
            Self::NotApplied { error, .. } => error.retryable(),
            _ => self.code().retryable(),
        }
    }

    /// The session's address, or the base's repository, that the error is about, if the error names one.
    pub fn address(&self) -> Option<String> {
        match self {
            Self::Worktree { address, .. } | Self::Hook { address, .. } => Some(address.to_string()),
            Self::AlreadyStarted { address, .. }
            | Self::NoSession(address)
            | Self::Destroyed { address, .. }
            | Self::StillRunning { address, .. }
            | Self::OwnTurn { address, .. }
            | Self::WaitsInACircle { address, .. }
            | Self::TooDeep { address, .. }
            | Self::TooManyDelegates { address, .. }
            | Self::ParentEnded(address)
            | Self::StoppedAbove { address, .. }
            | Self::BudgetSpent { address, .. } => Some(address.to_string()),
            Self::NoBase(repo) | Self::BaseExists { repo, .. } | Self::InitCutOff { repo, .. } => {
                Some(repo.to_string())
            }
            Self::SessionGone { subject, .. }
            | Self::DirectoryGone { subject, .. }
            | Self::ClockBehind { subject, .. } => Some(subject.reference()),
            Self::InterruptedWhile { subject, .. } => Some(subject.clone()),
            Self::Lease(LeaseError::Held { key, .. })
            | Self::Store(StoreError::Exists { key, .. } | StoreError::NotInTrash { key }) => {
                Some(key.reference())
            }
            Self::NotApplied { error, .. } => error.address(),
            Self::Forge { issue, .. } => Some(issue.to_string()),
            _ => None,
        }
    }

    /// What to do next, unless the message already says so.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Forge { issue, source } => super::issue::hints(issue, source),
            _ => self.hint().into_iter().collect(),
        }
    }

    /// What people should know besides the message, such as what happened before the operation failed.
    pub fn notes(&self) -> &[String] {
        match self {
            Self::BasePrompt { notes, .. } => notes,
            _ => &[],
        }
    }

    /// The message, with the store's hint on a line of its own, for texts that have no place for hints.
    pub(super) fn in_full(&self) -> String {
        match self {
            Self::Store(error) | Self::Lease(LeaseError::Store(error)) => error.in_full(),
            Self::Lease(error) => match error.hint() {
                Some(hint) => format!("{self}\n{hint}"),
                None => self.to_string(),
            },
            _ => self.to_string(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::AlreadyStarted { address, .. } => Some(format!("continue it: kugetsu continue {address}")),
            Self::InterruptedWhile { hint, .. } => Some(hint.clone()),
            Self::OtherPrompt { address, turn } => Some(format!(
                "choose another id for another message; to see that turn: kugetsu logs {address} --turn {turn}"
            )),
            Self::OwnTurn { .. } => {
                Some("end the turn first; only a command outside can act on it".to_owned())
            }
            Self::WaitsInACircle { .. } => {
                Some("end this turn without waiting; the other turn goes on then".to_owned())
            }
            Self::TooDeep { .. } => Some(
                "do the work in this turn, or have a person allow more: kugetsu config set max_depth N"
                    .to_owned(),
            ),
            Self::TooManyDelegates { .. } => Some(
                "wait for one of them to end (kugetsu query lists them), or have a person allow more: kugetsu config \
                 set max_delegates N"
                    .to_owned(),
            ),
            Self::BudgetSpent { .. } => Some(
                "end the turn; a person can continue with a higher --max-cost or --max-tokens".to_owned(),
            ),
            Self::ParentEnded(_) | Self::StoppedAbove { .. } => Some(
                "do not repeat the command: no further turn begins below that one; a person can begin it outside"
                    .to_owned(),
            ),
            Self::Config(error) if error.is_in_file() => Some("mend it: kugetsu config edit".to_owned()),
            Self::NoSession(address) => Some(format!("start one: kugetsu start {address} \"what to do\"")),
            Self::Destroyed { address, .. } => Some(format!(
                "bring it back: kugetsu restore {address}; or start a new one: kugetsu start {address} \"what to do\""
            )),
            Self::NoBase(_) => Some("make one inside a clone of the repository: kugetsu init".to_owned()),
            Self::BasePrompt { session, .. } => Some(format!(
                "no base was made, but opencode has the session: kugetsu init --adopt {session}, or opencode session delete {session}"
            )),
            Self::BaseExists { .. } => Some("replace it with: kugetsu init --force".to_owned()),
            Self::InitCutOff { session, .. } => Some(format!(
                "keep it: kugetsu init --force --adopt {session}; or make a new one after: opencode session delete {session}"
            )),
            Self::NotApplied { error, .. } => error.hint(),
            Self::Store(error) => error.hint().map(str::to_owned),
            Self::Lease(error) => error.hint().map(str::to_owned),
            Self::SessionGone { subject, .. } => Some(match subject {
                Subject::Session(_) => "see what is orphaned with: kugetsu prune".to_owned(),
                Subject::Base(_) => "make a new base with: kugetsu init --force".to_owned(),
            }),
            Self::ClockBehind { disorder, .. } => Some(match disorder {
                Disorder::Future { .. } => {
                    "set the clock right; if it is right, repair the session: kugetsu doctor --fix".to_owned()
                }
                Disorder::Ids => "repair the session: kugetsu doctor --fix".to_owned(),
            }),
            Self::Database(error) if error.is_lost() => Some(
                "a turn may have done that; to remove the session without its messages, and keep its work in the trash: \
                 kugetsu destroy REF --force"
                    .to_owned(),
            ),
            Self::WrongDatabase { .. } => Some(
                "check HOME, XDG_DATA_HOME and OPENCODE_DB; to remove a single record: kugetsu destroy"
                    .to_owned(),
            ),
            Self::DirectoryGone { subject, .. } => Some(match subject {
                Subject::Session(address) => {
                    format!(
                        "if the clone has moved, say where it is now: kugetsu move {address} --dir FOLDER"
                    )
                }
                Subject::Base(repo) => {
                    format!(
                        "if the clone has moved, say where it is now: kugetsu move --repo {repo} --dir FOLDER"
                    )
                }
            }),
            Self::Git(error)
            | Self::Worktree {
                source: WorktreeError::Git(error),
                ..
            } if error.missing => Some("install git, or add its folder to PATH".to_owned()),
            Self::Worktree { source, .. } => source.hint(),
            Self::Hook { log, .. } => Some(format!("its output is in {}", log.display())),
            Self::StillRunning { hint, .. } => Some(hint.clone()),
            Self::Usage { hint, .. } | Self::NotFound { hint, .. } | Self::Refused { hint, .. }
                if !hint.is_empty() =>
            {
                Some(hint.clone())
            }
            Self::UntrustedRepo { remedy, .. } => Some(remedy.clone()),
            Self::Transport(TransportError::Config(_)) | Self::Server(ServerError::Config(_)) => {
                Some("correct the file, then run the same command again".to_owned())
            }
            Self::Transport(_) | Self::Server(_) => {
                Some("look for the cause with: kugetsu doctor".to_owned())
            }
            _ => None,
        }
    }
}

impl EngineError {
    /// Whether the cause is a full disk, or a quota of disk space, which may pass by itself.
    pub fn is_full_disk(&self) -> bool {
        let mut error: Option<&dyn std::error::Error> = Some(self);
        while let Some(this) = error {
            let io = this.downcast_ref::<std::io::Error>();
            if io.is_some_and(|io| {
                matches!(
                    io.kind(),
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
                )
            }) {
                return true;
            }
            error = this.source();
        }
        false
    }
}

fn code_of_store(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::Full { .. }
        | StoreError::ReadOnly { .. }
        | StoreError::Permission { .. }
        | StoreError::Shared { .. }
        | StoreError::Symlink { .. }
        | StoreError::Io { .. } => ErrorCode::StoreUnwritable,
        StoreError::RecordTooLarge { .. } => ErrorCode::RecordTooLarge,
        StoreError::Broken { .. } => ErrorCode::RecordBroken,
        StoreError::Newer { .. } => ErrorCode::RecordNewer,
        StoreError::LockTimeout { .. } => ErrorCode::LockTimeout,
        StoreError::WrongLease { .. } => ErrorCode::WrongLease,
        StoreError::Exists { .. } => ErrorCode::AlreadyHasSession,
        StoreError::NotInTrash { .. } => ErrorCode::NotInTrash,
    }
}

fn code_of_forge(error: &ForgeError) -> ErrorCode {
    match error {
        ForgeError::Unreachable { .. } | ForgeError::Slow { .. } | ForgeError::Server { .. } => {
            ErrorCode::ForgeUnreachable
        }
        ForgeError::RateLimit { .. } => ErrorCode::RateLimit,
        ForgeError::NotFound { .. } => ErrorCode::IssueNotFound,
        ForgeError::TokenRefused { .. } | ForgeError::TokenInvalid(_) | ForgeError::Refused { .. } => {
            ErrorCode::TokenRefused
        }
        ForgeError::Redirected { .. }
        | ForgeError::TooLarge { .. }
        | ForgeError::Answer { .. }
        | ForgeError::Tls { .. }
        | ForgeError::UnknownKind { .. } => ErrorCode::ForgeUnusable,
        ForgeError::Proxy(_) | ForgeError::Address(_) => ErrorCode::InvalidSetting,
    }
}

fn code_of_git(error: &GitError) -> ErrorCode {
    if error.missing {
        ErrorCode::GitMissing
    } else if error.problem.contains(NO_ROOM) {
        ErrorCode::ProcessFailed
    } else {
        ErrorCode::GitFailed
    }
}

fn code_of_database(error: &DatabaseError) -> ErrorCode {
    match error {
        DatabaseError::Locked { .. } => ErrorCode::DatabaseLocked,
        DatabaseError::Slow { .. } => ErrorCode::DatabaseSlow,
        _ => ErrorCode::DatabaseUnusable,
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::time::Duration;

    use super::*;

    fn locked() -> DatabaseError {
        DatabaseError::Locked {
            path: PathBuf::from("/db"),
            waited: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_locked_database_is_retryable_for_every_command() {
        let error = EngineError::Database(locked());
        assert_eq!(
            (error.code(), error.retryable()),
            (ErrorCode::DatabaseLocked, true)
        );
        let error = EngineError::Transport(locked().into());
        assert_eq!(
            (error.code(), error.retryable()),
            (ErrorCode::DatabaseLocked, true)
        );
        let error = EngineError::Unknown(locked());
        assert_eq!(
            (error.code(), error.retryable()),
            (ErrorCode::DatabaseUnusable, true)
        );
        assert!(error.source().is_some());
    }

    #[test]
    fn only_a_database_that_a_turn_has_changed_is_called_so() {
        let (path, limit) = (PathBuf::from("/db"), Duration::from_secs(10));
        let slow = EngineError::Database(DatabaseError::Slow {
            path: path.clone(),
            limit,
        });
        assert_eq!((slow.code(), slow.retryable()), (ErrorCode::DatabaseSlow, true));
        let large = EngineError::Database(DatabaseError::TooLarge { path: path.clone() });
        assert_eq!(
            (large.code(), large.retryable()),
            (ErrorCode::DatabaseUnusable, false)
        );
        for error in [slow, large] {
            assert_eq!(error.hint(), None, "{error}");
        }
        let tampered = EngineError::Database(DatabaseError::Tampered {
            path,
            reason: String::new(),
        });
        assert!(
            tampered
                .hint()
                .is_some_and(|hint| hint.contains("a turn may have done that"))
        );
    }

    #[test]
    fn the_prompt_of_init_fails_with_the_code_of_its_verdict() {
        for (verdict, code) in [
            (Verdict::Quota, ErrorCode::Quota),
            (Verdict::Blocked, ErrorCode::Blocked),
            (Verdict::Aborted, ErrorCode::Terminated),
            (Verdict::Timeout, ErrorCode::BasePromptFailed),
        ] {
            let error = EngineError::BasePrompt {
                session: SessionId::new("ses_1").unwrap(),
                verdict,
                reason: String::new(),
                notes: Vec::new(),
            };
            assert_eq!(error.code(), code);
        }
    }

    #[test]
    fn a_policy_that_was_not_applied_keeps_its_cause() {
        let error = EngineError::NotApplied {
            error: Box::new(EngineError::NoBase(
                RepoRef::try_from("a.b/c/d".to_owned()).unwrap(),
            )),
            then: "the next turn uses it",
        };
        assert_eq!(error.code(), ErrorCode::NoBase);
        assert_eq!(error.address().as_deref(), Some("a.b/c/d"));
        assert_eq!(error.hints().len(), 1);
        assert!(error.source().is_some());
    }
}
