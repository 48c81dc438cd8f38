//! The output of `query`: a summary of the whole store for other programs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Address, PendingRequest, RepoRef, SessionState, TokenCount, Totals, TransportKind};

/// All sessions at one moment. Totals cover the existing sessions; the trash keeps the numbers of destroyed sessions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Query {
    /// When the store was read.
    pub time: Timestamp,
    /// The number of sessions in each state, including states without sessions. `total` is their sum.
    pub sessions: BTreeMap<String, u64>,
    /// The live turns, including those whose supervisor shows no sign of life.
    pub live: Vec<LiveView>,
    /// The requests that wait for a person. Answered requests, which wait for the next turn, are not included.
    pub pending: Vec<PendingView>,
    /// Totals of all sessions.
    pub totals: Totals,
    /// Totals by the day (UTC) on which the turns ended, oldest first.
    pub days: Vec<DayView>,
    /// Totals by the session's repository.
    pub repositories: Vec<RepoView>,
    /// The next step for each session that needs something.
    pub actions: Vec<Action>,
    /// Records that could not be read.
    pub broken: Vec<BrokenFile>,
}

/// The state of a live turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LiveState {
    /// There is no status yet: opencode is starting.
    Starting,
    /// The turn runs.
    Running,
    /// The turn is paused.
    Paused,
}

/// A request that waits for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PendingView {
    /// The session that asked.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The request.
    #[serde(flatten)]
    pub request: PendingRequest,
}

/// A live turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveView {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The turn's id.
    pub turn: Uuid,
    /// The supervisor's process id.
    pub pid: u32,
    /// The supervisor's host.
    pub host: String,
    /// How the turn reaches opencode.
    pub transport: TransportKind,
    /// The turn's state.
    pub state: LiveState,
    /// True if the supervisor is dead or has written nothing for 30 s.
    pub stale: bool,
    /// When the turn started.
    pub started: Timestamp,
    /// The last sign of life.
    pub heartbeat: Option<Timestamp>,
    /// The number of the current step.
    pub current_step: u64,
    /// The tool that is running.
    pub tool: Option<String>,
    /// The number of finished steps.
    pub completed_steps: u64,
    /// US dollars so far.
    pub cost_usd: f64,
    /// Tokens so far.
    pub tokens: TokenCount,
}

/// Totals of one day.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DayView {
    /// The day in UTC.
    pub day: Date,
    /// The number of turns that ended.
    pub turns: u64,
    /// Their cost in US dollars.
    pub cost_usd: f64,
    /// Their tokens.
    pub tokens: TokenCount,
}

/// Totals of one repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepoView {
    /// The repository.
    pub repo: RepoRef,
    /// The number of its sessions.
    pub sessions: u64,
    /// The number of turns that ended.
    pub turns: u64,
    /// Their cost in US dollars.
    pub cost_usd: f64,
    /// Their tokens.
    pub tokens: TokenCount,
}

/// The next step for one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "NextStep")]
pub struct Action {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The session's state.
    pub state: SessionState,
    /// What to do, for people. It may leave a choice open.
    pub action: String,
    /// The next command, as a list of arguments that can be run as it stands.
    pub command: Vec<String>,
    /// The reason.
    pub why: String,
}

/// A record that could not be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BrokenFile {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub problem: String,
}
