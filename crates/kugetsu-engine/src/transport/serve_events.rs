//! opencode's event stream, put into the words of [`TransportEvent`].

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Response;
use serde_json::Value;
use tokio::sync::mpsc;

use super::serve::ServerReport;
use super::{
    ErrorPayload, Question, Request, RequestKind, ToolCall, ToolStatus, TransportError, TransportEvent,
};
use crate::fsx;
use crate::opencode::{Api, LineSplitter, SUBAGENT_TOOL, SplitLine, cost, error_summary, token_count};
use crate::redact::Redactor;
use kugetsu_api::SessionId;

/// How long to wait before the stream is opened again.
const REOPEN: Duration = Duration::from_millis(200);

/// Listens to one session and to the sessions of its subagents.
pub(super) struct Listener {
    session: SessionId,
    /// Sessions whose parent chain leads to ours: a subagent's request blocks our turn as well.
    family: HashSet<String>,
    /// Messages that are the user's: their parts are no answer.
    prompts: HashSet<String>,
    /// How much of each text part has been passed on, and whether it is reasoning.
    parts: HashMap<String, (usize, bool)>,
    raw: Option<std::fs::File>,
    redactor: Redactor,
}

impl Listener {
    pub(super) fn new(
        session: SessionId,
        raw_log: Option<&Path>,
        redactor: Redactor,
    ) -> Result<Self, TransportError> {
        let raw = raw_log.map(open_raw_log).transpose()?;
        Ok(Self {
            family: HashSet::from([session.as_str().to_owned()]),
            session,
            prompts: HashSet::new(),
            parts: HashMap::new(),
            raw,
            redactor,
        })
    }

    /// Passes on what the stream says until nobody listens; opens it again when it drops.
    pub(super) async fn run(mut self, api: Api, mut stream: Response, reports: mpsc::Sender<ServerReport>) {
        loop {
            let mut lines = LineSplitter::default();
            while let Ok(Some(chunk)) = stream.chunk().await {
                let mut out = Vec::new();
                lines.push(&chunk, |line| match line {
                    SplitLine::Whole(bytes) => self.line(bytes, &mut out),
                    SplitLine::TooLong { prefix, length } => self.too_long(prefix, length, &mut out),
                });
                for said in out {
                    if reports.send(said).await.is_err() {
                        return;
                    }
                }
            }
            loop {
                tokio::time::sleep(REOPEN).await;
                if reports.is_closed() {
                    return;
                }
                if let Ok(again) = api.events().await {
                    stream = again;
                    break;
                }
            }
        }
    }

    /// What cannot be read as an event is told, and its beginning kept.
    fn too_long(&mut self, prefix: &[u8], length: u64, out: &mut Vec<ServerReport>) {
        if let Some(raw) = &mut self.raw {
            let _ = raw.write_all(&self.redactor.clean_bytes(prefix));
            let _ = writeln!(raw, "[{length} bytes in all]");
        }
        let notice = format!("an event of {length} bytes was not read; its beginning is in the raw log");
        out.extend([TransportEvent::Notice(notice), TransportEvent::Activity].map(ServerReport::Event));
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<ServerReport>) {
        let Some(data) = line.strip_prefix(b"data:") else {
            return;
        };
        let Ok(event) = serde_json::from_slice::<Value>(data) else {
            return;
        };
        let properties = &event["properties"];
        let kind = event["type"].as_str().unwrap_or_default();
        let session = ["sessionID", "info", "part"]
            .iter()
            .find_map(|key| match &properties[*key] {
                Value::String(id) => Some(id.as_str()),
                nested => nested["sessionID"].as_str(),
            })
            .unwrap_or_default();
        if kind == "session.created" {
            let parent = properties["info"]["parentID"].as_str().unwrap_or_default();
            if self.family.contains(parent) {
                let child = properties["info"]["id"].as_str().unwrap_or_default();
                self.family.insert(child.to_owned());
            }
        }
        if !self.family.contains(session) {
            return;
        }
        if let Some(raw) = &mut self.raw {
            let _ = raw.write_all(&self.redactor.clean_bytes(data.trim_ascii()));
            let _ = raw.write_all(b"\n");
        }
        if let "permission.asked" | "question.asked" = kind {
            out.extend(
                request(kind == "question.asked", properties)
                    .map(|r| ServerReport::Event(TransportEvent::Asked(r))),
            );
            return;
        }
        // A subagent that goes on in a session of an earlier turn makes no new one.
        if let Some(child) = properties["part"]["state"]["metadata"]["sessionId"].as_str()
            && properties["part"]["tool"] == SUBAGENT_TOOL
        {
            self.family.insert(child.to_owned());
        }
        if session == self.session.as_str() {
            self.own(kind, properties, out);
        } else {
            out.extend(subagent(kind, session, properties).map(ServerReport::Event));
        }
    }

    fn own(&mut self, kind: &str, properties: &Value, out: &mut Vec<ServerReport>) {
        let event = match kind {
            "session.idle" => {
                out.push(ServerReport::Idle);
                return;
            }
            "session.status" => retry(&properties["status"]),
            "session.error" => Some(TransportEvent::Error(error_payload(&properties["error"]))),
            "permission.replied" | "question.replied" | "question.rejected" => properties["requestID"]
                .as_str()
                .map(|id| TransportEvent::Answered(id.to_owned())),
            "message.updated" => {
                let info = &properties["info"];
                if info["role"] == "user" {
                    self.prompts
                        .insert(info["id"].as_str().unwrap_or_default().to_owned());
                }
                None
            }
            "message.part.delta" => self.delta(properties),
            "message.part.updated" => {
                self.missed(&properties["part"], out);
                self.part(&properties["part"])
            }
            _ => None,
        };
        out.extend(event.map(ServerReport::Event));
    }

    fn delta(&mut self, properties: &Value) -> Option<TransportEvent> {
        if self.is_prompt(properties) {
            return None;
        }
        if properties["field"] != "text" {
            return Some(TransportEvent::Activity);
        }
        let part = properties["partID"].as_str()?;
        let delta = properties["delta"].as_str().filter(|delta| !delta.is_empty())?;
        let (sent, reasoning) = self.parts.entry(part.to_owned()).or_default();
        *sent += delta.len();
        Some(TransportEvent::Text {
            part: part.to_owned(),
            reasoning: *reasoning,
            delta: delta.to_owned(),
        })
    }

    fn is_prompt(&self, value: &Value) -> bool {
        value["messageID"]
            .as_str()
            .is_some_and(|id| self.prompts.contains(id))
    }

    /// The end of a text that no delta told, because the stream was opened again in between.
    fn missed(&mut self, part: &Value, out: &mut Vec<ServerReport>) {
        let (Some("text" | "reasoning"), Some(id)) = (part["type"].as_str(), part["id"].as_str()) else {
            return;
        };
        if self.is_prompt(part) {
            return;
        }
        let entry = self.parts.entry(id.to_owned()).or_default();
        entry.1 = part["type"] == "reasoning";
        let text = part["text"].as_str().unwrap_or_default();
        let Some(new) = text.get(entry.0..).filter(|new| !new.is_empty()) else {
            return;
        };
        entry.0 = text.len();
        out.push(ServerReport::Event(TransportEvent::Text {
            part: id.to_owned(),
            reasoning: entry.1,
            delta: new.to_owned(),
        }));
    }

    fn part(&mut self, part: &Value) -> Option<TransportEvent> {
        if self.is_prompt(part) {
            return None;
        }
        match part["type"].as_str()? {
            "step-start" => Some(TransportEvent::StepStarted),
            "step-finish" => Some(TransportEvent::StepFinished {
                reason: finish_reason(part),
                cost_usd: cost(&part["cost"]),
                tokens: token_count(&part["tokens"]),
            }),
            kind @ ("text" | "reasoning") => {
                (!part["time"]["end"].is_null()).then(|| TransportEvent::TextEnded {
                    part: part["id"].as_str().unwrap_or_default().to_owned(),
                    reasoning: kind == "reasoning",
                    text: part["text"].as_str().unwrap_or_default().to_owned(),
                })
            }
            "tool" => Some(TransportEvent::Tool(tool_call(part))),
            _ => None,
        }
    }
}

/// What a subagent says. Its text and tools are progress. That it is busy is none: so it is between two tries that both
/// fail.
fn subagent(kind: &str, session: &str, properties: &Value) -> Option<TransportEvent> {
    let part = &properties["part"];
    match (kind, part["type"].as_str()) {
        ("session.status", _) => retry(&properties["status"]),
        ("message.part.updated", Some("step-finish")) => Some(TransportEvent::SubagentStep {
            session: session.to_owned(),
            reason: finish_reason(part),
            cost_usd: cost(&part["cost"]),
            tokens: token_count(&part["tokens"]),
        }),
        ("message.part.delta", _) | ("message.part.updated", Some("text" | "reasoning" | "tool")) => {
            Some(TransportEvent::Activity)
        }
        _ => None,
    }
}

fn finish_reason(part: &Value) -> String {
    part["reason"].as_str().unwrap_or("unknown").to_owned()
}

pub(super) fn open_raw_log(path: &Path) -> Result<std::fs::File, TransportError> {
    fsx::create_append(path).map_err(|error| TransportError::Log {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

fn tool_call(part: &Value) -> ToolCall {
    let state = &part["state"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    ToolCall {
        call: text(&part["callID"]).unwrap_or_default(),
        tool: text(&part["tool"]).unwrap_or_default(),
        status: match state["status"].as_str() {
            Some("running") => ToolStatus::Running,
            Some("completed") => ToolStatus::Completed,
            Some("error") => ToolStatus::Failed,
            _ => ToolStatus::Pending,
        },
        title: text(&state["title"]).unwrap_or_default(),
        input: state["input"].clone(),
        output: text(&state["output"]),
        error: text(&state["error"]),
    }
}

fn retry(status: &Value) -> Option<TransportEvent> {
    (status["type"] == "retry").then(|| TransportEvent::Retrying {
        attempt: status["attempt"].as_u64().unwrap_or(1),
        message: status["message"].as_str().unwrap_or("no reason given").to_owned(),
        next: status["next"]
            .as_f64()
            .and_then(|ms| Timestamp::from_millisecond(ms as i64).ok()),
    })
}

/// An error as opencode stores and sends it: `{name, data: {message, ...}}`.
pub(super) fn error_payload(error: &Value) -> ErrorPayload {
    let (name, message) = error_summary(error);
    ErrorPayload {
        name,
        message,
        payload: error.clone(),
    }
}

fn request(question: bool, value: &Value) -> Option<Request> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let kind = if question {
        RequestKind::Question(
            list(&value["questions"])
                .iter()
                .map(|question| Question {
                    header: text(&question["header"]),
                    question: text(&question["question"]),
                    options: list(&question["options"])
                        .iter()
                        .map(|option| text(&option["label"]))
                        .collect(),
                    multiple: question["multiple"] == true,
                })
                .collect(),
        )
    } else {
        RequestKind::Permission {
            permission: text(&value["permission"]),
            patterns: list(&value["patterns"]).iter().map(text).collect(),
        }
    };
    let id = value["id"].as_str()?.to_owned();
    Some(Request { id, kind })
}

/// Looks up, again and again, what waits on a person or on a retry: it shows nowhere else when an event is
/// lost. The server is this turn's own, so every request in it is this turn's, a subagent's included.
pub(super) async fn waiting(api: Api, reports: mpsc::Sender<ServerReport>, every: Duration) {
    let mut known = HashSet::new();
    loop {
        tokio::time::sleep(every).await;
        let mut events = Vec::new();
        for question in [false, true] {
            let listed = if question {
                api.questions().await
            } else {
                api.permissions().await
            };
            let Ok(Value::Array(listed)) = listed else {
                continue;
            };
            events.extend(
                listed
                    .iter()
                    .filter_map(|value| request(question, value))
                    .filter(|request| known.insert(request.id.clone()))
                    .map(TransportEvent::Asked),
            );
        }
        if let Ok(status) = api.status().await {
            let sessions = status.as_object().into_iter().flat_map(serde_json::Map::values);
            events.extend(sessions.filter_map(retry));
        }
        for event in events {
            if reports.send(ServerReport::Event(event)).await.is_err() {
                return;
            }
        }
    }
}
