//! Tasks: turns that were asked for and wait in the daemon's queue, run from it, or have ended.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::permission::{Action, Rule};
use crate::{Address, RepoRef, Verdict};

/// The id of a task: a UUID v7, so that ids sort by the time of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct TaskId(pub Uuid);

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for TaskId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// The highest and the lowest priority of a task.
pub const PRIORITIES: std::ops::RangeInclusive<i32> = -100..=100;

/// What a task does: one prompt for one session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskSpec {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The message.
    pub prompt: String,
    /// The model as `provider/model`, instead of the session's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The agent, instead of the session's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Whether a new session gets a git worktree; without it, the setting decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<bool>,
    /// Rules that narrow the session's policy during this turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<NarrowingRule>,
    /// Answers to questions and permission requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<TaskAnswers>,
    /// Limits of the turn, instead of those of the settings.
    #[serde(default, skip_serializing_if = "TaskLimits::is_empty")]
    pub limits: TaskLimits,
    /// The span that the task was submitted with, in the format of W3C Trace Context. It is no part of what the task
    /// does: a submission that is repeated with another one is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A permission rule that takes something away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NarrowingRule {
    /// The permission class.
    pub permission: String,
    /// The commands or paths that the rule covers.
    #[serde(default = "anything")]
    pub pattern: String,
}

impl NarrowingRule {
    /// The rule for opencode.
    pub fn rule(&self) -> Rule {
        Rule {
            permission: self.permission.clone(),
            pattern: self.pattern.clone(),
            action: Action::Deny,
        }
    }
}

fn anything() -> String {
    "*".to_owned()
}

/// Answers that were prepared before the turn. Unlike the file of `--answers`, they hold no secrets, because the queue
/// keeps them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TaskAnswers {
    /// The label or labels to choose, by a question's id, header or text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub questions: BTreeMap<String, serde_json::Value>,
}

/// Limits of a task's turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TaskLimits {
    /// How long the turn may take, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// What the turn may cost, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<f64>,
    /// How many tokens the turn may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// How many steps the turn may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
}

impl TaskLimits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a task is doing, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It waits for its turn in the queue, for another task, or for its time.
    Queued,
    /// Its turn runs.
    Running,
    /// Its turn has a verdict.
    Ended,
    /// It could not be run, and waits for a person.
    Parked,
    /// It was cancelled before its turn began, while it ran, or when it was parked.
    Cancelled,
}

impl TaskState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Running,
        Self::Ended,
        Self::Parked,
        Self::Cancelled,
    ];

    /// The name in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Ended => "ended",
            Self::Parked => "parked",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens to the task.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Ended | Self::Parked | Self::Cancelled)
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for TaskState {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == name)
            .ok_or_else(|| format!("`{name}` is not a state of a task"))
    }
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// Its id.
    pub task: TaskId,
    /// What it does.
    #[serde(flatten)]
    pub spec: TaskSpec,
    /// What it is doing.
    pub state: TaskState,
    /// Tasks with a higher number run first. A task that waits gains priority with time.
    pub priority: i32,
    /// The tasks whose end it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<TaskId>,
    /// It does not begin before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// When it was submitted.
    pub submitted: Timestamp,
    /// How often it was begun.
    pub attempts: u32,
    /// The turn of the newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Uuid>,
    /// When the newest attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// The verdict of its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What its turns have cost, in US dollars.
    pub cost_usd: f64,
    /// Why it has not ended well, or why it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Task {
    /// The repository whose share of the daemon the task uses.
    pub fn repo(&self) -> &RepoRef {
        self.spec.address.repo()
    }
}

/// The number of tasks in each state that is not final, and how long the oldest one has waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueCounts {
    /// Queued tasks.
    pub queued: u64,
    /// Running tasks.
    pub running: u64,
    /// Parked tasks.
    pub parked: u64,
    /// When the oldest queued task was submitted.
    pub oldest: Option<Timestamp>,
}
