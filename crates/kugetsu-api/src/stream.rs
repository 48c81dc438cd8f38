//! The public stream of a turn: the lines of `TURN.events.jsonl`, one JSON object per line.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    Changes, Proof, Refused, RequestAnswer, RequestDetail, SessionId, TokenCount, TransportKind, Verdict,
};

/// The schema of every line that this version writes.
pub const STREAM_SCHEMA: u32 = 2;

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StreamLine {
    /// The schema of this line: 2, or what `--events-schema` asks for.
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

/// One event. `agent_*` frames the turn as kugetsu sees it; `step_*` frames a step of the model.
/// The aliases are the names of schema 1, which logs of older versions have.
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
    #[serde(alias = "turn_start")]
    StepStart {
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
    #[serde(alias = "extension_ui_request")]
    Request {
        /// opencode's id of the request.
        request: String,
        /// `permission` or `question`.
        kind: String,
        /// The content of the request: the permission and its patterns, or the questions with their options.
        detail: RequestDetail,
    },
    /// A request was answered.
    #[serde(alias = "extension_ui_response")]
    Response {
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
    #[serde(alias = "turn_end")]
    StepEnd {
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

/// A version of the stream, which a reader asks for with `--events-schema`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventsSchema {
    /// With older names of some event types. The next version leaves it out.
    One,
    /// What this version writes.
    #[default]
    Two,
}

/// The event types of which the name has changed: in schema 1, and in schema 2.
const RENAMED: [(&str, &str); 4] = [
    ("turn_start", "step_start"),
    ("turn_end", "step_end"),
    ("extension_ui_request", "request"),
    ("extension_ui_response", "response"),
];

/// Every event type of schema 2.
const TYPES: [&str; 13] = [
    "agent_start",
    "step_start",
    "message_start",
    "message_update",
    "message_end",
    "tool_execution_start",
    "tool_execution_update",
    "tool_execution_end",
    "request",
    "response",
    "notice",
    "step_end",
    "agent_end",
];

impl EventsSchema {
    /// The names on the command line.
    pub const NAMES: [&str; 2] = ["1", "2"];

    fn number(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Two => "2",
        }
    }

    /// The name that this schema has for an event type of either schema.
    pub fn name(self, event_type: &str) -> &str {
        let pair = RENAMED
            .into_iter()
            .find(|(old, new)| [*old, *new].contains(&event_type));
        match (pair, self) {
            (None, _) => event_type,
            (Some((old, _)), Self::One) => old,
            (Some((_, new)), Self::Two) => new,
        }
    }

    /// Every event type, as in the field `type`.
    pub fn types(self) -> [&'static str; 13] {
        TYPES.map(|event_type| self.name(event_type))
    }

    /// A line of a turn's file in this schema, whichever of them it is written in. Other lines stay as they are.
    ///
    /// The line is not parsed, because most lines need no change. `schema` is its first field, and the first `type` is
    /// that of the line: before it are only a time, an address and an id, and JSON escapes quotes within texts.
    pub fn line(self, line: &[u8]) -> Cow<'_, [u8]> {
        const TYPE: &[u8] = b",\"type\":\"";
        let head = |schema: Self| format!("{{\"schema\":{schema},");
        let other = match self {
            Self::One => Self::Two,
            Self::Two => Self::One,
        };
        let Some(rest) = line.strip_prefix(head(other).as_bytes()) else {
            return Cow::Borrowed(line);
        };
        let named = rest
            .windows(TYPE.len())
            .position(|window| window == TYPE)
            .and_then(|at| {
                let (before, after) = rest.split_at(at + TYPE.len());
                let end = after.iter().position(|byte| *byte == b'"')?;
                let name = std::str::from_utf8(&after[..end]).ok()?;
                Some((before, self.name(name), &after[end..]))
            });
        let Some((before, name, after)) = named else {
            return Cow::Borrowed(line);
        };
        Cow::Owned([head(self).as_bytes(), before, name.as_bytes(), after].concat())
    }

    /// The JSON Schema of a line in this schema, from that of the line that this version writes.
    pub(crate) fn of(self, mut schema: Schema) -> Schema {
        fn rename(value: &mut Value, to: EventsSchema) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(name)) = fields.get_mut("const") {
                        *name = to.name(name).to_owned();
                    }
                    fields.values_mut().for_each(|value| rename(value, to));
                }
                Value::Array(values) => values.iter_mut().for_each(|value| rename(value, to)),
                _ => {}
            }
        }
        if let Some(fields) = schema.as_object_mut() {
            fields.values_mut().for_each(|value| rename(value, self));
        }
        schema
    }
}

impl fmt::Display for EventsSchema {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.number())
    }
}

impl FromStr for EventsSchema {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1" => Ok(Self::One),
            "2" => Ok(Self::Two),
            _ => Err(format!("`{text}` is not a schema of events: use 1 or 2")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(schema: u32, event_type: &str) -> String {
        format!(
            r#"{{"schema":{schema},"time":"2026-01-01T00:00:00Z","ref":"a.b/c/d#1","turn":"01a1fbdd-6d77-7679-95ff-a3c0af00cef8","type":"{event_type}","input":{{"schema":1,"type":"turn_end","a":"\",\"type\":\"request\""}}}}"#
        )
    }

    #[test]
    fn only_the_schema_and_the_type_of_a_line_change() {
        for (old, new) in EventsSchema::One.types().into_iter().zip(TYPES) {
            let (old, new) = (line(1, old), line(2, new));
            for (schema, expected) in [(EventsSchema::One, &old), (EventsSchema::Two, &new)] {
                for written in [&old, &new] {
                    let read = schema.line(written.as_bytes());
                    assert_eq!(String::from_utf8_lossy(&read), *expected);
                }
            }
        }
        for other in [
            &line(3, "turn_start"),
            "",
            "{\"schema\":1,",
            "{\"schema\":1,\"type\":\"turn_start",
            "\u{1b}[",
        ] {
            assert_eq!(&*EventsSchema::Two.line(other.as_bytes()), other.as_bytes());
        }
    }
}
