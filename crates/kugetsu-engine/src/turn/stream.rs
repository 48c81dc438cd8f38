//! Writes the public stream of a turn, `<turn>.events.jsonl`, and notifies readers of its growth.
//!
//! The file is the only buffer between a turn and its readers. The supervisor appends, and every reader, in this
//! process or another, follows the file. A slow or vanished reader cannot delay a turn.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use crate::money::print_usd;
pub use crate::opencode::tool_label;
use crate::redact::Redactor;
use crate::store::{RecordKey, Store, StoreError};
pub use kugetsu_api::{STREAM_SCHEMA as SCHEMA, StreamEvent, StreamLine};

/// A short description of the event for people; `None` for pieces of text, which are shown as text.
pub fn describe(event: &StreamEvent, redactor: &Redactor) -> Option<String> {
    // Secrets are masked before the text is cut; otherwise the beginning of a cut secret would remain.
    let cut = |text: &str| -> String {
        let clean = redactor.clean(text);
        let line = clean.lines().next().unwrap_or_default();
        line.chars().take(120).collect()
    };
    Some(match event {
        StreamEvent::AgentStart {
            transport, opencode, ..
        } => format!("turn through opencode {opencode} ({transport})"),
        StreamEvent::StepStart { step } => format!("step {step}"),
        StreamEvent::ToolExecutionStart { tool, input, .. } => cut(&tool_label(tool, "", input)),
        StreamEvent::ToolExecutionEnd {
            tool,
            error: Some(error),
            ..
        } => format!("{tool} failed: {}", cut(error)),
        StreamEvent::ToolExecutionEnd { tool, title, .. } => format!("{tool} done: {}", cut(title)),
        StreamEvent::Request { kind, detail, .. } => {
            format!("{kind} asked: {}", cut(&detail.to_string()))
        }
        StreamEvent::Response { answer, by, .. } => {
            format!("answered by {by}: {}", cut(&answer.to_string()))
        }
        StreamEvent::Notice { level, message } => format!("{level}: {}", cut(message)),
        StreamEvent::StepEnd {
            step,
            reason,
            cost_usd,
            tokens,
        } => {
            format!(
                "step {step} ended: {reason}, {} tokens, {}",
                tokens.total(),
                print_usd(*cost_usd)
            )
        }
        StreamEvent::MessageEnd {
            reasoning: false,
            text,
            ..
        } => format!("said: {}", cut(text)),
        StreamEvent::AgentEnd { .. }
        | StreamEvent::MessageStart { .. }
        | StreamEvent::MessageUpdate { .. }
        | StreamEvent::MessageEnd { .. }
        | StreamEvent::ToolExecutionUpdate { .. } => return None,
    })
}

/// Notifies readers in this process that the file has grown or is complete.
#[derive(Clone, Debug, Default)]
pub struct Growth(Arc<(Mutex<(u64, bool)>, Condvar)>);

impl Growth {
    fn set(&self, length: u64, over: bool) {
        let (state, changed) = &*self.0;
        *state.lock().unwrap_or_else(PoisonError::into_inner) = (length, over);
        changed.notify_all();
    }

    /// Waits until the file is longer than `read` or complete, or `at_most` has passed. Returns its length and whether
    /// it is complete.
    pub fn wait(&self, read: u64, at_most: Duration) -> (u64, bool) {
        let (state, changed) = &*self.0;
        let guard = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = changed
            .wait_timeout_while(guard, at_most, |(length, over)| *length <= read && !*over)
            .unwrap_or_else(PoisonError::into_inner);
        *guard
    }
}

/// The stream of a turn in progress, for a watcher to follow.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The file.
    pub path: PathBuf,
    /// Notifies of growth.
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

    /// The feed for a watcher.
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// Appends one event, without secrets. A full disk must not end a turn whose session is safe in opencode: the file
    /// then stops growing after a whole line, and the turn goes on.
    pub fn write(&mut self, event: StreamEvent, redactor: &Redactor) {
        if self.gap.is_some() {
            return;
        }
        if let Err(error) = self.append(event, redactor) {
            let _ = self.file.set_len(self.length);
            self.gap = Some(error.to_string());
        }
    }

    /// Appends the last line and, if lines before it are missing, a notice. Returns why lines are missing.
    pub fn end(mut self, end: StreamEvent, redactor: &Redactor) -> Option<String> {
        let gap = self.gap.take();
        if let Some(why) = &gap {
            let (level, message) = ("error".to_owned(), format!("events are missing here: {why}"));
            self.write(StreamEvent::Notice { level, message }, redactor);
        }
        self.write(end, redactor);
        gap.or_else(|| self.gap.take())
    }

    /// Why lines are missing, if known.
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
        kugetsu_api::json::append(&mut self.buffer, &line)?;
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
