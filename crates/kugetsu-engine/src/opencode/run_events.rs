//! The lines that `opencode run --format json` prints, as events.
//!
//! Measured on 1.3.2 and 1.18.33, which differ in the order of keys only: one JSON object a line with `type`, `timestamp`
//! (epoch milliseconds), `sessionID`, and `part` or, for `error`, `error`. A tool is reported once, when it has ended;
//! reasoning only with `--thinking`. There is no final event. Notices come on stderr, with ANSI codes, and may
//! stand between the events where both go into one pipe.

use std::borrow::Cow;

use serde_json::{Map, Value};

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
    ToolUse {
        /// The model's id of the call.
        call: String,
        /// The tool's name.
        tool: String,
        /// `completed` or `error`.
        status: String,
        /// What it did, in a few words.
        title: Option<String>,
        /// What the model passed.
        input: Value,
        /// What the tool answered.
        output: Option<String>,
        /// Why it failed.
        error: Option<String>,
    },
    /// A request to the model has been answered.
    StepFinish {
        /// `stop`, `tool-calls`, `length`, `unknown`, ...
        reason: String,
        /// What it cost, in US dollars.
        cost_usd: f64,
        /// What it used.
        tokens: TokenCount,
    },
    /// The turn failed.
    Error {
        /// `APIError`, `UnknownError`, ...
        name: String,
        /// For people; the name where it has none.
        message: String,
        /// All of it.
        payload: Value,
    },
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
    let value = serde_json::from_slice(line).or_else(|error| {
        // Invalid UTF-8 inside an event is no reason to lose the event.
        match String::from_utf8_lossy(line) {
            Cow::Owned(repaired) => serde_json::from_str(&repaired),
            Cow::Borrowed(_) => Err(error),
        }
    });
    match value {
        Ok(Value::Object(object)) => event(object),
        _ => RunLine::Notice(notice(line)),
    }
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

/// Reads opencode's `tokens` object, as it stands in events, stored messages and API answers. What is missing or no
/// number counts as 0.
pub fn token_count(tokens: &Value) -> TokenCount {
    let count = |value: &Value| {
        // A float beyond the range of u64 becomes the nearest one that is in it.
        value
            .as_u64()
            .or_else(|| value.as_f64().map(|float| float as u64))
            .unwrap_or(0)
    };
    TokenCount {
        input: count(&tokens["input"]),
        output: count(&tokens["output"]),
        reasoning: count(&tokens["reasoning"]),
        cache_read: count(&tokens["cache"]["read"]),
        cache_write: count(&tokens["cache"]["write"]),
    }
}

/// The name and the message of opencode's `error` object, as it stands in events, stored messages and API answers.
pub fn error_summary(error: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let name = text(&error["name"]).unwrap_or_else(|| "Error".to_owned());
    let message = text(&error["data"]["message"])
        .or_else(|| text(&error["message"]))
        .or_else(|| text(error))
        .unwrap_or_else(|| name.clone());
    (name, message)
}

fn event(mut object: Map<String, Value>) -> RunLine {
    let kind = string(object.get_mut("type")).unwrap_or_default();
    let session = string(object.get_mut("sessionID")).and_then(SessionId::new);
    let timestamp_ms = object.get("timestamp").map_or(0, milliseconds);
    let mut part = object.remove("part").unwrap_or_default();
    let message = string(part.get_mut("messageID"));
    match event_kind(&kind, &mut part, object.remove("error")) {
        Some(kind) => RunLine::Event(RunEvent {
            session,
            message,
            timestamp_ms,
            kind,
        }),
        None => RunLine::Unknown { kind, session },
    }
}

fn event_kind(kind: &str, part: &mut Value, error: Option<Value>) -> Option<RunEventKind> {
    Some(match kind {
        "step_start" => RunEventKind::StepStart,
        "text" | "reasoning" => {
            let text = string(part.get_mut("text"))?;
            let part = string(part.get_mut("id")).unwrap_or_default();
            if kind == "text" {
                RunEventKind::Text { part, text }
            } else {
                RunEventKind::Reasoning { part, text }
            }
        }
        "tool_use" => {
            let tool = string(part.get_mut("tool"))?;
            let call = string(part.get_mut("callID")).unwrap_or_default();
            let state = part.get_mut("state")?;
            RunEventKind::ToolUse {
                call,
                tool,
                status: string(state.get_mut("status"))?,
                title: string(state.get_mut("title")),
                input: state.get_mut("input").map(Value::take).unwrap_or_default(),
                output: string(state.get_mut("output")),
                error: string(state.get_mut("error")),
            }
        }
        "step_finish" => RunEventKind::StepFinish {
            reason: string(part.get_mut("reason"))?,
            cost_usd: cost(&part["cost"]),
            tokens: token_count(&part["tokens"]),
        },
        "error" => {
            let payload = error?;
            let (name, message) = error_summary(&payload);
            RunEventKind::Error {
                name,
                message,
                payload,
            }
        }
        _ => return None,
    })
}

/// A cost in US dollars; 0 for what can be none.
pub(crate) fn cost(value: &Value) -> f64 {
    value
        .as_f64()
        .filter(|cost| cost.is_finite() && *cost >= 0.0)
        .unwrap_or(0.0)
}

fn milliseconds(value: &Value) -> i64 {
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|float| float as i64))
        .unwrap_or(0)
}

/// Takes the string out of its place.
fn string(place: Option<&mut Value>) -> Option<String> {
    match place.map(Value::take) {
        Some(Value::String(text)) => Some(text),
        _ => None,
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
