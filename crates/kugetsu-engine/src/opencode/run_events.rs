//! Parses the lines of `opencode run --format json` into events.
//!
//! Measured on 1.3.2 and 1.18.33, which differ only in the order of keys: each line is a JSON object with `type`,
//! `timestamp` (epoch milliseconds), `sessionID`, and `part` or, for `error`, `error`. A tool is reported once, after
//! it has ended; reasoning is reported only with `--thinking`. There is no final event. Notices go to stderr, with ANSI
//! codes, and appear between the events if both outputs share one pipe.

use std::borrow::Cow;

use serde::de::MapAccess;
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

use super::message::Part;
use super::tolerant::{self, Tolerant, tolerant};
use super::{ErrorPayload, Finish, ToolCall, ToolStatus};
use kugetsu_api::{SessionId, TokenCount};

/// The longest notice that is kept, in bytes.
const MAX_NOTICE: usize = 8 * 1024;

/// One line of output.
#[derive(Clone, Debug, PartialEq)]
pub enum RunLine {
    /// An event.
    Event(RunEvent),
    /// A diagnostic that is not a JSON object, without ANSI codes and control characters, at most 8 KiB of it.
    Notice(String),
    /// A JSON object that is not a known event.
    Unknown {
        /// The object's `type`; empty if it has none.
        kind: String,
        /// The session that the object names.
        session: Option<SessionId>,
    },
}

/// An event of a turn.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEvent {
    /// The event's session.
    pub session: Option<SessionId>,
    /// The stored message that the event belongs to.
    pub message: Option<String>,
    /// The time of the event, in milliseconds since the epoch; 0 if the event has none.
    pub timestamp_ms: i64,
    /// The content of an event.
    pub kind: RunEventKind,
}

/// The content of an event.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEventKind {
    /// The model began to answer a request.
    StepStart,
    /// A complete piece of the answer.
    Text {
        /// The stored part.
        part: String,
        /// The text.
        text: String,
    },
    /// A complete piece of the model's reasoning.
    Reasoning {
        /// The stored part.
        part: String,
        /// The text.
        text: String,
    },
    /// An ended tool call.
    Tool(ToolCall),
    /// The model has answered a request.
    StepFinish {
        /// Why the model ended the step.
        reason: Finish,
        /// The step's cost, in US dollars.
        cost_usd: f64,
        /// The tokens that the step used.
        tokens: TokenCount,
    },
    /// The turn failed.
    Error(ErrorPayload),
}

/// A permission request that `run` refused because no person can answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedPermission {
    /// The permission class.
    pub permission: String,
    /// The inputs, as opencode lists them.
    pub patterns: String,
}

/// Reads one line. Never fails: a line that is not an event is a notice or unknown.
pub fn parse_line(line: &[u8]) -> RunLine {
    let object = tolerant::from_slice(line).or_else(|error| {
        // An event with invalid UTF-8 is still an event.
        match String::from_utf8_lossy(line) {
            Cow::Owned(repaired) => tolerant::from_slice(repaired.as_bytes()),
            Cow::Borrowed(_) => Err(error),
        }
    });
    match object {
        Ok(Some(object)) => LineObject::into_line(object),
        _ => RunLine::Notice(notice(line)),
    }
}

/// Whether a line or an event that is too long to be read is a piece of the answer, judged by its beginning. Quotes
/// inside a JSON string have a backslash before them.
pub fn begins_as_text(prefix: &[u8]) -> bool {
    // A part, whole or as it grows.
    let marks: [&[u8]; 2] = [b"\"type\":\"text\"", b"\"field\":\"text\""];
    marks
        .iter()
        .any(|mark| memchr::memmem::find(prefix, mark).is_some())
}

/// Reads the notice `permission requested: CLASS (INPUTS); auto-rejecting`, which `run` prints for every `ask`. The
/// turn ends after the step with the notice (measured on 1.3.2 and 1.18.33).
pub fn rejected_permission(notice: &str) -> Option<RejectedPermission> {
    let (_, request) = notice.split_once("permission requested: ")?;
    let (request, _) = request.rsplit_once("; auto-rejecting")?;
    let (permission, patterns) = request.split_once(" (").unwrap_or((request, ""));
    Some(RejectedPermission {
        permission: permission.to_owned(),
        patterns: patterns.strip_suffix(')').unwrap_or(patterns).to_owned(),
    })
}

/// A line that is a JSON object.
#[derive(Default, Deserialize)]
#[serde(default)]
struct LineObject {
    #[serde(rename = "type", deserialize_with = "tolerant")]
    event_type: String,
    #[serde(rename = "sessionID", deserialize_with = "tolerant")]
    session: Option<String>,
    #[serde(deserialize_with = "tolerant")]
    timestamp: Option<Number>,
    #[serde(deserialize_with = "tolerant")]
    part: Part,
    #[serde(deserialize_with = "present")]
    error: Option<Value>,
}

impl Tolerant for Option<LineObject> {
    fn from_object<'de, A: MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
        LineObject::deserialize(MapAccessDeserializer::new(object)).map(Some)
    }
}

/// A value that is present, `null` included.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl LineObject {
    fn into_line(mut self) -> RunLine {
        let session = self.session.take().and_then(SessionId::new);
        let timestamp_ms = self.timestamp.take().map_or(0, |number| {
            let float = || number.as_f64().map(|float| float as i64);
            number.as_i64().or_else(float).unwrap_or(0)
        });
        let message = self.part.message.take();
        let event_type = std::mem::take(&mut self.event_type);
        match self.into_kind(&event_type) {
            Some(kind) => RunLine::Event(RunEvent {
                session,
                message,
                timestamp_ms,
                kind,
            }),
            None => RunLine::Unknown {
                kind: event_type,
                session,
            },
        }
    }

    /// `None` if the type is not known, or if a required field of the type is missing.
    fn into_kind(self, event_type: &str) -> Option<RunEventKind> {
        let part = self.part;
        Some(match event_type {
            "step_start" => RunEventKind::StepStart,
            "text" => RunEventKind::Text {
                part: part.id.unwrap_or_default(),
                text: part.text?,
            },
            "reasoning" => RunEventKind::Reasoning {
                part: part.id.unwrap_or_default(),
                text: part.text?,
            },
            "tool_use" => {
                part.tool.as_ref()?;
                part.state.status.as_ref()?;
                // An unknown final status counts as a failure.
                RunEventKind::Tool(part.into_tool_call(ToolStatus::Failed))
            }
            "step_finish" => RunEventKind::StepFinish {
                reason: part.reason?,
                cost_usd: part.cost_usd,
                tokens: part.tokens,
            },
            "error" => RunEventKind::Error(ErrorPayload::read(self.error?)),
            _ => return None,
        })
    }
}

/// The text without ANSI sequences and other control characters.
pub(super) fn notice(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(MAX_NOTICE)]);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                // CSI: parameters up to a final byte.
                Some('[') => {
                    chars.by_ref().find(|c| ('@'..='~').contains(c));
                }
                // OSC: up to BEL or ESC \.
                Some(']') => {
                    while let Some(c) = chars.by_ref().find(|c| matches!(c, '\u{7}' | '\u{1b}')) {
                        if c == '\u{7}' || chars.next_if_eq(&'\\').is_some() {
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\t' => plain.push(' '),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain.trim().to_owned()
}
