//! Messages and their parts, as they stand in the events of `run` and of the server, in the answers of the API, in the
//! database and in an export: everywhere the same objects (measured on 1.3.2 and 1.18.33).
//!
//! A user's message has nothing of interest but its `role`. An assistant's has `cost`, `tokens`, `finish` when the model
//! answered, and `error` when it did not (then without `finish`). One turn makes a user's message and one assistant's
//! message for each step.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

use super::ErrorPayload;
use super::tolerant::{Tolerant, tolerant, tolerant_objects};
use kugetsu_api::TokenCount;

/// The tool that starts a subagent and waits for it.
pub(super) const SUBAGENT_TOOL: &str = "task";

/// Who wrote a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The user: a prompt.
    User,
    /// The model: a step of an answer.
    Assistant,
    /// Not known.
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
    /// It has said all that it wanted to.
    Stop,
    /// It waits for the results of tools.
    ToolCalls,
    /// It reached its output limit.
    Length,
    /// Its provider withheld the rest.
    ContentFilter,
    /// For no reason: its stream ended without one.
    #[default]
    Unknown,
    /// In a word that is not known.
    Other(String),
}

impl Finish {
    /// opencode's word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::ToolCalls => "tool-calls",
            Self::Length => "length",
            Self::ContentFilter => "content-filter",
            Self::Unknown => "unknown",
            Self::Other(word) => word,
        }
    }

    /// Whether the model has said all that it wanted to. Some providers have a word of their own for `stop`, which
    /// opencode hands on.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Stop => true,
            Self::Other(word) => matches!(word.as_str(), "end_turn" | "end-turn"),
            _ => false,
        }
    }

    /// Whether the step said nothing: such a step may be followed by the next one without end.
    pub fn is_idle(&self) -> bool {
        !self.is_over() && *self != Self::ToolCalls
    }
}

impl From<&str> for Finish {
    fn from(word: &str) -> Self {
        match word {
            "stop" => Self::Stop,
            "tool-calls" => Self::ToolCalls,
            "length" => Self::Length,
            "content-filter" => Self::ContentFilter,
            "unknown" => Self::Unknown,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// opencode's word for it.
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
    /// Where it stands.
    pub status: ToolStatus,
    /// What opencode calls it for people.
    pub title: String,
    /// Its arguments.
    pub input: Value,
    /// What it printed, once it has ended well.
    pub output: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

impl ToolCall {
    /// Whether it waits for a subagent, which tells of its own work.
    pub fn is_subagent(&self) -> bool {
        self.tool == SUBAGENT_TOOL
    }
}

/// Where a tool call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolStatus {
    /// Its arguments are being written.
    Pending,
    /// It runs.
    Running,
    /// It ended well.
    Completed,
    /// It failed or was refused.
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
    /// Of a session, which stands in the same place of an event: the session that started it as a subagent.
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

/// What a part is.
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

/// A part of a message: the fields of all types of parts, empty where its own type has no such field.
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
    /// Added by opencode, not written by the user or the model.
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
    /// Absent while it is being written.
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

/// What a tool tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ToolMetadata {
    /// The session of the subagent that it started.
    #[serde(rename = "sessionId", deserialize_with = "tolerant")]
    pub(super) session: Option<String>,
}

impl Part {
    /// The tool call that this part is. `unknown` stands for a status that is not known.
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

    /// The session of the subagent that this part is about. A subagent that goes on in a session of an earlier turn
    /// makes no new session, so that only this tells of it.
    pub(super) fn subagent_session(&self) -> Option<&str> {
        let is_subagent = self.tool.as_deref() == Some(SUBAGENT_TOOL);
        self.state.metadata.session.as_deref().filter(|_| is_subagent)
    }
}

/// The end of a turn, as `POST /session/{id}/message` answers: its last message.
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

/// A number of tokens. A float beyond the range of u64 becomes the nearest one that is in it.
fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number: Option<Number> = tolerant(deserializer)?;
    Ok(number.map_or(0, |number| {
        let float = || number.as_f64().map(|float| float as u64);
        number.as_u64().or_else(float).unwrap_or(0)
    }))
}

/// A cost in US dollars; 0 for what cannot be a cost.
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
