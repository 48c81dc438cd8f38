//! What commands print about turns: their results, and what steers them.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Address, Answered, PendingRequest, Proof, SessionId, Signal, TokenCount, Totals, TransportKind, Verdict,
    Worktree,
};

/// The one object of a turn, printed when it has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnOutput {
    /// What names the session.
    #[serde(rename = "ref")]
    pub address: Address,
    /// opencode's session, if one is known.
    pub session: Option<SessionId>,
    /// The turn's id, a UUID v7 unless the caller named another one.
    pub turn: Uuid,
    /// How it ended.
    pub verdict: Verdict,
    /// Why, in one line for people; empty when completed.
    pub reason: String,
    /// The exit status of the command.
    pub exit_status: u8,
    /// The text of the last step that had any.
    pub answer: String,
    /// How the turn reached opencode.
    pub transport: TransportKind,
    /// opencode's version.
    pub opencode: String,
    /// The working directory.
    pub directory: PathBuf,
    /// The session's git worktree, if it has one.
    pub worktree: Option<Worktree>,
    /// Warnings, for people.
    pub notes: Vec<String>,
    /// When it started.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Model steps finished.
    pub steps: u64,
    /// Tool calls made.
    pub tool_calls: u64,
    /// US dollars, as opencode computes them.
    pub cost_usd: f64,
    /// Tokens used.
    pub tokens: TokenCount,
    /// Sums over all turns of the session, this one included.
    pub totals: Totals,
    /// Events of any kind.
    pub events: u64,
    /// How often opencode was started again after a crash.
    pub restarts: u32,
    /// Requests that were answered, and by whom.
    pub answered: Answered,
    /// Requests that wait for a person.
    pub pending: Vec<PendingRequest>,
    /// When the model's provider may answer again, for a quota whose end it told.
    pub retry_at: Option<Timestamp>,
    /// Why text is missing in what was printed and in the turn's log.
    pub log_gap: Option<String>,
    /// What the verdict rests on; empty when completed.
    pub proof: Proof,
}

/// A turn that goes on by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DetachedOutput {
    /// What names the session.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The turn's id.
    pub turn: Uuid,
    /// The supervisor's process; null where a turn of this id was on record already.
    pub pid: Option<u32>,
    /// True.
    pub detached: bool,
}

/// `stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StopOutput {
    /// What names the session.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The turn that ended.
    pub turn: Uuid,
    /// How it ended.
    pub verdict: Verdict,
    /// Why, in one line for people.
    pub reason: String,
    /// Whether its supervisor did not heed the signal file and was sent SIGTERM.
    pub forced: bool,
}

/// `signal`, of a turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignalOutput {
    /// What names the session.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The turn that the signal was sent to.
    pub turn: Uuid,
    /// The signal.
    pub signal: Signal,
    /// The supervisor's process.
    pub pid: u32,
}

/// `signal REF rebase`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RebaseOutput {
    /// What names the session.
    #[serde(rename = "ref")]
    pub address: Address,
    /// `rebase`.
    pub signal: String,
    /// The branch, or the commit, that the worktree's branch was to be rebased onto.
    pub onto: String,
    /// What came of it.
    pub result: RebaseResult,
    /// The files in conflict.
    pub conflicts: Vec<String>,
    /// The exit status of the command.
    pub exit_status: u8,
}

/// What came of a rebase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RebaseResult {
    /// The branch had all of it already.
    UpToDate,
    /// The branch was rebased.
    Rebased,
    /// Conflicts kept it from happening; nothing was changed.
    Blocked,
}

/// `attach --print`. Words and folders that are not UTF-8 are shown with replacement characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachOutput {
    /// The folder to run the program in.
    pub directory: String,
    /// The program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// All of it as a line for a shell.
    pub shell: String,
}
