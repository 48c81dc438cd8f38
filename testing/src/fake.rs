//! The script of the fake `opencode`, shared by the tests that write it and the program that plays it.
//!
//! The fake is only for what the real one cannot be made to do on demand. It keeps a database with the tables and
//! columns that both real versions have, takes its prompt from stdin as they do, and does what its script says.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

/// The variable that names the script's file.
pub const SCRIPT_VARIABLE: &str = "FAKE_OPENCODE";

/// The whole behaviour of the fake.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct FakeScript {
    /// What `--version` prints.
    pub version: String,
    /// What `serve` does.
    pub serve: ServeMode,
    /// Columns of `session` that its database lacks.
    pub missing_columns: Vec<String>,
    /// Whether `export` leaves out the last message, as truncated exports do.
    pub short_export: bool,
    /// Whether `run` and `serve` ignore SIGTERM.
    pub ignore_term: bool,
    /// What `run` does; the first whose needle is in the prompt counts. Without any, it answers "done".
    pub runs: Vec<FakeRun>,
}

impl Default for FakeScript {
    fn default() -> Self {
        Self {
            version: "1.18.33".to_owned(),
            serve: ServeMode::Refuse,
            missing_columns: Vec::new(),
            short_export: false,
            ignore_term: false,
            runs: Vec::new(),
        }
    }
}

impl FakeScript {
    /// A script whose every `run` does these steps.
    pub fn steps(steps: impl Into<Vec<Step>>) -> Self {
        Self::default().on("", steps)
    }

    /// Adds: a `run` whose prompt contains `needle` does these steps.
    #[must_use]
    pub fn on(self, needle: impl Into<String>, steps: impl Into<Vec<Step>>) -> Self {
        self.on_attempts(
            needle,
            [FakeAttempt {
                stores_prompt: true,
                steps: steps.into(),
            }],
        )
    }

    /// Its server makes sessions and forks, and runs no turns.
    pub fn serving() -> Self {
        Self {
            serve: ServeMode::Sessions,
            ..Self::default()
        }
    }

    /// Adds: the first `run` whose prompt contains `needle` does the first attempt, and so on; the last one repeats.
    #[must_use]
    pub fn on_attempts(mut self, needle: impl Into<String>, attempts: impl Into<Vec<FakeAttempt>>) -> Self {
        self.runs.push(FakeRun {
            needle: needle.into(),
            attempts: attempts.into(),
        });
        self
    }
}

impl Step {
    /// The event that begins a step.
    pub fn step_start() -> Self {
        Self::Event {
            kind: "step_start".to_owned(),
            part: json!({"type": "step-start"}),
        }
    }

    /// The event that ends a step: why, and what it cost in USD.
    pub fn step_finish(reason: &str, cost: f64) -> Self {
        Self::Event {
            kind: "step_finish".to_owned(),
            part: json!({"type": "step-finish", "reason": reason, "cost": cost, "tokens": {"input": 10}}),
        }
    }
}

/// What `serve` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServeMode {
    /// Says that it cannot and exits 1.
    #[default]
    Refuse,
    /// Lives without ever printing that it listens.
    Silent,
    /// Answers its health check, makes sessions and forks them; runs no turns.
    Sessions,
    /// Finds its database locked so many times and exits 1, as one that starts beside others may; then as `Sessions`.
    Locked(usize),
}

/// What `run` does with some prompts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FakeRun {
    /// Fits where the prompt contains it.
    pub needle: String,
    /// One after the other; the last one repeats.
    pub attempts: Vec<FakeAttempt>,
}

/// What one `run` does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FakeAttempt {
    /// Whether the prompt becomes a stored message before the first step.
    pub stores_prompt: bool,
    /// Done in order; after the last one the fake exits 0.
    pub steps: Vec<Step>,
}

/// One thing that the fake does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A whole answer: `step_start`, `text`, `step_finish` with `reason: stop`, and the stored message.
    Answer(String),
    /// One event line of this type; the value becomes its `part`, `type` and `sessionID` are added.
    Event {
        /// E.g. `step_finish`.
        kind: String,
        /// The event's `part`.
        part: serde_json::Value,
    },
    /// An `error` event.
    Error {
        /// E.g. `APIError`.
        name: String,
        /// The text for people.
        message: String,
    },
    /// This text on stdout, flushed, with no line end added.
    Raw(String),
    /// These bytes on stdout, flushed, e.g. invalid UTF-8.
    Bytes(Vec<u8>),
    /// This text on stderr, flushed, with no line end added.
    Stderr(String),
    /// A pause of so many milliseconds.
    Pause(u64),
    /// Makes the first file, and waits for the second.
    Meet(PathBuf, PathBuf),
    /// One `text` event whose text is so many bytes long.
    BigLine(usize),
    /// So many `text` events.
    Flood {
        /// How many lines.
        lines: usize,
        /// The length of the text in each.
        bytes: usize,
    },
    /// Starts a process that leaves the process group and session and is no child of the fake any more.
    Orphan {
        /// Whether it ignores SIGTERM; it also does where the fake itself does.
        ignore_term: bool,
        /// Whether it keeps the fake's stdout open.
        holds_stdout: bool,
    },
    /// Lives for ever (ten minutes, so that nothing stays behind).
    Hang,
    /// Holds the write lock of the database for so many milliseconds, then goes on.
    LockDatabase(u64),
    /// Ends with this status.
    Exit(i32),
}

/// One call of the fake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FakeCall {
    /// Its arguments, the program's name not included.
    pub arguments: Vec<String>,
    /// Where it was called.
    pub directory: PathBuf,
    /// What came on stdin, for `run`.
    pub prompt: Option<String>,
    /// `OPENCODE_PERMISSION`.
    pub permission: Option<String>,
    /// Its process id.
    pub pid: u32,
}

/// The folder that opencode keeps its state in.
pub fn data_folder(home: &Path) -> PathBuf {
    home.join(".local/share/opencode")
}

/// The journal of calls.
pub fn calls_file(home: &Path) -> PathBuf {
    data_folder(home).join("fake-calls.jsonl")
}

/// The calls so far; a line that is being written is left out.
pub fn calls(home: &Path) -> Vec<FakeCall> {
    let text = std::fs::read_to_string(calls_file(home)).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
