//! `query`: everything that another program asks of the store at once. Reads records and the status files of live turns;
//! starts nothing, writes nothing, waits for no lock.
//!
//! Totals are those of the sessions that are there: what `destroy` removed is in the trash, with its numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Engine, EngineError};
use crate::duration::print_duration;
use crate::store::RecordKey;
use crate::turn::status::{self, RunState, STALE_AFTER};
use kugetsu_api::{
    Address, LiveTurn, RepoRef, SessionRecord, SessionState, TokenCount, Totals, TransportKind, Verdict,
};

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub struct Query {
    /// When the store was read.
    pub time: Timestamp,
    /// How many sessions are in each state; every state is there. `total` is their sum.
    pub sessions: BTreeMap<String, u64>,
    /// The turns that run, and those whose supervisor gives no sign of life.
    pub live: Vec<LiveView>,
    /// The requests that wait for a person; those that are answered wait for the next turn alone.
    pub pending: Vec<Value>,
    /// All sessions together.
    pub totals: Totals,
    /// By the day (UTC) on which the turns ended, oldest first.
    pub days: Vec<DayView>,
    /// By the issue's repository.
    pub repositories: Vec<RepoView>,
    /// What to do next, for each session that needs something.
    pub actions: Vec<Action>,
    /// Records that could not be read.
    pub broken: Vec<BrokenFile>,
}

/// A turn that runs, or should.
#[derive(Clone, Debug, Serialize)]
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
    /// `starting` (no status yet), `running` or `paused`.
    pub state: &'static str,
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
#[derive(Clone, Copy, Debug, Serialize)]
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
#[derive(Clone, Debug, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    /// The issue.
    #[serde(rename = "ref")]
    pub address: Address,
    /// The session's state.
    pub state: &'static str,
    /// A command.
    pub action: String,
    /// Why.
    pub why: String,
}

/// A record that could not be read.
#[derive(Clone, Debug, Serialize)]
pub struct BrokenFile {
    /// The file.
    pub path: std::path::PathBuf,
    /// Why.
    pub problem: String,
}

/// What some records make together.
#[derive(Default)]
struct Sums {
    total: u64,
    sessions: BTreeMap<&'static str, u64>,
    totals: Totals,
    days: BTreeMap<Date, Totals>,
    repositories: BTreeMap<RepoRef, (u64, Totals)>,
    pending: Vec<Value>,
    live: Vec<LiveView>,
    actions: Vec<Action>,
}

impl Sums {
    fn add(&mut self, record: &SessionRecord, state: SessionState, live: Option<LiveView>, now: Timestamp) {
        self.total += 1;
        *self.sessions.entry(state.as_str()).or_default() += 1;
        self.totals.merge(&record.totals);
        for (day, sum) in &record.days {
            self.days.entry(*day).or_default().merge(sum);
        }
        let (sessions, sum) = self
            .repositories
            .entry(record.address.repo().clone())
            .or_default();
        *sessions += 1;
        sum.merge(&record.totals);
        self.pending.extend(pending(record));
        self.actions.extend(action(record, state, live.as_ref(), now));
        self.live.extend(live);
    }

    fn merge(&mut self, other: Self) {
        self.total += other.total;
        for (state, count) in other.sessions {
            *self.sessions.entry(state).or_default() += count;
        }
        self.totals.merge(&other.totals);
        for (day, sum) in other.days {
            self.days.entry(day).or_default().merge(&sum);
        }
        for (repo, (sessions, totals)) in other.repositories {
            let (count, sum) = self.repositories.entry(repo).or_default();
            *count += sessions;
            sum.merge(&totals);
        }
        self.pending.extend(other.pending);
        self.live.extend(other.live);
        self.actions.extend(other.actions);
    }
}

impl Engine {
    /// See the module.
    pub fn query(&self) -> Result<Query, EngineError> {
        let now = Timestamp::now();
        let mut sums = Sums::default();
        let (_, broken) = self.store.fold_issues(
            |sums: &mut Sums, record| {
                let state = self.state_of(&record);
                let live = record.live.as_ref();
                let live = live.map(|live| self.view(&record, live, state, now));
                sums.add(&record, state, live, now);
            },
            |block| sums.merge(block),
        )?;
        let mut sessions: BTreeMap<String, u64> = ["new", "running"]
            .into_iter()
            .chain(Verdict::ALL.iter().map(|verdict| verdict.as_str()))
            .map(|state| (state.to_owned(), sums.sessions.get(state).copied().unwrap_or(0)))
            .collect();
        sessions.insert("total".to_owned(), sums.total);
        Ok(Query {
            time: now,
            sessions,
            live: sums.live,
            pending: sums.pending,
            totals: sums.totals,
            days: sums
                .days
                .into_iter()
                .map(|(day, sum)| DayView::new(day, &sum))
                .collect(),
            repositories: sums
                .repositories
                .into_iter()
                .map(|(repo, (sessions, sum))| RepoView::new(repo, sessions, &sum))
                .collect(),
            actions: sums.actions,
            broken: broken
                .into_iter()
                .map(|(path, problem)| BrokenFile { path, problem })
                .collect(),
        })
    }

    fn view(&self, record: &SessionRecord, live: &LiveTurn, state: SessionState, now: Timestamp) -> LiveView {
        let status = status::read(&self.store, &RecordKey::from(&record.address))
            .filter(|status| status.turn == live.turn);
        let age = status.as_ref().map_or_else(
            || Duration::try_from(now.duration_since(live.started)).unwrap_or_default(),
            |status| status.age(now),
        );
        // A turn has no status while opencode starts, which takes longer than a heartbeat may on a busy machine.
        let silent = status.as_ref().is_some_and(|_| age > STALE_AFTER);
        LiveView {
            address: record.address.clone(),
            turn: live.turn,
            pid: live.supervisor.pid,
            host: live.supervisor.host.clone(),
            transport: live.transport,
            state: match &status {
                None => "starting",
                // The turn is over, and its record is being written.
                Some(status) if status.state.is_over() => RunState::Running.as_str(),
                Some(status) => status.state.as_str(),
            },
            stale: state == SessionState::Lost || silent,
            started: live.started,
            heartbeat: status.as_ref().map(|status| status.heartbeat),
            current_step: status.as_ref().map_or(0, |status| status.current_step),
            tool: status.as_ref().and_then(|status| status.tool.clone()),
            completed_steps: status.as_ref().map_or(0, |status| status.completed_steps),
            cost_usd: status.as_ref().map_or(0.0, |status| status.cost_usd),
            tokens: status
                .as_ref()
                .map_or_else(TokenCount::default, |status| status.tokens),
        }
    }
}

/// The requests of a session that wait for a person.
fn pending(record: &SessionRecord) -> Vec<Value> {
    let requests = record.pending.iter();
    requests
        .filter(|request| request.answer.is_none())
        .map(|request| {
            let mut value = json!(request);
            value["ref"] = json!(record.address);
            value
        })
        .collect()
}

/// What to do next about a session, where there is something to do.
fn action(
    record: &SessionRecord,
    state: SessionState,
    live: Option<&LiveView>,
    now: Timestamp,
) -> Option<Action> {
    let address = &record.address;
    let go_on = || format!("kugetsu continue {address} \"go on\"");
    let (action, why) = match state {
        SessionState::Running => {
            let live = live?;
            let silent = live
                .heartbeat
                .map(|at| Duration::try_from(now.duration_since(at)).unwrap_or_default());
            if live.stale {
                let why = format!(
                    "its supervisor (process {} on {}) has given no sign of life for {}",
                    live.pid,
                    live.host,
                    print_duration(Duration::from_secs(silent.unwrap_or_default().as_secs()))
                );
                (format!("kugetsu stop {address}"), why)
            } else if live.state == "paused" {
                (
                    format!("kugetsu signal {address} resume"),
                    "it is paused".to_owned(),
                )
            } else {
                return None;
            }
        }
        SessionState::Lost => {
            let why = match (&record.live, &record.last) {
                (Some(live), _) => format!("its supervisor (process {}) died", live.supervisor.pid),
                (None, Some(last)) => last.reason.clone(),
                (None, None) => String::new(),
            };
            (go_on(), why)
        }
        SessionState::New | SessionState::Ended(Verdict::Completed | Verdict::Aborted) => return None,
        SessionState::Ended(verdict) => {
            let last = record.last.as_ref();
            let reason = last.map(|last| last.reason.clone()).unwrap_or_default();
            let why = match last.and_then(|last| last.retry_at) {
                Some(at) => format!("{reason} (not before {at})"),
                None => reason,
            };
            match verdict {
                Verdict::Blocked if record.pending.is_empty() => match record.blocked_rebase() {
                    Some(blocked) => (
                        format!("kugetsu continue {address} \"rebase onto {}\"", blocked.onto),
                        match record.last.as_ref().map(|last| last.verdict) {
                            None | Some(Verdict::Completed | Verdict::Aborted) => {
                                format!("its rebase {blocked}")
                            }
                            Some(before) => {
                                format!("its rebase {blocked}; its last turn was {before}: {why}")
                            }
                        },
                    ),
                    // Of a record that lost its request; there is nothing to answer.
                    None => (go_on(), why),
                },
                Verdict::Blocked if record.pending.iter().all(|request| request.answer.is_some()) => (
                    format!("kugetsu continue {address}"),
                    "it was blocked, and the answer is there".to_owned(),
                ),
                Verdict::Blocked => (
                    format!("kugetsu answer {address} allow|deny|LABEL, then: kugetsu continue {address}"),
                    why,
                ),
                Verdict::Failed | Verdict::Void => {
                    (format!("kugetsu logs {address}, then: {}", go_on()), why)
                }
                Verdict::Looping | Verdict::Stalled => (
                    format!(
                        "kugetsu logs {address}, then: kugetsu continue {address} \"what to do instead\""
                    ),
                    why,
                ),
                Verdict::Timeout => (format!("{} --timeout LONGER", go_on()), why),
                Verdict::Completed | Verdict::Aborted | Verdict::Quota | Verdict::Lost => (go_on(), why),
            }
        }
    };
    Some(Action {
        address: address.clone(),
        state: state.as_str(),
        action,
        why,
    })
}

impl DayView {
    fn new(day: Date, sum: &Totals) -> Self {
        Self {
            day,
            turns: sum.turns,
            cost_usd: sum.cost_usd,
            tokens: sum.tokens,
        }
    }
}

impl RepoView {
    fn new(repo: RepoRef, sessions: u64, sum: &Totals) -> Self {
        Self {
            repo,
            sessions,
            turns: sum.turns,
            cost_usd: sum.cost_usd,
            tokens: sum.tokens,
        }
    }
}
