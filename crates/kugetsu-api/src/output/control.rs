//! Output of commands about turns: their results, and control of live turns.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Address, Answered, Changes, PendingRequest, Proof, Refused, SessionId, Signal, TokenCount, Totals,
    TransportKind, Verdict, Worktree,
};

/// The result of a turn, printed when the turn has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnOutput {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// opencode's session, if one is known.
    pub session: Option<SessionId>,
    /// The turn's id: a UUID v7 unless the caller chose another one.
    pub turn: Uuid,
    /// How the turn ended.
    pub verdict: Verdict,
    /// The reason in one line for people; empty when completed.
    pub reason: String,
    /// The exit status of the command.
    pub exit_status: u8,
    /// The text of the last step that produced text.
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
    /// The number of answered requests, by source.
    pub answered: Answered,
    /// Requests that wait for a person.
    pub pending: Vec<PendingRequest>,
    /// For a quota: when the model's provider may answer again, if the provider reported it.
    pub retry_at: Option<Timestamp>,
    /// Why text is missing from the output and from the turn's log.
    pub log_gap: Option<String>,
    /// The evidence for the verdict; empty when completed.
    pub proof: Proof,
    /// What changed in the git clone. Null if the session works in no clone, or if git did not tell in time.
    pub changes: Option<Changes>,
    /// The tool calls that were refused.
    pub refused: Refused,
}

/// A turn that runs in the background.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DetachedOutput {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The turn's id.
    pub turn: Uuid,
    /// The supervisor's process id; null if a turn with this id was already on record.
    pub pid: Option<u32>,
    /// Always true.
    pub detached: bool,
}

/// The output of `stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StopOutput {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The turn that ended.
    pub turn: Uuid,
    /// How the turn ended.
    pub verdict: Verdict,
    /// The reason in one line for people.
    pub reason: String,
    /// True if the supervisor ignored the signal file and received SIGTERM.
    pub forced: bool,
}

/// The output of `signal` for a turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignalOutput {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The turn that received the signal.
    pub turn: Uuid,
    /// The signal.
    pub signal: Signal,
    /// The supervisor's process id.
    pub pid: u32,
}

/// The output of `signal REF rebase`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RebaseOutput {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// Always `rebase`.
    pub signal: String,
    /// The branch or commit that is the target of the rebase.
    pub onto: String,
    /// The outcome.
    pub result: RebaseResult,
    /// The files in conflict.
    pub conflicts: Vec<String>,
    /// The exit status of the command.
    pub exit_status: u8,
}

/// The outcome of a rebase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RebaseResult {
    /// The branch already contained everything.
    UpToDate,
    /// The branch was rebased.
    Rebased,
    /// Conflicts prevented the rebase; nothing was changed.
    Blocked,
}

/// The output of `attach --print`. Arguments and folders that are not UTF-8 contain replacement characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachOutput {
    /// The folder to run the program in.
    pub directory: String,
    /// The program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables that the program needs besides those of the caller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// The whole command as a line for a shell.
    pub shell: String,
}
