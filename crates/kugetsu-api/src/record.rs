//! The records: what is remembered of a base session and of an issue's session, one JSON file each.
//!
//! Records are the truth; everything else on disk can be rebuilt from them. A record of a newer schema is
//! read but never rewritten.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::civil::Date;
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::permission::Policy;
use crate::{Address, LiveTurn, PendingRequest, RepoRef, TokenCount, TurnRecord, Verdict, Worktree};

/// The schema that this version writes.
pub const SCHEMA: u32 = 1;

/// opencode's id of a session, `ses_...`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SessionId(String);

impl SessionId {
    /// Takes an id as opencode prints it: `ses` and at least one more character, ASCII letters, digits,
    /// `_` and `-` only.
    pub fn new(id: impl Into<String>) -> Option<Self> {
        let id = id.into();
        let rest = id.strip_prefix("ses")?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        (!rest.is_empty() && id.len() <= 128 && rest.bytes().all(plain)).then_some(Self(id))
    }

    /// The id as opencode knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is remembered of a repository's base session (`base.json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BaseRecord {
    /// The schema of this file.
    pub schema: u32,
    /// The repository whose issue sessions are forked from here.
    pub repo: RepoRef,
    /// opencode's session.
    pub session: SessionId,
    /// The working directory of the base and, without a worktree, of its forks. Absolute.
    pub directory: PathBuf,
    /// The title given in opencode.
    pub title: String,
    /// The policy that forks of this base start with.
    pub policy: Policy,
    /// True when the session existed before and was adopted (`init --adopt`): `destroy --base` leaves it in opencode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// The version of opencode that made or adopted it.
    pub opencode: String,
    /// When the record was made.
    pub created: Timestamp,
    /// When the record last changed.
    pub updated: Timestamp,
    /// What its prompt cost, where a model was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompted: Option<Totals>,
}

/// What is remembered of an issue's session (`<number>.json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionRecord {
    /// The schema of this file.
    pub schema: u32,
    /// The issue, in canonical form.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The reference as it was first typed.
    pub typed: String,
    /// opencode's session; absent until the fork is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// The journal of a fork that was asked for and whose id is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<ForkIntent>,
    /// The repository of the base that it was forked from: another one than the where the default
    /// base served.
    pub base: RepoRef,
    /// The base's session at the time of the fork.
    pub base_session: SessionId,
    /// The working directory of the session. Absolute.
    pub directory: PathBuf,
    /// The git worktree that the directory is in, if the session has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<Worktree>,
    /// The title given in opencode.
    pub title: String,
    /// The policy that the session must carry; re-applied and verified before every turn.
    pub policy: Policy,
    /// The version of opencode that ran the last turn.
    pub opencode: String,
    /// When the record was made.
    pub created: Timestamp,
    /// When the record last changed.
    pub updated: Timestamp,
    /// The turn that is running, or was when its supervisor died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveTurn>,
    /// The turn that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<TurnRecord>,
    /// Sums over all turns that have ended.
    #[serde(default)]
    pub totals: Totals,
    /// The same sums by the day (UTC) on which the turns ended.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub days: BTreeMap<Date, Totals>,
    /// What the last turn was blocked on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingRequest>,
}

/// What a listing needs to know of an issue's session: so much of its record is understood, and the rest of the file only
/// has to be JSON. Whatever acts on a session, `query` and `doctor` read it all.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SessionSummary {
    /// The schema of the file.
    pub schema: u32,
    /// The issue, in canonical form.
    #[serde(rename = "ref")]
    pub address: Address,
    /// opencode's session; absent until the fork is known.
    pub session: Option<SessionId>,
    /// When the record last changed.
    pub updated: Timestamp,
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

/// The journal of one fork: on disk before opencode is asked, gone when the fork's id is on disk. With it,
/// the next command finds the session that a crash left behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ForkIntent {
    /// The turn that asked for the fork.
    pub turn: uuid::Uuid,
    /// When it asked: the fork is not older than this.
    pub asked: Timestamp,
    /// SHA-256 of the first prompt, in lower-case hexadecimal: tells this fork from another one of the same base.
    pub prompt_sha256: String,
    /// True when the fork is made ahead of its prompt: only then may one without a prompt be it. Older journals do not
    /// say, and then it is not.
    #[serde(default)]
    pub ahead: bool,
}

/// Sums over the turns of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// Turns that have ended, whatever their verdict.
    pub turns: u64,
    /// What they cost, in US dollars, as opencode computes it.
    pub cost_usd: f64,
    /// What they used.
    pub tokens: TokenCount,
}

impl Totals {
    /// Adds one ended turn.
    pub fn add(&mut self, turn: &TurnRecord) {
        self.turns += 1;
        self.cost_usd += turn.cost_usd;
        self.tokens += turn.tokens;
    }

    /// Adds the sums of others.
    pub fn merge(&mut self, other: &Self) {
        self.turns += other.turns;
        self.cost_usd += other.cost_usd;
        self.tokens += other.tokens;
    }
}

/// What a session is doing, as `list` and `show` tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// It has a session, or will have one, and no turn has ended or is running.
    New,
    /// A turn is running, and its supervisor lives.
    Running,
    /// A turn was running, and its supervisor is dead.
    Lost,
    /// The last turn ended so; or `blocked`, by a rebase that conflicts kept from happening.
    Ended(Verdict),
}

impl SessionState {
    fn of(
        live: Option<&LiveTurn>,
        last: Option<Verdict>,
        rebase_blocked: bool,
        alive: impl FnOnce(&LiveTurn) -> bool,
    ) -> Self {
        match (live, last) {
            (Some(live), _) if alive(live) => Self::Running,
            (Some(_), _) => Self::Lost,
            (None, _) if rebase_blocked => Self::Ended(Verdict::Blocked),
            (None, Some(verdict)) => Self::Ended(verdict),
            (None, None) => Self::New,
        }
    }

    /// Every state, in the order in which the documents list them.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::New, Self::Running]
            .into_iter()
            .chain(Verdict::ALL.map(|verdict| match verdict {
                Verdict::Lost => Self::Lost,
                other => Self::Ended(other),
            }))
    }

    /// The word for people and for `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Running => "running",
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

    fn from_str(word: &str) -> Result<Self, String> {
        Self::all()
            .find(|state| state.as_str() == word)
            .ok_or_else(|| format!("`{word}` is not a state of a session"))
    }
}

impl SessionSummary {
    /// As [`SessionRecord::state`].
    pub fn state(&self, alive: impl FnOnce(&LiveTurn) -> bool) -> SessionState {
        let last = self.last.as_ref().map(|turn| turn.verdict);
        let worktree = self.worktree.as_ref();
        let blocked = worktree.is_some_and(|worktree| worktree.blocked_rebase.is_some());
        SessionState::of(self.live.as_ref(), last, blocked, alive)
    }

    /// Whether the record's fields are this version's, and a state can be put beside them.
    pub fn passes_on(&self) -> bool {
        self.schema == SCHEMA && self.state.is_none()
    }
}

impl SessionRecord {
    /// A turn has ended: it is counted and remembered, none is live, and what a rebase was blocked by may be gone.
    pub fn ended(&mut self, turn: &TurnRecord) {
        self.count(turn);
        self.last = Some(turn.clone());
        self.live = None;
        if let Some(worktree) = &mut self.worktree {
            worktree.blocked_rebase = None;
        }
        self.updated = Timestamp::now();
    }

    /// Counts a turn that has ended.
    pub fn count(&mut self, turn: &TurnRecord) {
        self.totals.add(turn);
        let day = turn.ended.to_zoned(jiff::tz::TimeZone::UTC).date();
        self.days.entry(day).or_default().add(turn);
    }

    /// What the session is doing. `alive` answers whether the supervisor of a live turn still runs.
    pub fn state(&self, alive: impl FnOnce(&LiveTurn) -> bool) -> SessionState {
        let last = self.last.as_ref().map(|turn| turn.verdict);
        SessionState::of(self.live.as_ref(), last, self.blocked_rebase().is_some(), alive)
    }

    /// The rebase that conflicts kept from happening.
    pub fn blocked_rebase(&self) -> Option<&crate::BlockedRebase> {
        self.worktree.as_ref()?.blocked_rebase.as_ref()
    }
}
