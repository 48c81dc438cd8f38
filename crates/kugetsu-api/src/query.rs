//! What `query` prints: everything that another program asks of the store at once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Address, PendingRequest, RepoRef, SessionState, TokenCount, Totals, TransportKind};

/// All sessions at one moment. Totals are those of the sessions that are there: what `destroy` removed is in the trash, with its
/// numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Query {
    /// When the store was read.
    pub time: Timestamp,
    /// How many sessions are in each state; every state is there. `total` is their sum.
    pub sessions: BTreeMap<String, u64>,
    /// The turns that run, and those whose supervisor gives no sign of life.
    pub live: Vec<LiveView>,
    /// The requests that wait for a person; those that are answered wait for the next turn alone.
    pub pending: Vec<PendingView>,
    /// All sessions together.
    pub totals: Totals,
    /// By the day (UTC) on which the turns ended, oldest first.
    pub days: Vec<DayView>,
    /// By the repository.
    pub repositories: Vec<RepoView>,
    /// What to do next, for each session that needs something.
    pub actions: Vec<Action>,
    /// Records that could not be read.
    pub broken: Vec<BrokenFile>,
}

/// What a live turn is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LiveState {
    /// There is no status yet: opencode is being started.
    Starting,
    /// It runs.
    Running,
    /// It was paused and waits to be resumed.
    Paused,
}

/// A request that waits for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PendingView {
    /// The session that asked.
    #[serde(rename = "ref")]
    pub address: Address,
    /// What it asked.
    #[serde(flatten)]
    pub request: PendingRequest,
}

/// A turn that runs, or should.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveView {
    /// The issue.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The turn.
    pub turn: Uuid,
    /// The supervisor's process id.
    pub pid: u32,
    /// Its host.
    pub host: String,
    /// How the turn reaches opencode.
    pub transport: TransportKind,
    /// What it is doing.
    pub state: LiveState,
    /// The supervisor is dead, or has written nothing for 30 s.
    pub stale: bool,
    /// When the turn started.
    pub started: Timestamp,
    /// The last sign of life.
    pub heartbeat: Option<Timestamp>,
    /// The step that the model is at.
    pub current_step: u64,
    /// The tool that runs.
    pub tool: Option<String>,
    /// Steps that are done.
    pub completed_steps: u64,
    /// US dollars so far.
    pub cost_usd: f64,
    /// Tokens so far.
    pub tokens: TokenCount,
}

/// One day.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DayView {
    /// Which, in UTC.
    pub day: Date,
    /// Turns that ended.
    pub turns: u64,
    /// What they cost, in US dollars.
    pub cost_usd: f64,
    /// What they used.
    pub tokens: TokenCount,
}

/// One repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepoView {
    /// Which.
    pub repo: RepoRef,
    /// Its sessions.
    pub sessions: u64,
    /// Their turns that ended.
    pub turns: u64,
    /// What they cost, in US dollars.
    pub cost_usd: f64,
    /// What they used.
    pub tokens: TokenCount,
}

/// What to do next about one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Action {
    /// The issue.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The session's state.
    pub state: SessionState,
    /// A command.
    pub action: String,
    /// Why.
    pub why: String,
}

/// A record that could not be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BrokenFile {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub problem: String,
}
