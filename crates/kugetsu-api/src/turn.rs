//! A turn: one prompt delivered to a session, from its start to its verdict.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::exit::ExitStatus;
use crate::{Address, Changes, Refused, SCHEMA, SandboxKind, Verdict};

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
    /// The name on the command line and in records.
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
    /// `serve` if its health check passes, otherwise `run`.
    Auto,
    /// A fixed transport.
    Only(TransportKind),
}

impl std::str::FromStr for TransportChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "run" => Ok(Self::Only(TransportKind::Run)),
            "serve" => Ok(Self::Only(TransportKind::Serve)),
            _ => Err("expected one of auto, run, serve".to_owned()),
        }
    }
}

/// Tokens as opencode counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenCount {
    /// Prompt tokens that were not in the provider's cache.
    #[serde(default)]
    pub input: u64,
    /// Tokens of the answer.
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

/// The identity of a process, distinct from a later process with the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessIdentity {
    /// The host's name.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// When the process started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`); 0 if there is no `/proc`.
    pub start_ticks: u64,
    /// The kernel's id of this boot (`/proc/sys/kernel/random/boot_id`); empty if there is none.
    #[serde(default)]
    pub boot_id: String,
}

/// The turn whose tool began another turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ParentTurn {
    /// Its id.
    pub turn: Uuid,
    /// The address of its session.
    #[serde(rename = "ref")]
    pub address: Address,
    /// How deep the turn that it began is: 1 if no tool began the parent itself.
    pub depth: u32,
}

/// A turn that is running.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveTurn {
    /// The turn's id: a UUID v7, or what the caller chose.
    pub turn: Uuid,
    /// The supervisor's process.
    pub supervisor: ProcessIdentity,
    /// When the turn started.
    pub started: Timestamp,
    /// How the turn reaches opencode.
    pub transport: TransportKind,
    /// True if the supervisor's process also runs other turns, so it must not be ended to end this turn.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// The prompt, as in [`TurnRecord`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// SHA-256 of the message in hexadecimal, if the caller chose the turn's id. Another message under the same id is
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_sha256: Option<String>,
    /// The turn whose tool began this one. Absent if no tool did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentTurn>,
    /// The newest messages that the session and its subagents had before the turn; none if there were no messages. The
    /// turn's messages are those that opencode stored after them, whatever their times. Absent until the session is
    /// known, and in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<String>>,
}

/// The evidence for a verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Proof {
    /// The error as opencode reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
    /// The last events as text, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_events: Vec<String>,
}

impl Proof {
    /// Whether there is no evidence.
    pub fn is_empty(&self) -> bool {
        self.error.is_none() && self.last_events.is_empty()
    }
}

/// A part of a turn before the model works, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Phase {
    /// When it began, since the turn started.
    pub at_ms: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// When the parts of a turn happened before the model's first output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Timings {
    /// opencode was started, or a warm server was lent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Phase>,
    /// The base was forked. Absent if the session existed, and with the transport `run`, which forks with the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fork: Option<Phase>,
    /// The policy was written into opencode's database and read back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Phase>,
    /// The time to first token: from the moment at which the prompt was first sent to the first text, reasoning or tool
    /// call of the model. Absent if none came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_output_ms: Option<u64>,
}

impl Timings {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A turn that has ended: a line of `turns.jsonl`, and `last` in the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnRecord {
    /// The schema of this line.
    pub schema: u32,
    /// The turn's id: a UUID v7, or what the caller chose.
    pub turn: Uuid,
    /// How the turn ended.
    pub verdict: Verdict,
    /// The reason in one line for people; empty when completed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For a quota: when the model's provider may answer again, if the provider reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// The evidence for the verdict; empty when completed.
    #[serde(default, skip_serializing_if = "Proof::is_empty")]
    pub proof: Proof,
    /// How the turn reached opencode.
    pub transport: TransportKind,
    /// What confined opencode and its tools; absent if they could do what the user can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxKind>,
    /// When it started.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// When its parts happened before the model's first output. Absent in records of older versions.
    #[serde(default, skip_serializing_if = "Timings::is_empty")]
    pub timings: Timings,
    /// The number of finished model steps.
    pub steps: u64,
    /// The number of tool calls.
    pub tool_calls: u64,
    /// Cost in US dollars, as opencode computes it.
    pub cost_usd: f64,
    /// The tokens.
    pub tokens: TokenCount,
    /// The version of opencode.
    pub opencode: String,
    /// Events of any kind.
    #[serde(default)]
    pub events: u64,
    /// How often opencode was started again after a crash.
    #[serde(default)]
    pub restarts: u32,
    /// The number of answered requests, by source.
    #[serde(default)]
    pub answered: Answered,
    /// Why events are missing from the turn's log, and text from the output made from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_gap: Option<String>,
    /// The prompt, at most [`TurnRecord::PROMPT`] bytes of it; a longer one ends with `…`. Absent if prompts are not
    /// kept (`keep_prompt`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What changed in the git clone. Absent if the session works in no clone, or if git did not tell in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
    /// The tool calls that were refused. Absent if none was.
    #[serde(default, skip_serializing_if = "Refused::is_empty")]
    pub refused: Refused,
    /// SHA-256 of the message in hexadecimal, if the caller chose the turn's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_sha256: Option<String>,
    /// Whether the session has the message of a turn that has not completed. Absent unless the caller chose the turn's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_stored: Option<bool>,
    /// The turn whose tool began this one. Absent if no tool did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentTurn>,
    /// Settings and records that something else than kugetsu changed while the turn ran, and that decide about later
    /// turns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl TurnRecord {
    /// How much of a prompt is kept, in bytes.
    pub const PROMPT: usize = 16 << 10;

    /// The kept part of a prompt.
    pub fn kept_prompt(prompt: &str) -> String {
        if prompt.len() <= Self::PROMPT {
            return prompt.to_owned();
        }
        format!("{}…", &prompt[..prompt.floor_char_boundary(Self::PROMPT)])
    }

    /// The exit status of a command that ran this turn.
    pub fn exit_status(&self) -> ExitStatus {
        self.verdict.exit_status_of_output(self.log_gap.is_none())
    }

    /// The record of a turn whose supervisor died before the end. `opencode` is the version that ran it.
    pub fn lost(live: &LiveTurn, opencode: &str) -> Self {
        Self {
            schema: SCHEMA,
            turn: live.turn,
            verdict: Verdict::Lost,
            reason: format!("its supervisor (process {}) died", live.supervisor.pid),
            retry_at: None,
            proof: Proof::default(),
            transport: live.transport,
            sandbox: None,
            started: live.started,
            ended: Timestamp::now(),
            timings: Timings::default(),
            steps: 0,
            tool_calls: 0,
            cost_usd: 0.0,
            tokens: TokenCount::default(),
            opencode: opencode.to_owned(),
            events: 0,
            restarts: 0,
            answered: Answered::default(),
            log_gap: None,
            prompt: live.prompt.clone(),
            changes: None,
            refused: Refused::default(),
            prompt_sha256: live.prompt_sha256.clone(),
            prompt_stored: None,
            parent: live.parent.clone(),
            warnings: Vec::new(),
        }
    }
}

/// The number of answered requests of a turn, by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Answered {
    /// By the answers file.
    pub file: u64,
    /// By a supervisor.
    pub supervisor: u64,
    /// By the default.
    pub default: u64,
}

/// A request that blocked a turn and waits in the record for a person's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PendingRequest {
    /// opencode's id of the request.
    pub request: String,
    /// The turn that made the request.
    pub turn: Uuid,
    /// When it was made.
    pub asked: Timestamp,
    /// `permission` or `question`.
    pub kind: String,
    /// The permission and its patterns, or the questions with their options.
    pub detail: crate::RequestDetail,
    /// A person's answer; the next turn delivers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
}
