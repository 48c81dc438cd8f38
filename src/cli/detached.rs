//! The supervisor process of a detached turn: its report to the command that started it, and the release of the streams
//! that it inherited from that command.

use std::cell::Cell;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::terminal::{Piece, Stream};
use kugetsu_api::{Address, ErrorDetail};
use kugetsu_engine::operations::{Engine, LastingLog, Subject};

/// The log of detached supervisors, in the session's folder.
const LOG: &str = LastingLog::Supervisor.file_name();

/// The one line that the new process writes to the command that started it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DetachReport {
    /// The turn is on record and runs.
    Ready { turn: Uuid, pid: u32 },
    /// A turn with this id is already on record.
    Recorded { turn: Uuid },
    /// No turn began.
    Failed(ErrorDetail),
}

/// The state of the supervisor process.
#[derive(Debug)]
pub(super) struct Detached {
    prompt: String,
    issue_title: Option<String>,
    /// Whether the command that started this process still waits for a report.
    awaited: Cell<bool>,
}

impl Detached {
    /// The state for a turn with this prompt. The command that started this process waits for one report.
    pub(super) fn new(prompt: String, issue_title: Option<String>) -> Self {
        Self {
            prompt,
            issue_title,
            awaited: Cell::new(true),
        }
    }

    pub(super) fn prompt(&self) -> String {
        self.prompt.clone()
    }

    /// The title of the issue whose text is a part of the prompt.
    pub(super) fn issue_title(&self) -> Option<String> {
        self.issue_title.clone()
    }

    /// Reports that the turn is on record, and releases the streams that were inherited from the command. Does not
    /// block.
    pub(super) fn ready(&self, turn: Uuid, address: &Address, engine: &Engine) {
        self.report(&DetachReport::Ready {
            turn,
            pid: std::process::id(),
        });
        let (engine, subject) = (engine.clone(), Subject::Session(address.clone()));
        tokio::task::spawn_blocking(move || {
            let log = engine.open_lasting_log(&subject, LastingLog::Supervisor);
            let log = log
                .inspect_err(|error| tracing::warn!("{LOG} cannot be opened: {error}"))
                .ok();
            if let Err(error) = release_streams(log) {
                tracing::warn!("the streams of the command that started this process stay open: {error}");
            }
        });
    }

    /// Whether the command that started this process still waits for a report.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.get()
    }

    /// Reports to the command that started this process, once.
    pub(super) fn report(&self, report: &DetachReport) {
        if self.awaited.replace(false) {
            let line = serde_json::to_vec(report).unwrap_or_default();
            // The command may have ended; the turn continues.
            let _ = Stream::Stdout.write(&[Piece::Json(&line), Piece::Own("\n")]);
        }
    }
}

/// Replaces stdin and stdout by the null device, and stderr by the log.
fn release_streams(log: Option<std::fs::File>) -> std::io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    let sink = rustix::fs::open("/dev/null", rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&sink)?;
    match log {
        Some(log) => rustix::stdio::dup2_stderr(&log)?,
        None => rustix::stdio::dup2_stderr(&sink)?,
    }
    Ok(())
}
