//! Encodes a turn's events as events of the public stream.

use std::collections::{HashMap, HashSet, VecDeque};

use serde::Serialize;
use serde_json::Value;

use super::answers::AnsweredBy;
use super::stream::{StreamEvent, StreamWriter, describe};
use crate::opencode::MAX_LINE;
use crate::redact::{Pieces, Redactor};
use crate::transport::{Answer, ErrorPayload, Request, ToolCall, ToolStatus, TransportEvent};
use kugetsu_api::{Proof, RequestAnswer};

/// The limit of the answer text kept beside the stream, in bytes. `opencode run` cannot give a longer one either.
pub(crate) const MAX_ANSWER: usize = MAX_LINE;
/// The size limit, in bytes, up to which an error is kept whole: some errors hold the whole request.
const ERROR_LIMIT: usize = 4 * 1024;
/// The part of the stream with what opencode stored and its events did not have.
const STORED_PART: &str = "stored-answer";
/// How many recent events are kept as text.
const LAST: usize = 5;

/// The part that is kept of an error above the limit.
#[derive(Serialize)]
struct ShortError<'a> {
    name: &'a str,
    message: &'a str,
}

/// Keeps the state that distinguishes a new part from the continuation of one.
#[derive(Debug)]
pub(super) struct StreamEncoder {
    redactor: Redactor,
    /// Text of a part that might be the beginning of a secret.
    withheld: HashMap<String, Pieces>,
    step: u64,
    parts: HashSet<String>,
    /// The title and the arguments that the stream has last of each tool call that runs.
    tools: HashMap<String, (String, Value)>,
    /// The text of the last step that had any.
    answer: String,
    /// Whether that text is longer than what is kept of it.
    answer_cut: bool,
    /// Whether the next text starts a new answer.
    fresh: bool,
    /// The recent events as text.
    last: VecDeque<String>,
    /// The first problem with reading opencode's output.
    unread: Option<String>,
}

impl StreamEncoder {
    pub(super) fn new(redactor: Redactor) -> Self {
        Self {
            redactor,
            withheld: HashMap::new(),
            step: 0,
            parts: HashSet::new(),
            tools: HashMap::new(),
            answer: String::new(),
            answer_cut: false,
            fresh: true,
            last: VecDeque::new(),
            unread: None,
        }
    }

    pub(super) fn write(&mut self, stream: &mut StreamWriter, event: StreamEvent) {
        self.remember(&event);
        stream.write(event, &self.redactor);
    }

    /// Writes the last line. Returns why earlier lines are missing, if they are.
    pub(super) fn end(mut self, stream: StreamWriter, event: StreamEvent) -> Option<String> {
        self.remember(&event);
        let cut = || format!("of an answer, only {MAX_ANSWER} bytes are kept apart from the log");
        let cut = self.answer_cut.then(cut);
        stream.end(event, &self.redactor).or(self.unread).or(cut)
    }

    /// Whether a text of opencode is known to be missing.
    pub(super) fn lacks_text(&self) -> bool {
        self.unread.is_some()
    }

    /// Adds the text of the last answer that the events did not have, as a part of its own.
    pub(super) fn complete(&mut self, stored: Result<String, u64>, stream: &mut StreamWriter) {
        let stored = match stored {
            Ok(text) => self.redactor.clean(&text).into_owned(),
            Err(length) => {
                let why =
                    || format!("opencode stored an answer of {length} bytes, which is too long to be read");
                self.unread.get_or_insert_with(why);
                return;
            }
        };
        // opencode removes white space from the end of a text when it stores it.
        if stored.trim_end() == self.answer.trim_end() {
            return;
        }
        let missing = match stored.strip_prefix(&self.answer) {
            Some(missing) => missing.to_owned(),
            None => {
                self.fresh = true;
                stored.clone()
            }
        };
        self.begin_part(STORED_PART, false, stream);
        self.piece(STORED_PART, false, missing.clone(), stream);
        self.write(
            stream,
            StreamEvent::MessageEnd {
                message: STORED_PART.to_owned(),
                reasoning: false,
                text: missing,
            },
        );
        self.unread = None;
    }

    /// Whether lines are known to be missing from the stream.
    pub(super) fn has_gap(&self, stream: &StreamWriter) -> bool {
        self.unread.is_some() || self.answer_cut || stream.gap().is_some()
    }

    fn remember(&mut self, event: &StreamEvent) {
        if let Some(words) = describe(event, &self.redactor)
            && self.last.back() != Some(&words)
        {
            if self.last.len() == LAST {
                self.last.pop_front();
            }
            self.last.push_back(words);
        }
    }

    /// The evidence for a verdict: the recent events and this error, without secrets.
    pub(super) fn proof(&self, error: Option<&ErrorPayload>) -> Proof {
        let error = error.map(|error| {
            let whole = error.payload.to_string();
            let kept = if whole.len() > ERROR_LIMIT || error.payload.is_null() {
                let error = ShortError {
                    name: &error.name,
                    message: &error.message,
                };
                serde_json::to_string(&error).unwrap_or_default()
            } else {
                whole
            };
            let clean = self.redactor.clean(&kept);
            serde_json::from_str(&clean).unwrap_or_else(|_| Value::from(clean.as_ref()))
        });
        Proof {
            error,
            last_events: self.last.iter().cloned().collect(),
        }
    }

    pub(super) fn answer(&self) -> String {
        self.answer.clone()
    }

    pub(super) fn encode(&mut self, event: &TransportEvent, stream: &mut StreamWriter) {
        match event {
            TransportEvent::StepStarted => {
                self.step += 1;
                self.fresh = true;
                let step = self.step;
                self.write(stream, StreamEvent::StepStart { step });
            }
            TransportEvent::Text {
                part,
                reasoning,
                delta,
            } => self.text(part, *reasoning, delta, stream),
            TransportEvent::TextEnded {
                part,
                reasoning,
                text,
            } => {
                self.begin_part(part, *reasoning, stream);
                let rest = self.withheld.remove(part).map(|mut pieces| pieces.finish());
                if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
                    self.piece(part, *reasoning, rest, stream);
                }
                self.write(
                    stream,
                    StreamEvent::MessageEnd {
                        message: part.clone(),
                        reasoning: *reasoning,
                        text: text.clone(),
                    },
                );
            }
            TransportEvent::Tool(call) => self.tool(call, stream),
            TransportEvent::StepFinished {
                reason,
                cost_usd,
                tokens,
            } => {
                let step = self.step;
                self.write(
                    stream,
                    StreamEvent::StepEnd {
                        step,
                        reason: reason.to_string(),
                        cost_usd: *cost_usd,
                        tokens: *tokens,
                    },
                );
            }
            TransportEvent::Retrying { attempt, message, .. } => {
                self.notice("retry", &format!("attempt {attempt}: {message}"), stream);
            }
            TransportEvent::Error(error) => {
                self.notice("error", &format!("{}: {}", error.name, error.message), stream);
            }
            TransportEvent::Notice(text) => self.notice("diagnostic", text, stream),
            TransportEvent::Unread(text) => {
                self.notice("error", text, stream);
                self.unread.get_or_insert_with(|| text.clone());
            }
            TransportEvent::Session(_)
            | TransportEvent::SubagentStep { .. }
            | TransportEvent::Asked(_)
            | TransportEvent::Answered(_)
            | TransportEvent::Activity
            | TransportEvent::Ended(_) => {}
        }
    }

    fn begin_part(&mut self, part: &str, reasoning: bool, stream: &mut StreamWriter) {
        if self.parts.insert(part.to_owned()) {
            let message = part.to_owned();
            self.write(stream, StreamEvent::MessageStart { message, reasoning });
        }
    }

    fn text(&mut self, part: &str, reasoning: bool, delta: &str, stream: &mut StreamWriter) {
        self.begin_part(part, reasoning, stream);
        let delta = if self.redactor.is_empty() {
            delta.to_owned()
        } else {
            let pieces = self.withheld.entry(part.to_owned()).or_default();
            pieces.push(&self.redactor, delta)
        };
        if !delta.is_empty() {
            self.piece(part, reasoning, delta, stream);
        }
    }

    fn piece(&mut self, part: &str, reasoning: bool, delta: String, stream: &mut StreamWriter) {
        if !reasoning {
            if std::mem::take(&mut self.fresh) {
                self.answer.clear();
                self.answer_cut = false;
            }
            let room = MAX_ANSWER.saturating_sub(self.answer.len());
            self.answer_cut |= room < delta.len();
            self.answer
                .push_str(&delta[..delta.floor_char_boundary(room.min(delta.len()))]);
        }
        self.write(
            stream,
            StreamEvent::MessageUpdate {
                message: part.to_owned(),
                reasoning,
                delta,
            },
        );
    }

    fn tool(&mut self, call: &ToolCall, stream: &mut StreamWriter) {
        let told = self.tools.get(&call.call);
        let first = told.is_none();
        // opencode repeats the arguments with each piece of the tool's output, which is not in the stream.
        let news = told.is_none_or(|(title, input)| *title != call.title || *input != call.input);
        if first {
            self.write(
                stream,
                StreamEvent::ToolExecutionStart {
                    call: call.call.clone(),
                    tool: call.tool.clone(),
                    input: call.input.clone(),
                },
            );
        }
        match call.status {
            ToolStatus::Completed | ToolStatus::Failed => self.write(
                stream,
                StreamEvent::ToolExecutionEnd {
                    call: call.call.clone(),
                    tool: call.tool.clone(),
                    title: call.title.clone(),
                    output: call.output.clone(),
                    error: call.error.clone(),
                },
            ),
            ToolStatus::Pending | ToolStatus::Running if !first && news => self.write(
                stream,
                StreamEvent::ToolExecutionUpdate {
                    call: call.call.clone(),
                    tool: call.tool.clone(),
                    title: call.title.clone(),
                    input: call.input.clone(),
                },
            ),
            ToolStatus::Pending | ToolStatus::Running => {}
        }
        let told = match call.status {
            // Nothing more will come of it.
            ToolStatus::Completed | ToolStatus::Failed => (String::new(), Value::Null),
            // A start has no title.
            ToolStatus::Pending | ToolStatus::Running if first => (String::new(), call.input.clone()),
            ToolStatus::Pending | ToolStatus::Running if news => (call.title.clone(), call.input.clone()),
            ToolStatus::Pending | ToolStatus::Running => return,
        };
        self.tools.insert(call.call.clone(), told);
    }

    pub(super) fn asked(&mut self, request: &Request, stream: &mut StreamWriter) {
        self.write(
            stream,
            StreamEvent::Request {
                request: request.id.clone(),
                kind: request.kind.kind_name().to_owned(),
                detail: request.kind.detail(),
            },
        );
    }

    pub(super) fn answered(
        &mut self,
        request: &Request,
        answer: &Answer,
        by: AnsweredBy,
        stream: &mut StreamWriter,
    ) {
        let answer = match answer {
            Answer::Allow => RequestAnswer::Decision("allow".to_owned()),
            Answer::Reject | Answer::Deny => RequestAnswer::Decision("reject".to_owned()),
            Answer::Labels(labels) => RequestAnswer::Labels(labels.clone()),
        };
        self.write(
            stream,
            StreamEvent::Response {
                request: request.id.clone(),
                answer,
                by: by.as_str().to_owned(),
            },
        );
    }

    pub(super) fn notice(&mut self, level: &str, message: &str, stream: &mut StreamWriter) {
        let (level, message) = (level.to_owned(), message.to_owned());
        self.write(stream, StreamEvent::Notice { level, message });
    }
}
