//! Output of commands about sessions and their records.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Address, BaseRecord, BrokenFile, Changes, Holder, LiveTurn, PendingRequest, SessionId, SessionRecord,
    SessionState, Totals, TrashEntry, TurnRecord, TurnStatus, Verdict,
};

/// A record, with the session's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionWithState {
    /// The record.
    #[serde(flatten)]
    pub record: SessionRecord,
    /// What the session is doing.
    pub state: SessionState,
}

/// The output of `show`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShowOutput {
    /// The record and the state.
    #[serde(flatten)]
    pub session: SessionWithState,
    /// The current user of the session: null if that is an unknown process, absent if the session is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_use: Option<Option<Holder>>,
    /// What the running turn is doing. Absent while the turn is starting, and if none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<TurnStatus>,
    /// The size of the session's record and files, in bytes.
    pub size_bytes: u64,
    /// Every turn that has ended, oldest first; only with `--turns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_list: Option<Vec<TurnRecord>>,
}

/// The output of `diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiffOutput {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// What has changed since the session began.
    pub changes: Changes,
}

/// The output of `list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListOutput {
    /// The sessions.
    pub sessions: Vec<ListedSession>,
    /// The rest of the output.
    #[serde(flatten)]
    pub rest: ListRest,
}

/// The part of the output of `list` after the sessions, which are printed while they are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListRest {
    /// The bases.
    pub bases: Vec<BaseRecord>,
    /// Files that could not be read.
    pub broken: Vec<BrokenFile>,
}

/// The output of `list --fields`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListFieldsOutput {
    /// The sessions.
    pub sessions: Vec<ListedFields>,
    /// Files that could not be read.
    pub broken: Vec<BrokenFile>,
}

/// The fields of a session that `list --fields` was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListedFields {
    /// The session's address.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// What the session is doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SessionState>,
    /// The number of turns that have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<u64>,
    /// Their tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Their cost in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// Seconds since the record last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<u64>,
    /// When the record last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Timestamp>,
    /// opencode's session; null until the fork is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Option<SessionId>>,
    /// The title of the issue; null if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue_title: Option<Option<String>>,
}

/// A record as it is in its file, with the session's state. `list` reads only the fields that are named here and passes
/// the others on unread. They match `session.schema.json` if this version wrote the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListedSession {
    /// The schema of the record, which may be newer than this version's.
    pub schema: u32,
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// opencode's session; absent until the fork is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// When the record last changed.
    pub updated: Timestamp,
    /// The title of the issue, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue_title: Option<String>,
    /// Sums over all turns that have ended.
    #[serde(default)]
    pub totals: Totals,
    /// The turn that is running, or was when its supervisor died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveTurn>,
    /// The last turn that ended.
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

/// The fields of a turn that `list` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListedTurn {
    /// How the turn ended.
    pub verdict: Verdict,
    /// The other fields of the turn.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The fields of a worktree that `list` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListedWorktree {
    /// The rebase that conflicts prevented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_rebase: Option<Value>,
    /// The other fields of the worktree.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The output of `pending`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PendingOutput {
    /// The sessions with a request that waits for a person, or with an answer that waits for the next turn.
    pub pending: Vec<PendingSession>,
}

/// The requests of one session, and the output of `answer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PendingSession {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The requests, oldest first.
    pub requests: Vec<PendingRequest>,
}

/// The output of `prune`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PruneOutput {
    /// The records whose session no longer exists in opencode.
    pub orphans: Vec<OrphanView>,
    /// The records that were moved to the trash.
    pub pruned: Vec<OrphanView>,
    /// The records that stay because their worktree could not be removed.
    pub kept: Vec<KeptView>,
    /// Files that could not be read, whose sessions are unknown.
    pub broken: Vec<BrokenFile>,
}

/// A record without its session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrphanView {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The missing session.
    pub session: SessionId,
}

/// A record without its session that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptView {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// Why the record stays.
    pub why: String,
}

/// The output of `destroy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DestroyOutput {
    /// What was removed: the address of the session, or `the base of REPO`.
    pub destroyed: String,
    /// opencode's session, if there was one.
    pub session: Option<SessionId>,
    /// Whether the session was deleted from opencode. False if it was already gone or had been adopted.
    pub deleted_from_opencode: bool,
    /// The number of messages in the export in the trash.
    pub messages_exported: usize,
    /// Whether there is no export because the database of the session's sandbox is damaged or gone.
    pub messages_lost: bool,
    /// The removed worktree, if there was one.
    pub worktree: Option<RemovedWorktreeView>,
}

/// A removed worktree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemovedWorktreeView {
    /// Its former path.
    pub path: PathBuf,
    /// Its branch.
    pub branch: String,
    /// Whether the branch was deleted.
    pub branch_deleted: bool,
    /// Whether the trash holds commits that existed nowhere else.
    pub saved_commits: bool,
    /// Whether the trash holds uncommitted changes.
    pub saved_changes: bool,
}

/// The output of `move`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MoveOutput {
    /// The base and the sessions that are in the folder now. Sessions without a worktree that an earlier attempt has
    /// moved are not named again.
    pub moved: Vec<MovedView>,
    /// With `--repo`: the sessions that stay where they are, because their folders did not move with the clone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<LeftView>,
}

/// A session that `move --repo` leaves alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftView {
    /// The session's address.
    #[serde(rename = "ref")]
    pub address: Address,
    /// Its folder.
    pub directory: PathBuf,
}

/// A session or a base whose clone has moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MovedView {
    /// The session's address, or the base's repository.
    #[serde(rename = "ref")]
    pub subject: String,
    /// Its folder before.
    pub from: PathBuf,
    /// Its folder now.
    pub to: PathBuf,
}

/// The output of `trash list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrashListOutput {
    /// The entries, oldest first.
    pub entries: Vec<TrashEntryView>,
}

/// An entry of the trash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrashEntryView {
    /// The entry, as in its file.
    #[serde(flatten)]
    pub entry: TrashEntry,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether `restore` can bring the session back. It cannot after `prune`, because opencode had deleted the session.
    pub restorable: bool,
}

/// The output of `trash empty`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrashEmptyOutput {
    /// The entries that were removed for good.
    pub removed: Vec<TrashEntry>,
}
