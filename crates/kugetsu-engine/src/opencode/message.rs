//! Messages and their parts. The objects are the same in the events of `run` and of the server, in the answers of the
//! API, in the database and in an export (measured on 1.3.2 and 1.18.33).
//!
//! Of a user's message, only `role` matters. An assistant's message has `cost`, `tokens`, `finish` if the model
//! answered, and `error` if it did not (then without `finish`). One turn makes one message of the user and one message
//! of the assistant for each step.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

use super::ErrorPayload;
use super::tolerant::{Tolerant, tolerant, tolerant_objects};
use kugetsu_api::TokenCount;

/// The tool that starts a subagent and waits for it.
pub(super) const SUBAGENT_TOOL: &str = "task";

/// The author of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The user: a prompt.
    User,
    /// The model: a step of an answer.
    Assistant,
    /// An unknown author.
    #[default]
    Other,
}

impl Tolerant for Role {
    fn from_text(text: &str) -> Self {
        match text {
            "user" => Self::User,
            "assistant" => Self::Assistant,
            _ => Self::Other,
        }
    }
}

/// Why the model ended a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Finish {
    /// The answer is complete.
    Stop,
    /// The model waits for the results of tools.
    ToolCalls,
    /// The model reached its output limit.
    Length,
    /// The provider withheld the rest of the answer.
    ContentFilter,
    /// The model's stream ended without a reason.
    #[default]
    Unknown,
    /// A reason that kugetsu does not know.
    Other(String),
}

impl Finish {
    /// opencode's name for the reason.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::ToolCalls => "tool-calls",
            Self::Length => "length",
            Self::ContentFilter => "content-filter",
            Self::Unknown => "unknown",
            Self::Other(name) => name,
        }
    }

    /// Whether the answer is complete. Some providers have their own name for `stop`, which opencode passes on.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Stop => true,
            Self::Other(name) => matches!(name.as_str(), "end_turn" | "end-turn"),
            _ => false,
        }
    }

    /// Whether the step made no progress. Such steps may repeat without end.
    pub fn is_idle(&self) -> bool {
        !self.is_over() && *self != Self::ToolCalls
    }
}

impl From<&str> for Finish {
    fn from(name: &str) -> Self {
        match name {
            "stop" => Self::Stop,
            "tool-calls" => Self::ToolCalls,
            "length" => Self::Length,
            "content-filter" => Self::ContentFilter,
            "unknown" => Self::Unknown,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// opencode's name for the reason.
impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Tolerant for Option<Finish> {
    fn from_text(text: &str) -> Self {
        Some(text.into())
    }
}

/// A tool call.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// The model's id of the call.
    pub call: String,
    /// The tool's name.
    pub tool: String,
    /// The status of the call.
    pub status: ToolStatus,
    /// opencode's title for people.
    pub title: String,
    /// Its arguments.
    pub input: Value,
    /// The tool's output, if the call succeeded.
    pub output: Option<String>,
    /// The tool's error, if the call failed.
    pub error: Option<String>,
}

impl ToolCall {
    /// Whether the tool waits for a subagent, which reports its own work.
    pub fn is_subagent(&self) -> bool {
        self.tool == SUBAGENT_TOOL
    }
}

/// The status of a tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolStatus {
    /// The model is writing the arguments.
    Pending,
    /// The tool runs.
    Running,
    /// The call succeeded.
    Completed,
    /// The call failed or was refused.
    Failed,
}

/// A message without its parts.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct MessageInfo {
    #[serde(deserialize_with = "tolerant")]
    pub(super) id: Option<String>,
    #[serde(rename = "sessionID", deserialize_with = "tolerant")]
    pub(super) session: Option<String>,
    /// The prompt that a step of an answer belongs to. For a session, which has the same place in an event: the session
    /// that started it as a subagent.
    #[serde(rename = "parentID", deserialize_with = "tolerant")]
    pub(super) parent: Option<String>,
    #[serde(deserialize_with = "tolerant")]
    pub(super) role: Role,
    #[serde(deserialize_with = "tolerant")]
    pub(super) finish: Option<Finish>,
    #[serde(deserialize_with = "error")]
    pub(super) error: Option<ErrorPayload>,
    #[serde(rename = "cost", deserialize_with = "cost_usd")]
    pub(super) cost_usd: f64,
    #[serde(deserialize_with = "token_count")]
    pub(super) tokens: TokenCount,
}

/// The type of a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PartType {
    Text,
    Reasoning,
    Tool,
    StepStart,
    StepFinish,
    #[default]
    Other,
}

impl Tolerant for PartType {
    fn from_text(text: &str) -> Self {
        match text {
            "text" => Self::Text,
            "reasoning" => Self::Reasoning,
            "tool" => Self::Tool,
            "step-start" => Self::StepStart,
            "step-finish" => Self::StepFinish,
            _ => Self::Other,
        }
    }
}

/// A part of a message, with the fields of all types of parts. Fields that the part's own type lacks are empty.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Part {
    #[serde(deserialize_with = "tolerant")]
    pub(super) id: Option<String>,
    #[serde(rename = "messageID", deserialize_with = "tolerant")]
    pub(super) message: Option<String>,
    #[serde(rename = "sessionID", deserialize_with = "tolerant")]
    pub(super) session: Option<String>,
    #[serde(rename = "type", deserialize_with = "tolerant")]
    pub(super) kind: PartType,
    #[serde(deserialize_with = "tolerant")]
    pub(super) text: Option<String>,
    /// True if opencode added the part, and neither the user nor the model wrote it.
    #[serde(deserialize_with = "tolerant")]
    pub(super) synthetic: bool,
    #[serde(deserialize_with = "tolerant")]
    pub(super) time: PartTime,
    #[serde(rename = "callID", deserialize_with = "tolerant")]
    pub(super) call: Option<String>,
    #[serde(deserialize_with = "tolerant")]
    pub(super) tool: Option<String>,
    #[serde(deserialize_with = "tolerant")]
    pub(super) state: ToolState,
    #[serde(deserialize_with = "tolerant")]
    pub(super) reason: Option<Finish>,
    #[serde(rename = "cost", deserialize_with = "cost_usd")]
    pub(super) cost_usd: f64,
    #[serde(deserialize_with = "token_count")]
    pub(super) tokens: TokenCount,
}

/// When a part was written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct PartTime {
    /// Absent while the part is being written.
    #[serde(deserialize_with = "tolerant")]
    pub(super) end: Option<Number>,
}

/// The state of a tool call.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ToolState {
    #[serde(deserialize_with = "tolerant")]
    pub(super) status: Option<String>,
    #[serde(deserialize_with = "tolerant")]
    pub(super) title: Option<String>,
    pub(super) input: Value,
    #[serde(deserialize_with = "tolerant")]
    pub(super) output: Option<String>,
    #[serde(deserialize_with = "tolerant")]
    pub(super) error: Option<String>,
    #[serde(deserialize_with = "tolerant")]
    pub(super) metadata: ToolMetadata,
}

/// Metadata of a tool call.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ToolMetadata {
    /// The session of the subagent that the tool started.
    #[serde(rename = "sessionId", deserialize_with = "tolerant")]
    pub(super) session: Option<String>,
}

impl Part {
    /// Converts the part to a tool call. `unknown` replaces a status that kugetsu does not know.
    pub(super) fn into_tool_call(self, unknown: ToolStatus) -> ToolCall {
        let status = match self.state.status.as_deref() {
            Some("pending") => ToolStatus::Pending,
            Some("running") => ToolStatus::Running,
            Some("completed") => ToolStatus::Completed,
            Some("error") => ToolStatus::Failed,
            _ => unknown,
        };
        ToolCall {
            call: self.call.unwrap_or_default(),
            tool: self.tool.unwrap_or_default(),
            status,
            title: self.state.title.unwrap_or_default(),
            input: self.state.input,
            output: self.state.output,
            error: self.state.error,
        }
    }

    /// The session of the subagent that this part is about. Only this part reports a subagent that continues in a
    /// session of an earlier turn, because no new session is created then.
    pub(super) fn subagent_session(&self) -> Option<&str> {
        let is_subagent = self.tool.as_deref() == Some(SUBAGENT_TOOL);
        self.state.metadata.session.as_deref().filter(|_| is_subagent)
    }
}

/// The answer of `POST /session/{id}/message` at the end of a turn: the turn's last message.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TurnAnswer {
    #[serde(deserialize_with = "tolerant")]
    info: MessageInfo,
    #[serde(deserialize_with = "tolerant")]
    parts: Vec<Part>,
}

impl TurnAnswer {
    /// Why the model ended its last step.
    pub fn finish(&self) -> Option<&Finish> {
        self.info.finish.as_ref()
    }

    /// The text of the last step.
    pub fn text(&self) -> String {
        self.parts
            .iter()
            .filter(|part| part.kind == PartType::Text && !part.synthetic)
            .filter_map(|part| part.text.as_deref())
            .collect()
    }
}

/// The `tokens` object.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Tokens {
    #[serde(deserialize_with = "count")]
    input: u64,
    #[serde(deserialize_with = "count")]
    output: u64,
    #[serde(deserialize_with = "count")]
    reasoning: u64,
    #[serde(deserialize_with = "tolerant")]
    cache: CacheTokens,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CacheTokens {
    #[serde(deserialize_with = "count")]
    read: u64,
    #[serde(deserialize_with = "count")]
    write: u64,
}

tolerant_objects!(
    MessageInfo,
    Part,
    PartTime,
    ToolState,
    ToolMetadata,
    TurnAnswer,
    Tokens,
    CacheTokens
);

fn token_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TokenCount, D::Error> {
    let tokens: Tokens = tolerant(deserializer)?;
    Ok(TokenCount {
        input: tokens.input,
        output: tokens.output,
        reasoning: tokens.reasoning,
        cache_read: tokens.cache.read,
        cache_write: tokens.cache.write,
    })
}

/// A number of tokens. A float outside the range of u64 becomes the nearest value in the range.
fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number: Option<Number> = tolerant(deserializer)?;
    Ok(number.map_or(0, |number| {
        let float = || number.as_f64().map(|float| float as u64);
        number.as_u64().or_else(float).unwrap_or(0)
    }))
}

/// A cost in US dollars; 0 if the value is not a valid cost.
fn cost_usd<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let number: Option<Number> = tolerant(deserializer)?;
    let cost = number.and_then(|number| number.as_f64());
    Ok(cost
        .filter(|cost| cost.is_finite() && *cost >= 0.0)
        .unwrap_or(0.0))
}

fn error<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ErrorPayload>, D::Error> {
    let payload = Value::deserialize(deserializer)?;
    Ok((!payload.is_null()).then(|| ErrorPayload::read(payload)))
}
