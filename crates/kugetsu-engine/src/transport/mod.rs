//! How a turn reaches opencode: through an HTTP server (`serve`), its own or a warm one, or through one process for each
//! prompt (`run`). Each is a [`Connector`], which makes a [`TurnLink`] for one turn.
//!
//! A transport turns the output of opencode into [`TransportEvent`]s. It gives no verdict, writes no record and sets no
//! time limit to a turn: those belong to the turn's supervisor.

mod auto;
mod pooled;
mod raw_log;
mod run;
mod serve;
mod serve_events;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

pub use auto::{AutoConnector, Connected};
pub use pooled::PooledServers;
pub use raw_log::RawLogFile;
pub use run::OpencodeRun;
pub use serve::PrivateServer;

pub use crate::opencode::{ErrorPayload, Finish, ToolCall, ToolStatus};

use crate::aside::aside;
use crate::opencode::{ConfigProblem, DatabaseError, Launch};
pub use crate::process::Exit;
use crate::process::{self, ProcessError};
use kugetsu_api::{QuestionDetail, RequestDetail, SessionId, TokenCount, TransportKind};

/// The part of a turn that a transport needs to know.
#[derive(Clone, Debug)]
pub struct TurnSpec {
    /// How opencode is started: in the session's directory, with the turn's rules, marked with the turn's id.
    pub launch: Launch,
    /// The file that keeps the output of opencode, with secrets masked.
    pub raw_log: Option<RawLogFile>,
    /// `provider/model`; `None` for the session's own.
    pub model: Option<String>,
    /// The agent; `None` for the session's own.
    pub agent: Option<String>,
}

impl TurnSpec {
    /// The turn's id, which marks every process that it starts.
    pub fn turn(&self) -> Uuid {
        self.launch.containment.mark
    }
}

/// The session that a prompt goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This session.
    Session(SessionId),
    /// A fork, which is made together with the prompt.
    ForkOf {
        /// The session to be forked.
        base: SessionId,
        /// The text that stands in the prompt of this fork and of no other one.
        mark: String,
    },
}

/// A request for the fork that becomes the turn's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkRequest {
    /// The session to be forked.
    pub base: SessionId,
    /// True if the fork works in another directory than the base, because the session has a worktree. The directory is
    /// that of [`TurnSpec::launch`].
    pub other_directory: bool,
}

/// A way to reach opencode, such as [`PrivateServer`] and [`OpencodeRun`]. A connector makes links, each for one turn.
#[async_trait]
pub trait Connector: Send + Sync {
    /// The kind of this connector, for records and events.
    fn kind(&self) -> TransportKind;

    /// Makes a link, and for a server waits until it is ready. Called again after opencode crashed during a turn.
    /// Nothing that is started here outlives the link, or this future if it is dropped.
    async fn connect(&self, spec: &TurnSpec) -> Result<Box<dyn TurnLink>, TransportError>;

    /// Ends everything that a dropped [`connect`](Connector::connect), or a dropped call of one of its links, has left
    /// of this turn. By default those are the processes that carry the turn's mark. Gives up after ten seconds.
    async fn abandon(&self, spec: &TurnSpec) {
        let turn = spec.turn();
        if let Err(error) = aside(move || process::sweep_marked(turn)).await {
            tracing::warn!("what turn {turn} had started could not be ended: {error}");
        }
    }
}

/// The link to opencode for one turn, until opencode ends or crashes. The contract, which the tests hold every
/// implementation to, on every version:
///
/// - [`next`](TurnLink::next) is cancel-safe, and after [`TransportEvent::Ended`] it is not called again;
/// - after [`close`](TurnLink::close) nothing that the turn started is alive;
/// - a link that is dropped without `close` ends what the turn started within a second.
#[async_trait]
pub trait TurnLink: Send {
    /// Whether [`fork`](TurnLink::fork) makes this fork. If not, the fork is made together with the prompt. The journal
    /// of a fork depends on it, so the answer is known before the fork is requested.
    fn forks_ahead(&self, request: &ForkRequest) -> bool;

    /// Makes the fork before the first prompt. Only for a link that [forks ahead](TurnLink::forks_ahead); the fork of
    /// any other link is made together with the prompt, and its id arrives as [`TransportEvent::Session`].
    async fn fork(&mut self, request: &ForkRequest) -> Result<SessionId, TransportError>;

    /// Delivers the prompt, byte for byte; to a fork that is made with it, with one line more, which has the mark.
    async fn prompt(&mut self, target: &Target, text: &str) -> Result<(), TransportError>;

    /// Waits for the next event.
    async fn next(&mut self) -> TransportEvent;

    /// Answers a permission request or a question.
    async fn answer(&mut self, request: &Request, answer: &Answer) -> Result<(), TransportError>;

    /// Asks opencode to end the turn. Its last output still arrives as events.
    async fn abort(&mut self);

    /// Ends everything that the turn started; with `now`, without the grace period.
    async fn close(&mut self, now: bool);
}

/// An event of a turn, the same for all transports.
#[derive(Clone, Debug, PartialEq)]
pub enum TransportEvent {
    /// The fork that was made with the prompt has this id.
    Session(SessionId),
    /// A model step begins.
    StepStarted,
    /// A piece of the answer (or of the reasoning), in order.
    Text {
        /// opencode's id of the part.
        part: String,
        /// True for reasoning.
        reasoning: bool,
        /// The text that is new.
        delta: String,
    },
    /// A part of the answer is complete.
    TextEnded {
        /// opencode's id of the part.
        part: String,
        /// True for reasoning.
        reasoning: bool,
        /// The whole text.
        text: String,
    },
    /// A tool call changed its state.
    Tool(ToolCall),
    /// A model step ended.
    StepFinished {
        /// The model's reason.
        reason: Finish,
        /// US dollars.
        cost_usd: f64,
        /// Tokens of the step.
        tokens: TokenCount,
    },
    /// A model step of a subagent ended. Its cost counts; it is not part of the turn's answer.
    SubagentStep {
        /// The subagent's session.
        session: String,
        /// The model's reason.
        reason: Finish,
        /// US dollars.
        cost_usd: f64,
        /// Tokens of the step.
        tokens: TokenCount,
    },
    /// A request to the model failed, and opencode will make it again.
    Retrying {
        /// The number of the failed attempt, from 1.
        attempt: u64,
        /// Why it failed.
        message: String,
        /// When the next attempt begins, if opencode reports it.
        next: Option<Timestamp>,
    },
    /// opencode waits for the answer to a request.
    Asked(Request),
    /// The request with this id was answered or withdrawn.
    Answered(String),
    /// An error in the turn.
    Error(ErrorPayload),
    /// Progress that no other event shows: a subagent works, or a tool that runs gives a sign of life.
    Activity,
    /// Output that is not an event, for diagnosis.
    Notice(String),
    /// A description of output that could not be read, so that a part of the answer may be missing.
    Unread(String),
    /// opencode has ended the turn, or has ended itself.
    Ended(End),
}

impl TransportEvent {
    /// Whether the model gave something with it: text, reasoning or a tool call.
    pub(crate) fn is_output(&self) -> bool {
        matches!(self, Self::Text { .. } | Self::TextEnded { .. } | Self::Tool(_))
    }
}

/// A request of opencode to a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// opencode's id, `per_...` or `que_...`.
    pub id: String,
    /// What it asks for.
    pub kind: RequestKind,
}

/// What a [`Request`] asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestKind {
    /// Permission to do something.
    Permission {
        /// The permission class.
        permission: String,
        /// The patterns that it applies to.
        patterns: Vec<String>,
    },
    /// Questions, each with its options.
    Question(Vec<QuestionDetail>),
}

impl RequestKind {
    /// The name of the kind in events and records.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::Permission { .. } => "permission",
            Self::Question(_) => "question",
        }
    }

    /// The details, for programs.
    pub fn detail(&self) -> RequestDetail {
        match self {
            Self::Permission { permission, patterns } => RequestDetail::Permission {
                permission: permission.clone(),
                patterns: patterns.clone(),
            },
            Self::Question(questions) => RequestDetail::Questions(questions.clone()),
        }
    }
}

/// One line for people.
impl std::fmt::Display for RequestKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Permission { permission, patterns } => {
                write!(f, "permission {permission} for {}", patterns.join(", "))
            }
            Self::Question(questions) => {
                for (at, question) in questions.iter().enumerate() {
                    let space = if at == 0 { "" } else { " " };
                    write!(
                        f,
                        "{space}{} [{}]",
                        question.question,
                        question.options.join(" | ")
                    )?;
                }
                Ok(())
            }
        }
    }
}

/// An answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Give the permission, for this request only.
    Allow,
    /// Refuse the permission, or leave the questions unanswered. opencode ends its work.
    Reject,
    /// Refuse the permission as a rule would: the model learns that it was refused, and continues. Like `Reject` for
    /// questions.
    Deny,
    /// The chosen labels, for each question.
    Labels(Vec<Vec<String>>),
}

/// How opencode ended the turn: evidence for a verdict, not a verdict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct End {
    /// How the process ended, for `run` and for a server that ended during the turn.
    pub exit: Option<Exit>,
    /// The model's reason for ending its last step, from the server's response to the prompt.
    pub finish: Option<Finish>,
    /// Why the prompt could not be delivered, or its result not received.
    pub broken: Option<String>,
    /// The last lines on opencode's standard error, oldest first.
    pub stderr: Vec<String>,
}

/// Why a transport cannot begin a turn, or cannot do what a turn asks for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// opencode could not be started.
    #[error("opencode could not be started: {0}")]
    Process(Arc<ProcessError>),
    /// The server never became ready.
    #[error("opencode serve did not become ready: {0}")]
    NotReady(String),
    /// opencode cannot read its configuration, over either way.
    #[error(transparent)]
    Config(ConfigProblem),
    /// The server refused a request, or the connection broke.
    #[error("opencode serve failed on {request}: {message}")]
    Request {
        /// Method and path.
        request: String,
        /// The server's response, or how the connection broke.
        message: String,
    },
    /// opencode does not know the session.
    #[error("opencode has no session {0}")]
    NoSuchSession(SessionId),
    /// opencode's database could not be read.
    #[error(transparent)]
    Database(Arc<DatabaseError>),
    /// A log file could not be opened.
    #[error("cannot write {path}: {message}")]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

impl From<ProcessError> for TransportError {
    fn from(error: ProcessError) -> Self {
        Self::Process(Arc::new(error))
    }
}

impl From<DatabaseError> for TransportError {
    fn from(error: DatabaseError) -> Self {
        Self::Database(Arc::new(error))
    }
}
