//! The event stream of `opencode serve` (`GET /event`), measured on 1.3.2 and 1.18.33: server-sent events, each one
//! `data:` line with `{type, properties}`.

use reqwest::Response;
use serde::Deserialize;
use serde_json::Value;

use super::message::{MessageInfo, Part, PartType};
use super::requests::{PermissionAsked, QuestionAsked, QuestionsAsked, Retry, SessionStatus};
use super::tolerant::{self, tolerant, tolerant_objects};
use super::{ErrorPayload, Finish, LineSplitter, Role, SplitLine, ToolCall, ToolStatus};
use kugetsu_api::TokenCount;

/// The event stream of one connection.
///
/// Parsed by hand: eventsource-stream, the usual library, keeps an event of any length in memory and copies its buffer
/// for each line.
pub struct EventStream {
    response: Response,
    lines: LineSplitter,
}

/// One item of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamedEvent<'a> {
    /// An event, for [`ServerEvent::parse`].
    Whole(&'a [u8]),
    /// An event of more than [`MAX_LINE`](super::MAX_LINE) bytes, which is not parsed.
    TooLong {
        /// The beginning of the event.
        prefix: &'a [u8],
        /// The length of the event, in bytes.
        length: u64,
    },
}

impl EventStream {
    pub(super) fn new(response: Response) -> Self {
        Self {
            response,
            lines: LineSplitter::default(),
        }
    }

    /// Waits for bytes and passes each completed event to `each`. False if the stream has ended.
    pub async fn read(&mut self, mut each: impl FnMut(StreamedEvent<'_>)) -> bool {
        let Ok(Some(chunk)) = self.response.chunk().await else {
            return false;
        };
        self.lines.push(&chunk, |line| match line {
            SplitLine::Whole(line) => {
                if let Some(data) = line.strip_prefix(b"data:") {
                    each(StreamedEvent::Whole(data.trim_ascii()));
                }
            }
            SplitLine::TooLong { prefix, length } => each(StreamedEvent::TooLong { prefix, length }),
        });
        true
    }
}

/// An event of the server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerEvent {
    /// The session that the event is about; empty if it names none.
    pub session: String,
    /// The session of a subagent that the event reports, new or continued.
    pub subagent: Option<Subagent>,
    /// The content of the event.
    pub kind: ServerEventKind,
}

/// A session of a subagent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subagent {
    /// The session.
    pub session: String,
    /// The session that started it.
    pub parent: String,
}

/// The content of the event.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerEventKind {
    /// The session went idle.
    Idle,
    /// A request to the model failed, and opencode will retry it.
    Retrying(Retry),
    /// opencode reported an error.
    Error(ErrorPayload),
    /// opencode requests a permission.
    PermissionAsked(PermissionAsked),
    /// The model asks questions.
    QuestionsAsked(QuestionsAsked),
    /// A request was answered or withdrawn.
    RequestClosed {
        /// `per_...` or `que_...`
        request: String,
    },
    /// A message was created or changed.
    Message {
        /// `msg_...`
        message: String,
        /// The author of the message.
        role: Role,
    },
    /// Content was added to a part of a message.
    Delta {
        /// `msg_...`
        message: Option<String>,
        /// `prt_...`
        part: Option<String>,
        /// The added text; `None` if another field grew.
        text: Option<String>,
    },
    /// A part of a message was created or changed.
    Part {
        /// `msg_...`
        message: Option<String>,
        /// The part's current state.
        state: PartState,
    },
    /// Anything else.
    Other,
}

/// The current state of a part.
#[derive(Clone, Debug, PartialEq)]
pub enum PartState {
    /// A step has begun.
    StepStarted,
    /// A step has ended.
    StepFinished {
        /// Why the model ended the step.
        reason: Finish,
        /// The step's cost, in US dollars.
        cost_usd: f64,
        /// The tokens that the step used.
        tokens: TokenCount,
    },
    /// Text of the answer or of the reasoning.
    Text {
        /// `prt_...`
        part: Option<String>,
        /// True for reasoning.
        reasoning: bool,
        /// The whole text so far.
        text: String,
        /// Whether the text is complete.
        ended: bool,
    },
    /// A tool call.
    Tool(ToolCall),
    /// Anything else.
    Other,
}

impl ServerEvent {
    /// Reads an event. `None` if it is not valid JSON.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let Event {
            event_type,
            properties,
        } = tolerant::from_slice(data).ok()?;
        let session = [
            &properties.session,
            &properties.info.session,
            &properties.part.session,
        ];
        let session = session.into_iter().flatten().next().cloned().unwrap_or_default();
        let subagent = if event_type == "session.created" {
            let (session, parent) = (properties.info.id.clone(), properties.info.parent.clone());
            session
                .zip(parent)
                .map(|(session, parent)| Subagent { session, parent })
        } else {
            properties.part.subagent_session().map(|subagent| Subagent {
                session: subagent.to_owned(),
                parent: session.clone(),
            })
        };
        Some(Self {
            session,
            subagent,
            kind: properties.into_kind(&event_type),
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Event {
    #[serde(rename = "type", deserialize_with = "tolerant")]
    event_type: String,
    #[serde(deserialize_with = "tolerant")]
    properties: Properties,
}

/// The properties of all types of events. Properties that the event's own type lacks are empty.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Properties {
    #[serde(rename = "sessionID", deserialize_with = "tolerant")]
    session: Option<String>,
    #[serde(deserialize_with = "tolerant")]
    info: MessageInfo,
    #[serde(deserialize_with = "tolerant")]
    part: Part,
    #[serde(deserialize_with = "tolerant")]
    status: SessionStatus,
    error: Value,
    /// The id of a new request.
    #[serde(deserialize_with = "tolerant")]
    id: String,
    #[serde(deserialize_with = "tolerant")]
    permission: String,
    #[serde(deserialize_with = "tolerant")]
    patterns: Vec<String>,
    #[serde(deserialize_with = "tolerant")]
    questions: Vec<QuestionAsked>,
    /// The id of an answered request.
    #[serde(rename = "requestID", deserialize_with = "tolerant")]
    request: Option<String>,
    #[serde(rename = "messageID", deserialize_with = "tolerant")]
    delta_message: Option<String>,
    #[serde(rename = "partID", deserialize_with = "tolerant")]
    delta_part: Option<String>,
    #[serde(rename = "field", deserialize_with = "tolerant")]
    delta_field: String,
    #[serde(deserialize_with = "tolerant")]
    delta: String,
}

tolerant_objects!(Event, Properties);

impl Properties {
    fn into_kind(self, event_type: &str) -> ServerEventKind {
        match event_type {
            "session.idle" => ServerEventKind::Idle,
            "session.status" => match self.status.into_retry() {
                Some(retry) => ServerEventKind::Retrying(retry),
                None => ServerEventKind::Other,
            },
            "session.error" => ServerEventKind::Error(ErrorPayload::read(self.error)),
            "permission.asked" => ServerEventKind::PermissionAsked(PermissionAsked {
                id: self.id,
                permission: self.permission,
                patterns: self.patterns,
            }),
            "question.asked" => ServerEventKind::QuestionsAsked(QuestionsAsked {
                id: self.id,
                questions: self.questions,
            }),
            "permission.replied" | "question.replied" | "question.rejected" => match self.request {
                Some(request) => ServerEventKind::RequestClosed { request },
                None => ServerEventKind::Other,
            },
            "message.updated" => ServerEventKind::Message {
                message: self.info.id.unwrap_or_default(),
                role: self.info.role,
            },
            "message.part.delta" => ServerEventKind::Delta {
                message: self.delta_message,
                part: self.delta_part,
                text: (self.delta_field == "text").then_some(self.delta),
            },
            "message.part.updated" => ServerEventKind::Part {
                message: self.part.message.clone(),
                state: self.part.into(),
            },
            _ => ServerEventKind::Other,
        }
    }
}

impl From<Part> for PartState {
    fn from(part: Part) -> Self {
        match part.kind {
            PartType::StepStart => Self::StepStarted,
            PartType::StepFinish => Self::StepFinished {
                reason: part.reason.unwrap_or_default(),
                cost_usd: part.cost_usd,
                tokens: part.tokens,
            },
            PartType::Text | PartType::Reasoning => Self::Text {
                part: part.id,
                reasoning: part.kind == PartType::Reasoning,
                text: part.text.unwrap_or_default(),
                ended: part.time.end.is_some(),
            },
            PartType::Tool => Self::Tool(part.into_tool_call(ToolStatus::Pending)),
            PartType::Other => Self::Other,
        }
    }
}
