//! The public stream of a turn: what `<turn>.events.jsonl` holds, a JSON object a line.
//!
//! The file is the only buffer between a turn and whoever watches it: the supervisor appends, and every
//! reader, in this process or another, follows the file. A slow or vanished reader cannot hold up a turn.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::redact::Redactor;
use crate::store::{RecordKey, Store, StoreError};
use kugetsu_api::{Proof, SessionId, TokenCount, TransportKind, Verdict};

/// The schema of every line.
pub const SCHEMA: u32 = 1;

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StreamLine {
    /// The schema of this line, 1.
    pub schema: u32,
    /// When it happened, RFC 3339 in UTC.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// The issue; the repository for a base's turn.
    #[serde(rename = "ref")]
    pub subject: String,
    /// The turn, a UUID v7.
    #[schemars(with = "String")]
    pub turn: Uuid,
    /// What happened.
    #[serde(flatten)]
    pub event: StreamEvent,
}

/// What happened. `agent_*` frames the turn as kugetsu knows it, `turn_*` a step of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent {
    /// The first line.
    AgentStart {
        /// How the turn reaches opencode.
        #[schemars(with = "String")]
        transport: TransportKind,
        /// opencode's version.
        opencode: String,
        /// The working directory.
        directory: PathBuf,
    },
    /// A step of the model begins.
    TurnStart {
        /// Which, from 1.
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
        /// What is new.
        delta: String,
    },
    /// A part of the answer is complete.
    MessageEnd {
        /// opencode's id of the part.
        message: String,
        /// True for reasoning.
        reasoning: bool,
        /// All of it.
        text: String,
    },
    /// A tool begins.
    ToolExecutionStart {
        /// The model's id of the call.
        call: String,
        /// The tool.
        tool: String,
        /// Its arguments.
        input: Value,
    },
    /// A tool goes on.
    ToolExecutionUpdate {
        /// The model's id of the call.
        call: String,
        /// The tool.
        tool: String,
        /// What it does, for people.
        title: String,
        /// Its arguments as known by now.
        input: Value,
    },
    /// A tool ended.
    ToolExecutionEnd {
        /// The model's id of the call.
        call: String,
        /// The tool.
        tool: String,
        /// What it did, for people.
        title: String,
        /// What it printed.
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
        /// What was asked: the permission and its patterns, or the questions with their options.
        detail: Value,
    },
    /// A request was answered.
    ExtensionUiResponse {
        /// opencode's id of the request.
        request: String,
        /// `"allow"`, `"reject"`, or for each question the labels chosen.
        answer: Value,
        /// `answers`, `supervisor` or `default`.
        by: String,
    },
    /// Words beside the work: an error, a retry, a diagnostic of opencode.
    Notice {
        /// `error`, `warning`, `retry`, `restart`, `control` (paused, resumed) or `diagnostic`.
        level: String,
        /// The words.
        message: String,
    },
    /// A step of the model ended.
    TurnEnd {
        /// Which, from 1.
        step: u64,
        /// The model's reason.
        reason: String,
        /// US dollars.
        cost_usd: f64,
        /// Tokens of the step.
        #[schemars(with = "Value")]
        tokens: TokenCount,
    },
    /// The last line.
    AgentEnd {
        /// How the turn ended.
        #[schemars(with = "String")]
        verdict: Verdict,
        /// Why; empty when completed.
        reason: String,
        /// The session, if one is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<String>")]
        session: Option<SessionId>,
        /// Model steps.
        steps: u64,
        /// Tool calls.
        tool_calls: u64,
        /// US dollars.
        cost_usd: f64,
        /// Tokens.
        #[schemars(with = "Value")]
        tokens: TokenCount,
        /// How long the turn took, in milliseconds.
        duration_ms: u64,
        /// How often opencode was started again after a crash.
        restarts: u32,
        /// When to try again, for a quota.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<String>")]
        retry_at: Option<Timestamp>,
        /// What the verdict rests on: the error as opencode reported it, the last events in words. Absent when completed.
        #[serde(default, skip_serializing_if = "Proof::is_empty")]
        #[schemars(with = "Value")]
        proof: Proof,
        /// The exit status of the command, unless a signal ended it.
        exit_status: u8,
    },
}

impl StreamEvent {
    /// Every type, as it stands in `type`.
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

    /// The event in a few words for people; `None` for pieces of text, which people read as text.
    pub fn in_words(&self, redactor: &Redactor) -> Option<String> {
        // Secrets go first: of one that is cut in two, the beginning would stay.
        let cut = |text: &str| -> String {
            let clean = redactor.clean(text);
            let line = clean.lines().next().unwrap_or_default();
            line.chars().take(120).collect()
        };
        Some(match self {
            Self::AgentStart {
                transport, opencode, ..
            } => format!("turn through opencode {opencode} ({transport})"),
            Self::TurnStart { step } => format!("step {step}"),
            Self::ToolExecutionStart { tool, input, .. } => format!("{tool} {}", cut(&input.to_string())),
            Self::ToolExecutionEnd {
                tool,
                error: Some(error),
                ..
            } => format!("{tool} failed: {}", cut(error)),
            Self::ToolExecutionEnd { tool, title, .. } => format!("{tool} done: {}", cut(title)),
            Self::ExtensionUiRequest { kind, detail, .. } => {
                format!("{kind} asked: {}", cut(&detail.to_string()))
            }
            Self::ExtensionUiResponse { answer, by, .. } => {
                format!("answered by {by}: {}", cut(&answer.to_string()))
            }
            Self::Notice { level, message } => format!("{level}: {}", cut(message)),
            Self::TurnEnd {
                step,
                reason,
                cost_usd,
                tokens,
            } => {
                format!(
                    "step {step} ended: {reason}, {} tokens, {cost_usd:.6} USD",
                    tokens.total()
                )
            }
            Self::MessageEnd {
                reasoning: false,
                text,
                ..
            } => format!("said: {}", cut(text)),
            Self::AgentEnd { .. }
            | Self::MessageStart { .. }
            | Self::MessageUpdate { .. }
            | Self::MessageEnd { .. }
            | Self::ToolExecutionUpdate { .. } => return None,
        })
    }
}

/// Tells readers in this process that the file has grown, or that nothing more will come.
#[derive(Clone, Debug, Default)]
pub struct Growth(Arc<(Mutex<(u64, bool)>, Condvar)>);

impl Growth {
    fn set(&self, length: u64, over: bool) {
        let (state, changed) = &*self.0;
        *state.lock().unwrap_or_else(PoisonError::into_inner) = (length, over);
        changed.notify_all();
    }

    /// Waits until the file is longer than `read` or complete, at most `at_most`: its length, and whether it
    /// is complete.
    pub fn wait(&self, read: u64, at_most: Duration) -> (u64, bool) {
        let (state, changed) = &*self.0;
        let guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = changed
            .wait_timeout_while(guard, at_most, |(length, over)| *length <= read && !*over)
            .unwrap_or_else(PoisonError::into_inner);
        *guard
    }
}

/// A turn's stream while it is written; what a watcher follows.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The file.
    pub path: PathBuf,
    /// When there is more.
    pub growth: Growth,
}

/// Writes the stream of one turn.
#[derive(Debug)]
pub struct StreamWriter {
    file: File,
    length: u64,
    feed: Feed,
    subject: String,
    turn: Uuid,
    buffer: Vec<u8>,
    /// Why the file has stopped growing.
    gap: Option<String>,
}

impl StreamWriter {
    /// Creates the file in the key's folder.
    pub fn open(store: &Store, key: &RecordKey, turn: Uuid) -> Result<Self, StoreError> {
        let name = format!("{turn}.events.jsonl");
        let file = store.open_log(key, &name)?;
        let feed = Feed {
            path: store.folder(key).join(name),
            growth: Growth::default(),
        };
        let subject = key.reference();
        Ok(Self {
            file,
            length: 0,
            feed,
            subject,
            turn,
            buffer: Vec::new(),
            gap: None,
        })
    }

    /// What a watcher follows.
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// Appends one event, without secrets. A full disk must not end a turn whose session is safe in opencode: the file
    /// stops growing, with a whole line, and the turn goes on.
    pub fn write(&mut self, event: StreamEvent, redactor: &Redactor) {
        if self.gap.is_some() {
            return;
        }
        if let Err(error) = self.append(event, redactor) {
            let _ = self.file.set_len(self.length);
            self.gap = Some(error.to_string());
        }
    }

    /// Appends the last line, also where lines are missing before it, and a notice of that. Gives why they are.
    pub fn end(mut self, end: StreamEvent, redactor: &Redactor) -> Option<String> {
        let gap = self.gap.take();
        if let Some(why) = &gap {
            let (level, message) = ("error".to_owned(), format!("events are missing here: {why}"));
            self.write(StreamEvent::Notice { level, message }, redactor);
        }
        self.write(end, redactor);
        gap.or_else(|| self.gap.take())
    }

    /// Why lines are missing, as far as is known.
    pub fn gap(&self) -> Option<&str> {
        self.gap.as_deref()
    }

    fn append(&mut self, event: StreamEvent, redactor: &Redactor) -> std::io::Result<()> {
        let line = StreamLine {
            schema: SCHEMA,
            time: Timestamp::now(),
            subject: self.subject.clone(),
            turn: self.turn,
            event,
        };
        self.buffer.clear();
        serde_json::to_writer(&mut self.buffer, &line)?;
        self.buffer.push(b'\n');
        let clean = redactor.clean_bytes(&self.buffer);
        self.file.write_all(&clean)?;
        self.length += clean.len() as u64;
        self.feed.growth.set(self.length, false);
        Ok(())
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.feed.growth.set(self.length, true);
    }
}
