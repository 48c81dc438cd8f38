//! What commands print about sessions and their records.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Address, BaseRecord, BrokenFile, Holder, LiveTurn, PendingRequest, SessionId, SessionRecord,
    SessionState, Totals, TurnRecord, Verdict,
};

/// A record as it is, with the session's state beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionWithState {
    /// The record.
    #[serde(flatten)]
    pub record: SessionRecord,
    /// What the session is doing.
    pub state: SessionState,
}

/// `show`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShowOutput {
    /// The record and the state.
    #[serde(flatten)]
    pub session: SessionWithState,
    /// Who uses the session at the moment: null where that process left no name, absent where nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_use: Option<Option<Holder>>,
    /// Every turn that has ended, oldest first; with `--turns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_list: Option<Vec<TurnRecord>>,
}

/// `list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListOutput {
    /// The sessions.
    pub sessions: Vec<ListedSession>,
    /// What follows them.
    #[serde(flatten)]
    pub rest: ListRest,
}

/// What `list` prints after the sessions, which go out as they are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListRest {
    /// The bases.
    pub bases: Vec<BaseRecord>,
    /// Files that could not be read.
    pub broken: Vec<BrokenFile>,
}

/// A record as its file has it, with the state beside it. `list` reads only the fields that are named here; the others
/// are passed on unread, and are those of `session.schema.json` where the record is of this version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListedSession {
    /// The schema of the record, which may be newer than this version's.
    pub schema: u32,
    /// What names the session.
    #[serde(rename = "ref")]
    pub address: Address,
    /// opencode's session; absent until the fork is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// When the record last changed.
    pub updated: Timestamp,
    /// Sums over all turns that have ended.
    #[serde(default)]
    pub totals: Totals,
    /// The turn that is running, or was when its supervisor died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveTurn>,
    /// The turn that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<ListedTurn>,
    /// The session's git worktree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<ListedWorktree>,
    /// What the session is doing.
    pub state: SessionState,
    /// The other fields of the record.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What `list` reads of a turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListedTurn {
    /// How it ended.
    pub verdict: Verdict,
    /// The other fields of the turn.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What `list` reads of a worktree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListedWorktree {
    /// The rebase that conflicts kept from happening.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_rebase: Option<Value>,
    /// The other fields of the worktree.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// `pending`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PendingOutput {
    /// The sessions with a request that waits for a person, or for the next turn to deliver its answer.
    pub pending: Vec<PendingSession>,
}

/// The requests of one session; `answer` prints them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PendingSession {
    /// What names the session.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The requests, oldest first.
    pub requests: Vec<PendingRequest>,
}

/// `prune`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PruneOutput {
    /// The records whose session opencode no longer has.
    pub orphans: Vec<OrphanView>,
    /// Those that are in the trash now.
    pub pruned: Vec<OrphanView>,
    /// Those that stay, since their worktree could not be removed.
    pub kept: Vec<KeptView>,
    /// Files that could not be read: nothing is known of their sessions.
    pub broken: Vec<BrokenFile>,
}

/// A record without its session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrphanView {
    /// What names the session.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The session that is gone.
    pub session: SessionId,
}

/// A record without its session that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptView {
    /// What names the session.
    #[serde(rename = "ref")]
    pub address: Address,
    /// Why it stays.
    pub why: String,
}

/// `destroy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DestroyOutput {
    /// What was removed: the issue, or `the base of REPO`.
    pub destroyed: String,
    /// opencode's session, if there was one.
    pub session: Option<SessionId>,
    /// Whether opencode's session was deleted: not where it was gone already, or had been adopted.
    pub deleted_from_opencode: bool,
    /// Messages in the export that the trash keeps.
    pub messages_exported: usize,
    /// What became of the worktree, if there was one.
    pub worktree: Option<RemovedWorktreeView>,
}

/// What became of a worktree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemovedWorktreeView {
    /// Where it was.
    pub path: PathBuf,
    /// Its branch.
    pub branch: String,
    /// Whether the branch is deleted.
    pub branch_deleted: bool,
    /// Whether commits that were nowhere else are in the trash.
    pub saved_commits: bool,
    /// Whether changes that were not committed are in the trash.
    pub saved_changes: bool,
}
