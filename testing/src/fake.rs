//! The script of the fake `opencode`, shared by the tests that write it and the program that plays it.
//!
//! The fake is only for behaviour that the real opencode does not show on demand. It keeps a database with the tables
//! and columns that both real versions have, takes its prompt from stdin as they do, and follows its script.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

/// The variable that names the script file.
pub const SCRIPT_VARIABLE: &str = "FAKE_OPENCODE";
/// The variable that names the world's home, where it is not `HOME`.
pub const HOME_VARIABLE: &str = "FAKE_OPENCODE_HOME";

/// The whole behaviour of the fake.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct FakeScript {
    /// What `--version` prints.
    pub version: String,
    /// What `serve` does.
    pub serve: ServeMode,
    /// Columns of `session` to leave out of its database.
    pub missing_columns: Vec<String>,
    /// Whether `export` leaves out the last message, as truncated exports do.
    pub short_export: bool,
    /// Whether `run` and `serve` ignore SIGTERM.
    pub ignore_term: bool,
    /// What `run` does: the first entry whose needle is in the prompt. Without entries, it answers "done".
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
    /// A script whose every `run` plays these steps.
    pub fn steps(steps: impl Into<Vec<Step>>) -> Self {
        Self::default().on("", steps)
    }

    /// Adds a `run` that plays these steps if its prompt contains `needle`.
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

    /// Whether what a call does depends on the calls before it.
    pub fn counts_calls(&self) -> bool {
        matches!(self.serve, ServeMode::Locked(_)) || self.runs.iter().any(|run| run.attempts.len() > 1)
    }

    /// A script whose server creates and forks sessions and runs no turns.
    pub fn serving() -> Self {
        Self {
            serve: ServeMode::Sessions,
            ..Self::default()
        }
    }

    /// Adds attempts: the first `run` whose prompt contains `needle` plays the first attempt, and so on; the last one
    /// repeats.
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
    /// A tool call that was refused by a permission rule.
    pub fn refused_tool(command: &str) -> Self {
        Self::Event {
            kind: "tool_use".to_owned(),
            part: json!({"type": "tool", "tool": "bash", "callID": "call_refused", "state": {
                "status": "error", "input": {"command": command},
                "error": "The user has specified a rule which prevents you from using this specific tool call. Here \
                          are some of the relevant rules []",
            }}),
        }
    }

    /// The event that begins a step.
    pub fn step_start() -> Self {
        Self::Event {
            kind: "step_start".to_owned(),
            part: json!({"type": "step-start"}),
        }
    }

    /// The event that ends a step, with its finish reason and its cost in USD.
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
    /// Prints an error and exits 1.
    #[default]
    Refuse,
    /// Runs without ever printing that it listens.
    Silent,
    /// Answers its health check, creates sessions and forks them; runs no turns.
    Sessions,
    /// Exits 1 with a locked database this many times, as an opencode that starts beside others may; then acts like
    /// `Sessions`.
    Locked(usize),
}

/// What `run` does with matching prompts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FakeRun {
    /// Matches a prompt that contains it.
    pub needle: String,
    /// Played one after the other; the last one repeats.
    pub attempts: Vec<FakeAttempt>,
}

/// What one `run` does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FakeAttempt {
    /// Whether the prompt becomes a stored message before the first step.
    pub stores_prompt: bool,
    /// Played in order; after the last one, the fake exits 0.
    pub steps: Vec<Step>,
}

/// One action of the fake.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A whole answer: `step_start`, `text`, `step_finish` with `reason: stop`, and the stored message.
    Answer(String),
    /// The same, but the output ends after this many bytes, as that of an opencode that ends before all of it is
    /// written.
    TornAnswer(String, usize),
    /// One event line of this type. The value becomes its `part`; `type` and `sessionID` are added.
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
    /// Prints this text to stdout, flushed, without adding a line end.
    Raw(String),
    /// Prints these bytes to stdout, flushed, e.g. invalid UTF-8.
    Bytes(Vec<u8>),
    /// Prints this text to stderr, flushed, without adding a line end.
    Stderr(String),
    /// Pauses for this many milliseconds.
    Pause(u64),
    /// Creates the first file and waits for the second.
    Meet(PathBuf, PathBuf),
    /// One `text` event with a text of this many bytes.
    BigLine(usize),
    /// Many `text` events.
    Flood {
        /// The number of lines.
        lines: usize,
        /// The length of the text in each.
        bytes: usize,
    },
    /// Starts a process that leaves the process group and session and is no longer a child of the fake.
    Orphan {
        /// Whether the process ignores SIGTERM. It also does if the fake itself does.
        ignore_term: bool,
        /// Whether it keeps the fake's stdout open.
        holds_stdout: bool,
    },
    /// Hangs for ever (ten minutes, so that no process stays behind).
    Hang,
    /// Holds the write lock of the database for this many milliseconds, then continues.
    LockDatabase(u64),
    /// Runs this command of a shell in the working directory to its end, as a tool would.
    Shell(String),
    /// Exits with this status.
    Exit(i32),
}

/// One call of the fake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FakeCall {
    /// Its arguments, without the program's name.
    pub arguments: Vec<String>,
    /// Its working directory.
    pub directory: PathBuf,
    /// Its stdin, for `run`.
    pub prompt: Option<String>,
    /// Whether `OPENCODE_DISABLE_PROJECT_CONFIG` is set.
    #[serde(default)]
    pub ignores_project: bool,
    /// `OPENCODE_CONFIG_CONTENT`.
    #[serde(default)]
    pub config: Option<String>,
    /// `OPENCODE_PERMISSION`.
    pub permission: Option<String>,
    /// Its process id.
    pub pid: u32,
}

/// The folder in which opencode keeps its state.
pub fn data_folder(home: &Path) -> PathBuf {
    home.join(".local/share/opencode")
}

/// The journal of calls.
pub fn calls_file(home: &Path) -> PathBuf {
    data_folder(home).join("fake-calls.jsonl")
}

/// The calls so far, without an incomplete last line.
pub fn calls(home: &Path) -> Vec<FakeCall> {
    let text = std::fs::read_to_string(calls_file(home)).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
