//! What can go wrong with a whole operation, the exit status for it, and what to do next.

use std::path::PathBuf;

use crate::opencode::{ApiError, DatabaseError, OpencodeError, ServerError};
use crate::process::ProcessError;
use crate::settings::SettingsError;
use crate::store::{LeaseError, StoreError};
use crate::transport::TransportError;
use crate::turn::Interrupt;
use crate::worktree::WorktreeError;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::{Address, ErrorCode, RefError, RepoRef, SessionId, Verdict};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No issue or repository can be meant.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] SettingsError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A lease is held.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// opencode is missing or unusable.
    #[error(transparent)]
    Opencode(#[from] OpencodeError),
    /// opencode's database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// opencode's database cannot be read at the moment, so nothing is known of any session.
    #[error("{0}")]
    Unknown(#[source] DatabaseError),
    /// A database without any session of the store is another one, and tells nothing of them.
    #[error("opencode's database {} knows none of your sessions: is it the right one?", .database.display())]
    WrongDatabase {
        /// The file.
        database: PathBuf,
    },
    /// An `init` was killed while its prompt ran.
    #[error("an earlier init of {repo} was cut off after its prompt had reached the session {session}")]
    InitCutOff {
        /// Whose base it was to be.
        repo: RepoRef,
        /// opencode's session.
        session: SessionId,
    },
    /// A policy is on record, and opencode does not have it yet.
    #[error("{error}; the change is on record all the same, and {then}")]
    NotApplied {
        /// Why.
        #[source]
        error: Box<EngineError>,
        /// What will go by it.
        then: &'static str,
    },
    /// opencode could not be reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A server could not be started.
    #[error("{0}")]
    Server(#[from] ServerError),
    /// A call of the server failed.
    #[error("opencode serve failed: {0}")]
    Api(#[from] ApiError),
    /// A process could not be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// There is no worktree, or it stays.
    #[error("{of}: {source}")]
    Worktree {
        /// The issue.
        of: Address,
        /// Why.
        source: WorktreeError,
    },
    /// A hook that must end well did not.
    #[error("{of}: the hook {name} {problem}, so {stopped}")]
    Hook {
        /// The issue.
        of: Address,
        /// The setting, such as `hook_before_turn`.
        name: &'static str,
        /// How it ended.
        problem: String,
        /// What was not done.
        stopped: &'static str,
        /// Its output.
        log: PathBuf,
    },
    /// A signal came before the turn began.
    #[error("interrupted before the model was asked")]
    Interrupted(Interrupt),
    /// A signal came while something was done that is not a turn, or is the end of one.
    #[error("{of}: interrupted while {doing}")]
    InterruptedWhile {
        /// The session's address, or the base's repository.
        of: String,
        /// What was being done, such as `its branch was being rebased`.
        doing: &'static str,
        /// Its code, if that is not the signal's own.
        code: Option<ErrorCode>,
        /// The signal.
        interrupt: Interrupt,
        /// What to do next.
        hint: String,
    },
    /// `start` on an issue that has a session.
    #[error("{address} already has a session ({session})")]
    AlreadyStarted {
        /// The issue.
        address: Address,
        /// Its session.
        session: SessionId,
    },
    /// `continue` and others on an issue that has none.
    #[error("{0} has no session yet")]
    NoSession(Address),
    /// No base for a repository, and no default one.
    #[error("there is no base session for {0}, and no default base")]
    NoBase(RepoRef),
    /// `init` where there is a base.
    #[error("{repo} already has a base session ({session})")]
    BaseExists {
        /// The repository.
        repo: RepoRef,
        /// Its session.
        session: SessionId,
    },
    /// opencode has lost a session that a record names.
    #[error("{of}: opencode no longer has its session {session}")]
    SessionGone {
        /// The issue or the repository.
        of: String,
        /// The session.
        session: SessionId,
    },
    /// The session's folder is gone.
    #[error("{of}: its directory {directory} does not exist")]
    DirectoryGone {
        /// The issue or the repository.
        of: String,
        /// The folder.
        directory: PathBuf,
    },
    /// A turn runs for longer than somebody would wait.
    #[error("{address}: its turn still runs after {}", crate::duration::print_duration(*.after))]
    StillRunning {
        /// The issue.
        address: Address,
        /// How long was waited.
        after: std::time::Duration,
        /// What to do next.
        hint: String,
    },
    /// A turn was asked for by its id, and has been asked for before.
    #[error("the turn {0} is recorded already")]
    Recorded(uuid::Uuid),
    /// An export of a session is not what opencode holds.
    #[error("the export of {session} cannot be trusted: {problem}; nothing was deleted")]
    Export {
        /// The session.
        session: SessionId,
        /// What is wrong with it.
        problem: String,
    },
    /// The prompt of `init` did not end well: the base is not made.
    #[error("the base's prompt ended as {verdict}: {reason}")]
    BasePrompt {
        /// The session that has the prompt.
        session: SessionId,
        /// How it ended.
        verdict: Verdict,
        /// Why.
        reason: String,
    },
    /// opencode refused a command.
    #[error("opencode {command} failed: {problem}")]
    Command {
        /// The command.
        command: String,
        /// Its last words.
        problem: String,
    },
    /// opencode's terminal interface could not be started.
    #[error("opencode cannot be started on this terminal: {0}")]
    Attach(#[source] std::io::Error),
    /// A turn panicked: a defect of kugetsu. Its opencode has ended, and the next command adopts it as lost.
    #[error("the turn {turn} ended by a defect of kugetsu: {message}")]
    Panicked {
        /// The turn.
        turn: uuid::Uuid,
        /// The panic's words.
        message: String,
    },
    /// An invariant of the engine does not hold: a defect of kugetsu.
    #[error("a defect of kugetsu: {0}")]
    Internal(&'static str),
    /// The request makes no sense here.
    #[error("{problem}")]
    Usage {
        /// Why.
        problem: String,
        /// What to do instead.
        hint: String,
    },
    /// There is nothing of that name.
    #[error("{problem}")]
    NotFound {
        /// What kind of thing.
        code: ErrorCode,
        /// What.
        problem: String,
        /// What to do instead.
        hint: String,
    },
}

impl EngineError {
    /// The kind of error.
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
                _ => ErrorCode::OpencodeFailed,
            },
            Self::Server(ServerError::Process(_)) | Self::Process(_) | Self::Attach(_) => {
                ErrorCode::ProcessFailed
            }
            Self::Server(_) | Self::Api(_) | Self::Command { .. } => ErrorCode::OpencodeFailed,
            Self::Worktree { source, .. } => match source {
                WorktreeError::Refused { .. } => ErrorCode::WorktreeRefused,
                WorktreeError::AtRisk { .. } => ErrorCode::WorkAtRisk,
                WorktreeError::Lost { .. } => ErrorCode::WorktreeLost,
                WorktreeError::Git { .. } => ErrorCode::GitFailed,
                WorktreeError::File(_) => ErrorCode::WorktreeFile,
            },
            Self::Hook { .. } => ErrorCode::HookFailed,
            Self::InterruptedWhile { code: Some(code), .. } => *code,
            Self::Interrupted(interrupt) | Self::InterruptedWhile { interrupt, .. } => match interrupt {
                Interrupt::Terminated => ErrorCode::Terminated,
                _ => ErrorCode::Interrupted,
            },
            Self::AlreadyStarted { .. } => ErrorCode::AlreadyHasSession,
            Self::NoSession(_) => ErrorCode::NoSession,
            Self::NoBase(_) => ErrorCode::NoBase,
            Self::BaseExists { .. } => ErrorCode::BaseExists,
            Self::SessionGone { .. } => ErrorCode::SessionGone,
            Self::DirectoryGone { .. } => ErrorCode::DirectoryGone,
            Self::StillRunning { .. } => ErrorCode::WaitTimeout,
            Self::Recorded(_) => ErrorCode::TurnRecorded,
            Self::Export { .. } => ErrorCode::ExportIncomplete,
            Self::BasePrompt { verdict, .. } => match verdict {
                Verdict::Quota => ErrorCode::Quota,
                Verdict::Blocked => ErrorCode::Blocked,
                // By a signal file: whoever got a signal tells that instead.
                Verdict::Aborted => ErrorCode::Terminated,
                _ => ErrorCode::BasePromptFailed,
            },
            Self::Panicked { .. } | Self::Internal(_) => ErrorCode::Internal,
            Self::Usage { .. } => ErrorCode::Usage,
            Self::NotFound { code, .. } => *code,
        }
    }

    /// The exit status of a command that fails so.
    pub fn exit_status(&self) -> ExitStatus {
        self.code().exit_status()
    }

    /// Whether the same request, unchanged, may succeed later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unknown(error) => error.is_locked(),
            Self::NotApplied { error, .. } => error.retryable(),
            _ => self.code().retryable(),
        }
    }

    /// The issue, or the repository of a base, that it is about, where it names one.
    pub fn address(&self) -> Option<String> {
        match self {
            Self::Worktree { of, .. } | Self::Hook { of, .. } => Some(of.to_string()),
            Self::AlreadyStarted { address, .. }
            | Self::NoSession(address)
            | Self::StillRunning { address, .. } => Some(address.to_string()),
            Self::NoBase(repo) | Self::BaseExists { repo, .. } | Self::InitCutOff { repo, .. } => {
                Some(repo.to_string())
            }
            Self::SessionGone { of, .. }
            | Self::DirectoryGone { of, .. }
            | Self::InterruptedWhile { of, .. } => Some(of.clone()),
            Self::Lease(LeaseError::Held { key, .. })
            | Self::Store(StoreError::Exists { key, .. } | StoreError::NotInTrash { key }) => {
                Some(key.reference())
            }
            Self::NotApplied { error, .. } => error.address(),
            _ => None,
        }
    }

    /// What to do next, where the message does not say it already.
    pub fn hints(&self) -> Vec<String> {
        self.hint().into_iter().collect()
    }

    /// The message, with the store's advice on a line of its own; for texts that have no place for hints.
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
            Self::AlreadyStarted { address, .. } => Some(format!("go on with it: kugetsu continue {address}")),
            Self::InterruptedWhile { hint, .. } => Some(hint.clone()),
            Self::NoSession(address) => Some(format!("begin it: kugetsu start {address}")),
            Self::NoBase(_) => Some("make one inside a clone of the repository: kugetsu init".to_owned()),
            Self::BasePrompt { session, .. } => Some(format!(
                "no base was made, but opencode has the session: kugetsu init --adopt {session}, or opencode session delete {session}"
            )),
            Self::BaseExists { .. } => Some("replace it with: kugetsu init --force".to_owned()),
            Self::InitCutOff { session, .. } => Some(format!(
                "keep it: kugetsu init --force --adopt {session}; or begin anew after: opencode session delete {session}"
            )),
            Self::NotApplied { error, .. } => error.hint(),
            Self::Store(error) => error.hint().map(str::to_owned),
            Self::Lease(error) => error.hint().map(str::to_owned),
            // Only an issue's name has a `#`.
            Self::SessionGone { of, .. } if of.contains('#') => {
                Some("see what is orphaned with: kugetsu prune".to_owned())
            }
            Self::SessionGone { .. } => Some("make the base anew with: kugetsu init --force".to_owned()),
            Self::WrongDatabase { .. } => Some(
                "look at HOME, XDG_DATA_HOME and OPENCODE_DB; a single record is removed with: kugetsu destroy"
                    .to_owned(),
            ),
            Self::DirectoryGone { .. } => {
                Some("bring it back, or forget the session: kugetsu destroy".to_owned())
            }
            Self::Worktree { source, .. } => source.hint(),
            Self::Hook { log, .. } => Some(format!("what it said is in {}", log.display())),
            Self::StillRunning { hint, .. } => Some(hint.clone()),
            Self::Usage { hint, .. } | Self::NotFound { hint, .. } if !hint.is_empty() => Some(hint.clone()),
            Self::Transport(_) | Self::Server(_) => {
                Some("look for the cause with: kugetsu doctor".to_owned())
            }
            _ => None,
        }
    }
}

fn code_of_store(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::Full { .. }
        | StoreError::ReadOnly { .. }
        | StoreError::Permission { .. }
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

fn code_of_database(error: &DatabaseError) -> ErrorCode {
    if error.is_locked() {
        ErrorCode::DatabaseLocked
    } else {
        ErrorCode::DatabaseUnusable
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
    fn a_locked_database_is_worth_another_try_whatever_the_command() {
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
            };
            assert_eq!(error.code(), code);
        }
    }

    #[test]
    fn what_is_on_record_and_not_in_opencode_tells_why_it_is_not() {
        let error = EngineError::NotApplied {
            error: Box::new(EngineError::NoBase(
                RepoRef::try_from("a.b/c/d".to_owned()).unwrap(),
            )),
            then: "it goes by it",
        };
        assert_eq!(error.code(), ErrorCode::NoBase);
        assert_eq!(error.address().as_deref(), Some("a.b/c/d"));
        assert_eq!(error.hints().len(), 1);
        assert!(error.source().is_some());
    }
}
