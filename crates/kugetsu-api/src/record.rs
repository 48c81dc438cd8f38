//! The records of bases and of sessions, one JSON file each.
//!
//! Records are authoritative; everything else on disk can be rebuilt from them. A record of a newer schema is read but
//! never rewritten.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::civil::Date;
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::permission::Policy;
use crate::{
    Address, LiveTurn, PendingRequest, RepoRef, RunState, SandboxMode, SessionSandbox, TokenCount,
    TurnRecord, Verdict, Worktree,
};

/// The schema that this version writes.
pub const SCHEMA: u32 = 1;

/// opencode's id of a session, `ses_...`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SessionId(String);

impl SessionId {
    /// Accepts an id as opencode prints it: `ses` and at least one more character; only ASCII letters, digits, `_` and
    /// `-`.
    pub fn new(id: impl Into<String>) -> Option<Self> {
        let id = id.into();
        let rest = id.strip_prefix("ses")?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        (!rest.is_empty() && id.len() <= 128 && rest.bytes().all(plain)).then_some(Self(id))
    }

    /// The id as opencode prints it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a person allowed opencode to load from a repository: plugins, tools, MCP servers, agents and other parts of the
/// repository's own configuration of opencode, which run as the user at every start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RepoTrust {
    /// SHA-256 over what the repository brought each time somebody trusted it, in lower-case hexadecimal. Anything else
    /// that it brings is not loaded. Empty: the repository is not trusted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<String>,
}

impl RepoTrust {
    /// Whether this was trusted.
    pub fn includes(&self, digest: &str) -> bool {
        self.digests.iter().any(|known| known == digest)
    }

    /// Trusts this as well.
    pub fn add(&mut self, digest: String) {
        if !self.includes(&digest) {
            self.digests.push(digest);
        }
    }
}

/// The record of a repository's base (`base.json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BaseRecord {
    /// The schema of this file.
    pub schema: u32,
    /// The repository whose sessions are forked from this base.
    pub repo: RepoRef,
    /// opencode's session.
    pub session: SessionId,
    /// The working directory of the base and, unless they have a worktree, of its forks. Absolute.
    pub directory: PathBuf,
    /// The session's title in opencode.
    pub title: String,
    /// The policy that forks of this base start with.
    pub policy: Policy,
    /// Whether sessions that start from this base are sandboxed.
    #[serde(default, skip_serializing_if = "SandboxMode::is_off")]
    pub sandbox: SandboxMode,
    /// What opencode may load from the repository. Forks start with it. Absent in records of versions that loaded
    /// everything, which still means everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<RepoTrust>,
    /// True if the session existed before and was adopted (`init --adopt`): `destroy --base` leaves it in opencode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// The version of opencode that created or adopted it.
    pub opencode: String,
    /// When the record was created.
    pub created: Timestamp,
    /// When the record last changed.
    pub updated: Timestamp,
    /// The cost of the base's prompt, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompted: Option<Totals>,
    /// When it was made the default base (`init --default`). Of several such bases, the last one is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_since: Option<Timestamp>,
}

/// The record of a session (`14.json`, `14/at/review.json`, `~nightly.json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionRecord {
    /// The schema of this file.
    pub schema: u32,
    /// The session's address, in canonical form.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The address as it was first typed.
    pub typed: String,
    /// opencode's session; absent until the fork is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// The journal of a fork that was requested and whose id is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<ForkIntent>,
    /// The repository of the base that the session was forked from. It differs from the session's repository if the
    /// default base was used.
    pub base: RepoRef,
    /// The base's session at the time of the fork.
    pub base_session: SessionId,
    /// The working directory of the session. Absolute.
    pub directory: PathBuf,
    /// The git worktree that the directory is in, if the session has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<Worktree>,
    /// The newest messages that the session had when it was forked, all copies of the base's. Later messages are stored
    /// after them. Absent until the fork is known, and in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_after: Option<Vec<String>>,
    /// The commit that was checked out when the first turn began. Absent outside a git clone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_commit: Option<String>,
    /// The session's title in opencode.
    pub title: String,
    /// The title of the issue, as the forge gave it when a prompt included the issue's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue_title: Option<String>,
    /// The session's policy, applied again and verified before every turn.
    pub policy: Policy,
    /// The sandbox of the session, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SessionSandbox>,
    /// What opencode may load from the session's folder. Absent in records of versions that loaded everything, which
    /// still means everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<RepoTrust>,
    /// The version of opencode that ran the last turn.
    pub opencode: String,
    /// When the record was created.
    pub created: Timestamp,
    /// When the record last changed.
    pub updated: Timestamp,
    /// The turn that is running, or was when its supervisor died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveTurn>,
    /// The last turn that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<TurnRecord>,
    /// Sums over all turns that have ended.
    #[serde(default)]
    pub totals: Totals,
    /// The same sums by the day (UTC) on which the turns ended.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub days: BTreeMap<Date, Totals>,
    /// The requests that blocked the last turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingRequest>,
}

/// The fields of a session's record that a listing reads. The rest of the file only has to be valid JSON. Commands that
/// act on a session, `query` and `doctor` read the whole record.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SessionSummary {
    /// The schema of the file.
    pub schema: u32,
    /// The session's address, in canonical form.
    #[serde(rename = "ref")]
    pub address: Address,
    /// opencode's session; absent until the fork is known.
    pub session: Option<SessionId>,
    /// When the record last changed.
    pub updated: Timestamp,
    /// The title of the issue, if it is known.
    #[serde(default)]
    pub issue_title: Option<String>,
    /// Sums over all turns that have ended.
    #[serde(default)]
    pub totals: Totals,
    live: Option<LiveTurn>,
    last: Option<VerdictOnly>,
    worktree: Option<BlockedOnly>,
    state: Option<IgnoredAny>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct VerdictOnly {
    verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct BlockedOnly {
    blocked_rebase: Option<IgnoredAny>,
}

/// The journal of one fork. It is on disk before opencode receives the request, and gone once the fork's id is on disk.
/// With it, the next command finds the session that a crash left behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ForkIntent {
    /// The turn that requested the fork.
    pub turn: uuid::Uuid,
    /// When the turn requested it.
    pub asked: Timestamp,
    /// What proves that a session is this fork: random, and used for this fork alone. It is the title of a fork that is
    /// made ahead of its prompt, and in the prompt of a fork that is made together with it. Older journals lack it;
    /// their forks are not found again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mark: String,
    /// SHA-256 of the first prompt, in lower-case hexadecimal. It proves nothing: two homes may send the same prompt.
    pub prompt_sha256: String,
    /// True if the fork is made ahead of its prompt. Older journals lack this field, which counts as false.
    #[serde(default)]
    pub ahead: bool,
}

/// Totals over the turns of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// The number of turns that have ended, whatever their verdict.
    pub turns: u64,
    /// Their cost in US dollars, as opencode computes it.
    pub cost_usd: f64,
    /// Their tokens.
    pub tokens: TokenCount,
}

impl Totals {
    /// Adds one ended turn.
    pub fn add(&mut self, turn: &TurnRecord) {
        self.turns += 1;
        self.cost_usd += turn.cost_usd;
        self.tokens += turn.tokens;
    }

    /// Adds other totals.
    pub fn merge(&mut self, other: &Self) {
        self.turns += other.turns;
        self.cost_usd += other.cost_usd;
        self.tokens += other.tokens;
    }
}

/// The state of a session, as `list` and `show` print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// No turn has ended or is running.
    New,
    /// A turn is running, and its supervisor is alive.
    Running,
    /// A turn is paused, and its supervisor is alive.
    Paused,
    /// A turn was running, and its supervisor is dead.
    Lost,
    /// The verdict of the last turn; or `blocked`, if conflicts prevented a rebase.
    Ended(Verdict),
}

impl SessionState {
    fn of(
        live: Option<&LiveTurn>,
        last: Option<Verdict>,
        rebase_blocked: bool,
        live_state: impl FnOnce(&LiveTurn) -> Option<RunState>,
    ) -> Self {
        match (live.map(live_state), last) {
            (Some(Some(RunState::Paused)), _) => Self::Paused,
            (Some(Some(_)), _) => Self::Running,
            (Some(None), _) => Self::Lost,
            (None, _) if rebase_blocked => Self::Ended(Verdict::Blocked),
            (None, Some(verdict)) => Self::Ended(verdict),
            (None, None) => Self::New,
        }
    }

    /// Whether a turn is running or paused, and its supervisor is alive.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Every state, in the order in which the documents list them.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::New, Self::Running, Self::Paused]
            .into_iter()
            .chain(Verdict::ALL.map(|verdict| match verdict {
                Verdict::Lost => Self::Lost,
                other => Self::Ended(other),
            }))
    }

    /// The name for people and for `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Lost => "lost",
            Self::Ended(verdict) => verdict.as_str(),
        }
    }
}

impl std::fmt::Display for SessionState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for SessionState {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::all()
            .find(|state| state.as_str() == name)
            .ok_or_else(|| format!("`{name}` is not a state of a session"))
    }
}

impl SessionSummary {
    /// Like [`SessionRecord::state`].
    pub fn state(&self, live_state: impl FnOnce(&LiveTurn) -> Option<RunState>) -> SessionState {
        let last = self.last.as_ref().map(|turn| turn.verdict);
        let worktree = self.worktree.as_ref();
        let blocked = worktree.is_some_and(|worktree| worktree.blocked_rebase.is_some());
        SessionState::of(self.live.as_ref(), last, blocked, live_state)
    }

    /// Whether the record has this version's fields, so that a state can be added to it.
    pub fn passes_on(&self) -> bool {
        self.schema == SCHEMA && self.state.is_none()
    }
}

impl SessionRecord {
    /// Records the end of a turn: adds it to the totals, stores it as the last turn, and clears the live turn and the
    /// blocked rebase.
    pub fn ended(&mut self, turn: &TurnRecord) {
        self.count(turn);
        self.last = Some(turn.clone());
        self.live = None;
        if let Some(worktree) = &mut self.worktree {
            worktree.blocked_rebase = None;
        }
        self.updated = Timestamp::now();
    }

    /// Adds a turn that has ended to the totals.
    pub fn count(&mut self, turn: &TurnRecord) {
        self.totals.add(turn);
        let day = turn.ended.to_zoned(jiff::tz::TimeZone::UTC).date();
        self.days.entry(day).or_default().add(turn);
    }

    /// The session's state. `live_state` tells what a live turn is doing; `None` if its supervisor is dead.
    pub fn state(&self, live_state: impl FnOnce(&LiveTurn) -> Option<RunState>) -> SessionState {
        let last = self.last.as_ref().map(|turn| turn.verdict);
        SessionState::of(
            self.live.as_ref(),
            last,
            self.blocked_rebase().is_some(),
            live_state,
        )
    }

    /// The rebase that conflicts prevented.
    pub fn blocked_rebase(&self) -> Option<&crate::BlockedRebase> {
        self.worktree.as_ref()?.blocked_rebase.as_ref()
    }
}
