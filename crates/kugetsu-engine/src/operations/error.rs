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
use kugetsu_api::{Address, RefError, RepoRef, SessionId, Verdict};

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
    Unknown(DatabaseError),
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
    /// A turn runs, and what was asked would pull the session from under it.
    #[error("{0} has a running turn")]
    Busy(String),
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
    Attach(std::io::Error),
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
        /// What.
        problem: String,
        /// What to do instead.
        hint: String,
    },
}

impl EngineError {
    /// The exit status of a command that fails so.
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Ref(_)
            | Self::Config(_)
            | Self::AlreadyStarted { .. }
            | Self::BaseExists { .. }
            | Self::InitCutOff { .. }
            | Self::Usage { .. } => ExitStatus::Usage,
            Self::Worktree { source, .. } => match source {
                WorktreeError::Refused { .. } => ExitStatus::Usage,
                WorktreeError::AtRisk { .. } => ExitStatus::Blocked,
                WorktreeError::Lost { .. } => ExitStatus::NotFound,
                WorktreeError::Git(_) | WorktreeError::File(_) => ExitStatus::Failed,
            },
            Self::Hook { .. } | Self::Panicked { .. } | Self::Internal(_) => ExitStatus::Failed,
            Self::NotApplied { error, .. } => error.exit_status(),
            Self::Interrupted(Interrupt::Terminated) => ExitStatus::Terminated,
            Self::Interrupted(_) => ExitStatus::Interrupted,
            Self::NoSession(_)
            | Self::NoBase(_)
            | Self::SessionGone { .. }
            | Self::DirectoryGone { .. }
            | Self::NotFound { .. } => ExitStatus::NotFound,
            Self::Store(StoreError::NotInTrash { .. }) => ExitStatus::NotFound,
            Self::Store(StoreError::Exists { .. }) => ExitStatus::Usage,
            Self::Store(error) if error.is_temporary() => ExitStatus::TryAgain,
            Self::Lease(LeaseError::Store(error)) if !error.is_temporary() => ExitStatus::CannotWrite,
            Self::Store(_) => ExitStatus::CannotWrite,
            Self::Lease(_) | Self::Busy(_) | Self::StillRunning { .. } | Self::Recorded(_) => {
                ExitStatus::TryAgain
            }
            Self::Database(error) if error.is_locked() => ExitStatus::TryAgain,
            Self::Transport(TransportError::Database(error)) if error.is_locked() => ExitStatus::TryAgain,
            // By a signal file: whoever got a signal tells that instead.
            Self::BasePrompt {
                verdict: Verdict::Aborted,
                ..
            } => ExitStatus::Terminated,
            Self::BasePrompt { verdict, .. } => verdict.exit_status(),
            Self::Opencode(_)
            | Self::Database(_)
            | Self::Unknown(_)
            | Self::WrongDatabase { .. }
            | Self::Transport(_)
            | Self::Server(_)
            | Self::Api(_)
            | Self::Process(_)
            | Self::Attach(_)
            | Self::Export { .. }
            | Self::Command { .. } => ExitStatus::Unavailable,
        }
    }

    /// What to do next, where the message does not say it already.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::AlreadyStarted { address, .. } => Some(format!("go on with it: kugetsu continue {address}")),
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
            Self::Busy(_) => Some("wait for it: kugetsu wait REF; or end it: kugetsu stop REF".to_owned()),
            Self::StillRunning { hint, .. } => Some(hint.clone()),
            Self::Usage { hint, .. } | Self::NotFound { hint, .. } if !hint.is_empty() => Some(hint.clone()),
            Self::Transport(_) | Self::Server(_) => {
                Some("look for the cause with: kugetsu doctor".to_owned())
            }
            _ => None,
        }
    }
}
