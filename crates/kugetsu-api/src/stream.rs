//! The public stream of a turn: the lines of `TURN.events.jsonl`, one JSON object per line.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    Changes, Proof, Refused, RequestAnswer, RequestDetail, SessionId, TokenCount, TransportKind, Verdict,
};

/// The schema of every line.
pub const STREAM_SCHEMA: u32 = 1;

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StreamLine {
    /// The schema of this line, 1.
    pub schema: u32,
    /// When it happened, RFC 3339 in UTC.
    pub time: Timestamp,
    /// The session's address, or the repository for a base's turn.
    #[serde(rename = "ref")]
    pub subject: String,
    /// The turn's id, a UUID v7.
    pub turn: Uuid,
    /// The event.
    #[serde(flatten)]
    pub event: StreamEvent,
}

/// One event. `agent_*` frames the turn as kugetsu sees it; `turn_*` frames a step of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent {
    /// The first line.
    AgentStart {
        /// How the turn reaches opencode.
        transport: TransportKind,
        /// opencode's version.
        opencode: String,
        /// The working directory.
        directory: PathBuf,
    },
    /// A step of the model begins.
    TurnStart {
        /// The step's number, from 1.
        step: u64,
    },
    /// A part of the answer begins.
    MessageStart {
        /// opencode's id of the part.
        message: String,
        /// True for reasoning.
        reasoning: bool,
    },
    /// A piece of the answer.
    MessageUpdate {
        /// opencode's id of the part.
        message: String,
        /// True for reasoning.
        reasoning: bool,
        /// The new text.
        delta: String,
    },
    /// A part of the answer is complete.
    MessageEnd {
        /// opencode's id of the part.
        message: String,
        /// True for reasoning.
        reasoning: bool,
        /// The whole text.
        text: String,
    },
    /// A tool begins.
    ToolExecutionStart {
        /// The model's id of the call.
        call: String,
        /// The tool.
        tool: String,
        /// The tool's arguments.
        input: Value,
    },
    /// A running tool reports progress.
    ToolExecutionUpdate {
        /// The model's id of the call.
        call: String,
        /// The tool.
        tool: String,
        /// A description for people.
        title: String,
        /// The arguments known so far.
        input: Value,
    },
    /// A tool ended.
    ToolExecutionEnd {
        /// The model's id of the call.
        call: String,
        /// The tool.
        tool: String,
        /// A description for people.
        title: String,
        /// The tool's output.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<String>,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// opencode asked a person.
    ExtensionUiRequest {
        /// opencode's id of the request.
        request: String,
        /// `permission` or `question`.
        kind: String,
        /// The content of the request: the permission and its patterns, or the questions with their options.
        detail: RequestDetail,
    },
    /// A request was answered.
    ExtensionUiResponse {
        /// opencode's id of the request.
        request: String,
        /// `"allow"`, `"reject"`, or the chosen labels for each question.
        answer: RequestAnswer,
        /// The source of the answer: `answers`, `supervisor` or `default`.
        by: String,
    },
    /// A message about the turn: an error, a retry, a diagnostic of opencode.
    Notice {
        /// `error`, `warning`, `note`, `retry`, `restart`, `control` (paused, resumed) or `diagnostic`.
        level: String,
        /// The text.
        message: String,
    },
    /// A step of the model ended.
    TurnEnd {
        /// The step's number, from 1.
        step: u64,
        /// The model's finish reason.
        reason: String,
        /// US dollars.
        cost_usd: f64,
        /// Tokens of the step.
        tokens: TokenCount,
    },
    /// The last line.
    AgentEnd {
        /// How the turn ended.
        verdict: Verdict,
        /// The reason; empty when completed.
        reason: String,
        /// The session, if one is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<SessionId>,
        /// Model steps.
        steps: u64,
        /// Tool calls.
        tool_calls: u64,
        /// US dollars.
        cost_usd: f64,
        /// Tokens.
        tokens: TokenCount,
        /// How long the turn took, in milliseconds.
        duration_ms: u64,
        /// How often opencode was started again after a crash.
        restarts: u32,
        /// When to try again, for a quota.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
        /// The evidence for the verdict: the error as opencode reported it, and the last events as text. Absent when
        /// completed.
        #[serde(default, skip_serializing_if = "Proof::is_empty")]
        proof: Proof,
        /// What changed in the git clone. Absent if the session works in no clone, or if git did not tell in time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        changes: Option<Box<Changes>>,
        /// The tool calls that were refused. Absent if none was.
        #[serde(default, skip_serializing_if = "Refused::is_empty")]
        refused: Refused,
        /// The exit status of the command, unless a signal ended the command.
        exit_status: u8,
    },
}

impl StreamEvent {
    /// Every event type, as in the field `type`.
    pub const TYPES: [&str; 13] = [
        "agent_start",
        "turn_start",
        "message_start",
        "message_update",
        "message_end",
        "tool_execution_start",
        "tool_execution_update",
        "tool_execution_end",
        "extension_ui_request",
        "extension_ui_response",
        "notice",
        "turn_end",
        "agent_end",
    ];
}
