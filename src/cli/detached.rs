//! The supervisor of a detached turn, as the verb that runs in it sees it: what it says to the command that started it, and
//! how it lets go of what it had from that command.

use std::cell::Cell;
use std::io::Write as _;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use kugetsu_api::{Address, ErrorDetail};
use kugetsu_engine::operations::{Engine, Subject};

/// The log of detached supervisors, in the session's folder.
const LOG: &str = "supervisor.log";

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// The turn is on record and runs.
    Ready { turn: Uuid, pid: u32 },
    /// A turn of this id is on record already.
    Recorded { turn: Uuid },
    /// It came to nothing.
    Failed(ErrorDetail),
}

/// The new process, as the verb that runs in it sees it.
#[derive(Debug)]
pub(super) struct Detached {
    prompt: String,
    /// Whether somebody still waits for a word.
    asked: Cell<bool>,
}

impl Detached {
    /// With this prompt; whoever started the process waits for one word.
    pub(super) fn new(prompt: String) -> Self {
        Self {
            prompt,
            asked: Cell::new(true),
        }
    }

    pub(super) fn prompt(&self) -> String {
        self.prompt.clone()
    }

    /// The turn is on record: says so, and lets go of what we had from the command that started us.
    pub(super) fn ready(&self, issue: &Address, engine: &Engine) {
        let live = engine.find(issue).ok().flatten().and_then(|record| record.live);
        if let Some(live) = live {
            self.say(&Word::Ready {
                turn: live.turn,
                pid: std::process::id(),
            });
        }
        let log = engine.open_log(&Subject::Issue(issue.clone()), LOG).ok();
        let _ = let_go(log);
    }

    /// Whether somebody still waits for a word.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.get()
    }

    pub(super) fn say(&self, word: &Word) {
        if self.asked.replace(false) {
            let mut stdout = std::io::stdout().lock();
            // Whoever asked may be gone; the turn is not.
            let _ = serde_json::to_writer(&mut stdout, word);
            let _ = stdout.write_all(b"\n");
            let _ = stdout.flush();
        }
    }
}

/// Stdin and stdout become the null device, stderr the log.
fn let_go(log: Option<std::fs::File>) -> std::io::Result<()> {
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
