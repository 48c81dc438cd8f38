//! What the daemon says of itself, and how a command gets a place among the turns that may run at once.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Address, ErrorCode, PoolCounts, QueueCounts, ServerView, Verdict};

/// The version of the daemon's API, which is the first part of every path but those for health.
pub const API_VERSION: &str = "v1";

/// The state of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DaemonStatus {
    /// The version of kugetsu that runs as the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// Whether it finishes what runs and takes nothing new.
    pub draining: bool,
    /// Its socket.
    pub socket: PathBuf,
    /// Where it listens for HTTP, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// How many turns may run at once.
    pub max_concurrent: u32,
    /// How many run now.
    pub running: u32,
    /// How many commands wait for a place.
    pub waiting: u32,
    /// The tasks that have not ended.
    pub queue: QueueCounts,
    /// The warm servers, oldest first.
    pub servers: Vec<ServerView>,
    /// What the pool of servers has done.
    pub pool: PoolCounts,
    /// What was spent today, and what may be.
    pub budget: BudgetView,
}

/// What turns have cost today, and what they may cost in a day, in US dollars.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetView {
    /// The day, in the time zone of the budgets.
    pub day: jiff::civil::Date,
    /// What all turns have cost.
    pub spent_usd: f64,
    /// What all turns together may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily_usd: Option<f64>,
    /// What the turns of one repository may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily_per_repo_usd: Option<f64>,
    /// What the turns of one session may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily_per_session_usd: Option<f64>,
}

/// A command asks for a place among the turns that may run at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SlotRequest {
    /// The session.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The version of the kugetsu that asks. A daemon of another version lends it no server.
    pub version: String,
}

/// A line of the answer to a [`SlotRequest`]. The place belongs to the command as long as it reads the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SlotEvent {
    /// The command has to wait.
    Waiting {
        /// How many turns run.
        running: u32,
        /// How many may run at once.
        most: u32,
    },
    /// The command has its place.
    Granted {
        /// The id of the place.
        slot: Uuid,
        /// What the turn may cost, in US dollars, if budgets limit that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_cost_usd: Option<f64>,
    },
    /// The server that was lent to the turn has ended.
    ServerEnded {
        /// The server.
        server: Uuid,
        /// How it ended.
        exit: ServerExit,
        /// Its last lines on standard error.
        stderr: Vec<String>,
    },
    /// More was spent than a budget that counts the turn allows, so it must end.
    OverBudget {
        /// Which budget, and what was spent of it.
        reason: String,
    },
    /// Nothing has happened for a while.
    Alive,
}

/// What a turn that runs in a command has cost so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpendingReport {
    /// The turn.
    pub turn: Uuid,
    /// Its session.
    #[serde(rename = "ref")]
    pub address: Address,
    /// What it has cost since it began, in US dollars.
    pub cost_usd: f64,
    /// Whether the turn was found dead. Then it counts only if it was reported before.
    #[serde(default)]
    pub recovered: bool,
}

/// The answer to a [`SpendingReport`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SpendingAnswer {
    /// Why the turn must end, if more was spent than a budget that counts it allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_budget: Option<String>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerExit {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It is not known how it ended.
    Unknown,
}

/// A link to the page of the daemon, which works once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageLink {
    /// What opens the page.
    pub code: String,
    /// Until when it does.
    pub expires: Timestamp,
}

/// A server that the daemon lends to a turn.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LentServer {
    /// Its id, which marks its processes.
    pub server: Uuid,
    /// Where it listens.
    pub url: String,
    /// Its password.
    pub password: String,
}

/// A derived `Debug` would show the password.
impl std::fmt::Debug for LentServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LentServer")
            .field("server", &self.server)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// How a turn gives back a server that it was lent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GiveBack {
    /// opencode is done with the turn, and no tool has run in it. The turn waits only until no process is left, not for
    /// the proof that the server is clean.
    Idle,
    /// opencode may still do something for the turn, which waits until the server is clean or has ended.
    #[default]
    Busy,
    /// The server is to be ended at once.
    End,
}

/// What the daemon counts of a turn that has ended. Commands tell it of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnEnd {
    /// The turn.
    pub turn: Uuid,
    /// Its verdict.
    pub verdict: Verdict,
    /// What it cost, in US dollars.
    pub cost_usd: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Its tokens.
    pub tokens: crate::TokenCount,
    /// How often opencode was started again.
    pub restarts: u32,
    /// The time to first token, in seconds ([`Timings`](crate::Timings)); absent if the model gave nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_output_seconds: Option<f64>,
}

impl TurnEnd {
    /// What is counted of this turn, which took so long.
    pub fn of(turn: &crate::TurnRecord, took: std::time::Duration) -> Self {
        Self {
            turn: turn.turn,
            verdict: turn.verdict,
            cost_usd: turn.cost_usd,
            seconds: took.as_secs_f64(),
            tokens: turn.tokens,
            restarts: turn.restarts,
            first_output_seconds: turn.timings.first_output_ms.map(|ms| ms as f64 / 1000.0),
        }
    }
}

/// A request to end the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StopRequest {
    /// Whether to finish what runs first.
    pub drain: bool,
}

/// A task that is submitted over HTTP. One of `ref`, `context` and `repo` says where it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskRequest {
    /// The message.
    pub prompt: String,
    /// The address of the session; one without a session gets one.
    #[serde(
        rename = "ref",
        alias = "address",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub address: Option<String>,
    /// Where the work comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<TaskContext>,
    /// The repository in which the task gets a session of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
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
    pub policy: Vec<crate::NarrowingRule>,
    /// Answers to questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<crate::TaskAnswers>,
    /// Limits of the turn, instead of those of the settings.
    #[serde(default)]
    pub limits: crate::TaskLimits,
    /// Tasks with a higher number run first.
    #[serde(default)]
    pub priority: i32,
    /// The tasks whose end it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<crate::TaskId>,
    /// It does not begin before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Whether the answer is the stream of the task's events, instead of the task.
    #[serde(default)]
    pub stream: bool,
}

/// Where the work of a task comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskContext {
    /// The URL of an issue, whose session runs the task.
    pub issue_url: String,
}

/// The answer to a task that was submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SubmittedTask {
    /// The id of the task.
    pub task_id: crate::TaskId,
    /// False if the task was submitted before with the same idempotency key.
    pub is_new: bool,
    /// The task.
    #[serde(flatten)]
    pub task: crate::Task,
}

/// A list of tasks, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskList {
    /// The tasks.
    pub tasks: Vec<crate::Task>,
    /// The value of `before` for the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<crate::TaskId>,
}

/// An error of the daemon's API, as in RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProblemDetails {
    /// A URI for the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the kind of problem means.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened.
    pub detail: String,
    /// The kind of problem, as in the command line's `--json`.
    pub code: ErrorCode,
    /// The next steps, most likely first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Whether the same request, unchanged, may succeed later.
    pub retryable: bool,
}

/// What a token allows. Each scope includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To read sessions, tasks and their events.
    Read,
    /// To submit and cancel tasks.
    Submit,
    /// To answer and signal sessions, and to end the daemon.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Read, Self::Submit, Self::Admin];

    /// The name in `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Admin => "admin",
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == name)
            .ok_or_else(|| format!("`{name}` is not a scope"))
    }
}

/// A token for the daemon's API, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenView {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// The repositories that it is limited to; all of them if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repos: Vec<crate::RepoRef>,
    /// When it was made.
    pub created: Timestamp,
    /// When it expires; absent if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When a daemon last accepted it, to the minute; absent if it was never used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

/// A session in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionView {
    /// Its address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// What it is doing.
    pub state: crate::SessionState,
    /// opencode's session; absent until the fork is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<crate::SessionId>,
    /// When its record last changed.
    pub updated: Timestamp,
    /// The title of the issue, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue_title: Option<String>,
    /// Sums over all turns that have ended.
    pub totals: crate::Totals,
}

/// A list of sessions, by reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionList {
    /// The sessions.
    pub sessions: Vec<SessionView>,
    /// The value of `after` for the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Address>,
}

/// The turns of a session that have ended, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnList {
    /// The turns.
    pub turns: Vec<crate::TurnRecord>,
}

/// An answer to the request that blocked a turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerRequest {
    /// `"allow"`, `"deny"`, a label, several labels, or labels for each question.
    pub answer: serde_json::Value,
}

/// A signal to a running turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// The signal.
    pub signal: crate::Signal,
}
