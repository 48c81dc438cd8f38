//! The lines that `opencode run --format json` prints, as events.
//!
//! Measured on 1.3.2 and 1.18.33, which differ in the order of keys only: one JSON object a line with `type`, `timestamp`
//! (epoch milliseconds), `sessionID`, and `part` or, for `error`, `error`. A tool is reported once, when it has ended;
//! reasoning only with `--thinking`. There is no final event. Notices come on stderr, with ANSI codes, and may
//! stand between the events where both go into one pipe.

use std::borrow::Cow;

use serde::de::MapAccess;
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

use super::message::Part;
use super::tolerant::{self, Tolerant, tolerant};
use super::{ErrorPayload, Finish, ToolCall, ToolStatus};
use kugetsu_api::{SessionId, TokenCount};

/// What is kept of a line that is no event, in bytes.
const MAX_NOTICE: usize = 8 * 1024;

/// One line of output.
#[derive(Clone, Debug, PartialEq)]
pub enum RunLine {
    /// An event.
    Event(RunEvent),
    /// Text that is no JSON object: a diagnostic, without ANSI codes and control characters, at most 8 KiB of it.
    Notice(String),
    /// A JSON object that is no event as known.
    Unknown {
        /// Its `type`; empty where it has none.
        kind: String,
        /// The session that it names.
        session: Option<SessionId>,
    },
}

/// An event of a turn.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEvent {
    /// The session that it belongs to.
    pub session: Option<SessionId>,
    /// The stored message that it belongs to.
    pub message: Option<String>,
    /// When it was printed, in milliseconds since the epoch; 0 where it does not say.
    pub timestamp_ms: i64,
    /// What happened.
    pub kind: RunEventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEventKind {
    /// A request to the model has begun to be answered.
    StepStart,
    /// A piece of the answer, complete.
    Text {
        /// The stored part.
        part: String,
        /// The text.
        text: String,
    },
    /// A piece of the model's reasoning, complete.
    Reasoning {
        /// The stored part.
        part: String,
        /// The text.
        text: String,
    },
    /// A tool call that has ended.
    Tool(ToolCall),
    /// A request to the model has been answered.
    StepFinish {
        /// Why the model ended the step.
        reason: Finish,
        /// What it cost, in US dollars.
        cost_usd: f64,
        /// What it used.
        tokens: TokenCount,
    },
    /// The turn failed.
    Error(ErrorPayload),
}

/// A permission that was asked for and refused because nobody is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedPermission {
    /// The class.
    pub permission: String,
    /// The inputs, as opencode lists them.
    pub patterns: String,
}

/// Reads one line. Never fails: what is no event is a notice or unknown.
pub fn parse_line(line: &[u8]) -> RunLine {
    let object = tolerant::from_slice(line).or_else(|error| {
        // Invalid UTF-8 inside an event is no reason to lose the event.
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

/// Whether a line that is too long to be read is a piece of the answer, by its beginning. Quotes inside of a JSON string
/// have a backslash before them.
pub fn begins_as_text(prefix: &[u8]) -> bool {
    memchr::memmem::find(prefix, b"\"type\":\"text\"").is_some()
}

/// Reads the notice `permission requested: CLASS (INPUTS); auto-rejecting`, which `run` prints for every `ask`.
/// The turn ends after the step in which it came (measured on 1.3.2 and 1.18.33).
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

/// A value that is there, `null` included.
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

    /// `None` where the type is not known, or what an event of this type must have is missing.
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
                // What has ended in a way that is not known has not ended well.
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
