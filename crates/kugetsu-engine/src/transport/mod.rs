//! How a turn reaches opencode: one child per turn (`run`) or its HTTP server (`serve`), behind one pair of traits.
//!
//! A transport turns what opencode says into [`TransportEvent`]s and nothing more: it gives no verdict, keeps no
//! record and waits for nothing by itself. Whoever drives it (the supervisor of the turn) owns time.

mod raw_log;
mod run;
mod serve;
mod serve_events;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

pub use run::OpencodeRun;
pub use serve::PrivateServer;

pub use crate::opencode::{ErrorPayload, Finish, ToolCall, ToolStatus};

use crate::opencode::{DatabaseError, Launch};
use crate::process::{Exit, ProcessError};
use kugetsu_api::{QuestionDetail, RequestDetail, SessionId, TokenCount, TransportKind};

/// A turn, as far as a transport needs to know it.
#[derive(Clone, Debug)]
pub struct TurnSpec {
    /// How opencode is started for it: in the session's directory, with its rules, marked with the turn's id.
    pub launch: Launch,
    /// Where opencode's own words go, as they come but for secrets.
    pub raw_log: Option<PathBuf>,
    /// `provider/model`, if not the session's own.
    pub model: Option<String>,
    /// The agent, if not the session's own.
    pub agent: Option<String>,
}

impl TurnSpec {
    /// The turn's id, which marks every process that it starts.
    pub fn turn(&self) -> Uuid {
        self.launch.containment.mark
    }
}

/// Where a prompt goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To this session.
    Session(SessionId),
    /// To a fork of this session that is made with the prompt.
    ForkOf(SessionId),
}

/// One way to reach opencode: it makes a link for one turn. A private server and `opencode run` are two of them.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Which way this is.
    fn kind(&self) -> TransportKind;

    /// Makes ready for one turn; asked again after opencode crashed in the middle of one. Nothing that is started here
    /// outlives the link, or this future where it is dropped.
    async fn connect(&self, spec: &TurnSpec) -> Result<Box<dyn TurnLink>, TransportError>;
}

/// The link to opencode for one turn, and one life of opencode in it. The contract, tested against every implementation
/// on every version:
///
/// - [`next`](TurnLink::next) is cancel-safe, and after [`TransportEvent::Ended`] it is not called again;
/// - after [`close`](TurnLink::close) nothing that the turn started is alive;
/// - a link that is dropped without it ends what the turn started within a second.
#[async_trait]
pub trait TurnLink: Send {
    /// Forks ahead of the first prompt. `None`: this link forks together with the prompt, and the fork's id arrives as
    /// [`TransportEvent::Session`].
    async fn fork(&mut self, base: &SessionId) -> Result<Option<SessionId>, TransportError>;

    /// Delivers the prompt, byte for byte.
    async fn prompt(&mut self, target: &Target, text: &str) -> Result<(), TransportError>;

    /// The next thing that opencode says.
    async fn next(&mut self) -> TransportEvent;

    /// Answers a permission request or a question.
    async fn answer(&mut self, request: &Request, answer: &Answer) -> Result<(), TransportError>;

    /// Asks opencode to end the turn; what follows still arrives as events.
    async fn abort(&mut self);

    /// Ends everything that the turn started. `now`: without the grace period.
    async fn close(&mut self, now: bool);
}

/// What opencode says during a turn, the same words for both transports.
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
        /// What is new.
        delta: String,
    },
    /// A part of the answer is complete.
    TextEnded {
        /// opencode's id of the part.
        part: String,
        /// True for reasoning.
        reasoning: bool,
        /// All of it.
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
    /// A model step of a subagent ended: it costs like any other, and says nothing about the turn's own answer.
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
    /// opencode waits and will ask the model again.
    Retrying {
        /// The number of the try that failed, from 1.
        attempt: u64,
        /// Why.
        message: String,
        /// When it asks again, where it says so.
        next: Option<Timestamp>,
    },
    /// opencode waits for a person.
    Asked(Request),
    /// A request was answered or withdrawn.
    Answered(String),
    /// Something went wrong in the turn.
    Error(ErrorPayload),
    /// Work went on that is told in no other event (a subagent's, a heartbeat of a running tool).
    Activity,
    /// Words of opencode that are no event: diagnostics.
    Notice(String),
    /// opencode said something that could not be read, so that a part of the answer may be missing: what it was.
    Unread(String),
    /// The turn is over for opencode, or opencode is gone.
    Ended(End),
}

/// Something that opencode asks a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// opencode's id, `per_...` or `que_...`.
    pub id: String,
    /// What is asked.
    pub kind: RequestKind,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum RequestKind {
    /// May this be done?
    Permission {
        /// The permission class.
        permission: String,
        /// What it applies to.
        patterns: Vec<String>,
    },
    /// Questions, each with its options.
    Question(Vec<Question>),
}

impl RequestKind {
    /// The word in events and records.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Permission { .. } => "permission",
            Self::Question(_) => "question",
        }
    }

    /// What is asked, for programs.
    pub fn detail(&self) -> RequestDetail {
        match self {
            Self::Permission { permission, patterns } => RequestDetail::Permission {
                permission: permission.clone(),
                patterns: patterns.clone(),
            },
            Self::Question(questions) => {
                let questions = questions.iter().map(|question| QuestionDetail {
                    header: question.header.clone(),
                    question: question.question.clone(),
                    options: question.options.clone(),
                    multiple: question.multiple,
                });
                RequestDetail::Questions(questions.collect())
            }
        }
    }
}

/// What is asked, for people, in one line.
impl std::fmt::Display for RequestKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Permission { permission, patterns } => {
                write!(f, "may it use {permission} on {}?", patterns.join(", "))
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

/// One question with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// A few words.
    pub header: String,
    /// The whole question.
    pub question: String,
    /// The labels that may be chosen.
    pub options: Vec<String>,
    /// More than one may be chosen.
    pub multiple: bool,
}

/// An answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The permission is given for this once.
    Allow,
    /// The permission is refused, or the question is not answered.
    Reject,
    /// For each question the labels chosen.
    Labels(Vec<Vec<String>>),
}

/// How the turn ended for opencode: evidence, no verdict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct End {
    /// How the process went away, for a transport with a process per turn or when the server died.
    pub exit: Option<Exit>,
    /// The model's reason for its last step, as the server answered.
    pub finish: Option<Finish>,
    /// What could not be delivered or heard.
    pub broken: Option<String>,
    /// opencode's last words on its standard error, oldest first.
    pub stderr: Vec<String>,
}

/// What keeps a turn from beginning.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// opencode could not be started.
    #[error("opencode could not be started: {0}")]
    Process(Arc<ProcessError>),
    /// The server never became ready.
    #[error("opencode serve did not become ready: {0}")]
    NotReady(String),
    /// The server refused or broke off a request.
    #[error("opencode serve failed on {request}: {message}")]
    Request {
        /// Method and path.
        request: String,
        /// What it answered, or how the connection broke.
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
        /// Which.
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
