//! A turn: one prompt delivered to a session, until it ends in a verdict.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::exit::ExitStatus;
use crate::{SCHEMA, Verdict};

/// How turns reach opencode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TransportKind {
    /// One `opencode run` per turn.
    Run,
    /// opencode's HTTP server.
    Serve,
}

impl TransportKind {
    /// The word of the command line and of records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Serve => "serve",
        }
    }
}

impl std::fmt::Display for TransportKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the transport is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportChoice {
    /// `serve` where its health check passes, else `run`.
    Auto,
    /// This one.
    Only(TransportKind),
}

impl std::str::FromStr for TransportChoice {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Self::Auto),
            "run" => Ok(Self::Only(TransportKind::Run)),
            "serve" => Ok(Self::Only(TransportKind::Serve)),
            _ => Err("it is one of auto, run, serve".to_owned()),
        }
    }
}

/// Tokens as opencode counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenCount {
    /// Prompt tokens that were not in the provider's cache.
    #[serde(default)]
    pub input: u64,
    /// Answer tokens.
    #[serde(default)]
    pub output: u64,
    /// Tokens spent on reasoning.
    #[serde(default)]
    pub reasoning: u64,
    /// Prompt tokens read from the provider's cache.
    #[serde(default)]
    pub cache_read: u64,
    /// Prompt tokens written to the provider's cache.
    #[serde(default)]
    pub cache_write: u64,
}

impl TokenCount {
    /// All tokens together.
    pub fn total(self) -> u64 {
        [self.output, self.reasoning, self.cache_read, self.cache_write]
            .into_iter()
            .fold(self.input, u64::saturating_add)
    }
}

impl std::ops::AddAssign for TokenCount {
    fn add_assign(&mut self, other: Self) {
        self.input = self.input.saturating_add(other.input);
        self.output = self.output.saturating_add(other.output);
        self.reasoning = self.reasoning.saturating_add(other.reasoning);
        self.cache_read = self.cache_read.saturating_add(other.cache_read);
        self.cache_write = self.cache_write.saturating_add(other.cache_write);
    }
}

/// A process, told apart from a later one with the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessIdentity {
    /// The host's name.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// When the process started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`); 0 where there is no `/proc`.
    pub start_ticks: u64,
    /// The kernel's id of this boot (`/proc/sys/kernel/random/boot_id`); empty where there is none.
    #[serde(default)]
    pub boot_id: String,
}

/// A turn that is running.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveTurn {
    /// The turn's id, a UUID v7.
    pub turn: Uuid,
    /// The supervisor.
    pub supervisor: ProcessIdentity,
    /// When the turn started.
    pub started: Timestamp,
    /// How it reaches opencode.
    pub transport: TransportKind,
    /// The supervisor's process runs other turns as well: nobody ends it to end this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// What a verdict rests on, for whoever doubts it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Proof {
    /// The error as opencode reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
    /// The last events in words, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_events: Vec<String>,
}

impl Proof {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.error.is_none() && self.last_events.is_empty()
    }
}

/// A turn that has ended: a line of `turns.jsonl`, and `last` in the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnRecord {
    /// The schema of this line.
    pub schema: u32,
    /// The turn's id, a UUID v7.
    pub turn: Uuid,
    /// How it ended.
    pub verdict: Verdict,
    /// Why, in one line for people; empty when completed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When the model's provider may answer again, for a quota whose end it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// What the verdict rests on; empty when completed.
    #[serde(default, skip_serializing_if = "Proof::is_empty")]
    pub proof: Proof,
    /// How it reached opencode.
    pub transport: TransportKind,
    /// When it started.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Model steps finished.
    pub steps: u64,
    /// Tool calls made.
    pub tool_calls: u64,
    /// Cost in US dollars, as opencode computes it.
    pub cost_usd: f64,
    /// Tokens used.
    pub tokens: TokenCount,
    /// The version of opencode.
    pub opencode: String,
    /// Events of any kind.
    #[serde(default)]
    pub events: u64,
    /// How often opencode was started again after a crash.
    #[serde(default)]
    pub restarts: u32,
    /// Requests that were answered.
    #[serde(default)]
    pub answered: Answered,
    /// Why events are missing in the turn's log, and with them text in what was printed from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_gap: Option<String>,
}

impl TurnRecord {
    /// The exit status of a command whose turn it was.
    pub fn exit_status(&self) -> ExitStatus {
        self.verdict.exit_status_told(self.log_gap.is_none())
    }

    /// A turn whose supervisor died: nobody heard the end of it. `opencode` is the version that ran it.
    pub fn lost(live: &LiveTurn, opencode: &str) -> Self {
        Self {
            schema: SCHEMA,
            turn: live.turn,
            verdict: Verdict::Lost,
            reason: format!("its supervisor (process {}) died", live.supervisor.pid),
            retry_at: None,
            proof: Proof::default(),
            transport: live.transport,
            started: live.started,
            ended: Timestamp::now(),
            steps: 0,
            tool_calls: 0,
            cost_usd: 0.0,
            tokens: TokenCount::default(),
            opencode: opencode.to_owned(),
            events: 0,
            restarts: 0,
            answered: Answered::default(),
            log_gap: None,
        }
    }
}

/// How many requests of a turn were answered, and by whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Answered {
    /// By the answers file.
    pub file: u64,
    /// By a supervisor.
    pub supervisor: u64,
    /// By the default.
    pub default: u64,
}

/// Something that a turn was blocked on: it waits in the record for a person's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PendingRequest {
    /// opencode's id of the request.
    pub request: String,
    /// The turn that asked.
    pub turn: Uuid,
    /// When.
    pub asked: Timestamp,
    /// `permission` or `question`.
    pub kind: String,
    /// The permission and its patterns, or the questions with their options.
    #[schemars(with = "crate::RequestDetail")]
    pub detail: Value,
    /// What a person answered; the next turn delivers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
}
