//! `query`: one summary of the whole store for other programs. Reads records and the status files of live turns; starts
//! nothing, writes nothing and waits for no lock.
//!
//! Totals cover the current sessions. The numbers of a destroyed session are in the trash with its record.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;

use super::{Engine, EngineError};
use crate::duration::print_duration;
use crate::store::{Broken, RecordCache};
use crate::turn::status::{RunState, STALE_AFTER};
use kugetsu_api::{Action, BrokenFile, DayView, LiveState, LiveView, PendingView, Query, RepoView};
use kugetsu_api::{LiveTurn, RepoRef, SessionRecord, SessionState, TokenCount, Totals, Verdict};

/// Sums over several records.
#[derive(Default)]
struct Sums {
    total: u64,
    sessions: BTreeMap<&'static str, u64>,
    totals: Totals,
    days: BTreeMap<Date, Totals>,
    repositories: BTreeMap<RepoRef, (u64, Totals)>,
    pending: Vec<PendingView>,
    live: Vec<LiveView>,
    actions: Vec<Action>,
}

impl Sums {
    fn add(&mut self, share: Share) {
        self.total += 1;
        *self.sessions.entry(share.state.as_str()).or_default() += 1;
        self.totals.merge(&share.totals);
        for (day, sum) in &share.days {
            self.days.entry(*day).or_default().merge(sum);
        }
        let (sessions, sum) = self.repositories.entry(share.repo).or_default();
        *sessions += 1;
        sum.merge(&share.totals);
        self.pending.extend(share.pending);
        self.actions.extend(share.action);
        self.live.extend(share.live);
    }

    fn merge(&mut self, other: &Self) {
        self.total += other.total;
        for (state, count) in &other.sessions {
            *self.sessions.entry(state).or_default() += count;
        }
        self.totals.merge(&other.totals);
        for (day, sum) in &other.days {
            self.days.entry(*day).or_default().merge(sum);
        }
        for (repo, (sessions, totals)) in &other.repositories {
            let (count, sum) = self.repositories.entry(repo.clone()).or_default();
            *count += sessions;
            sum.merge(totals);
        }
        self.pending.extend_from_slice(&other.pending);
        self.live.extend_from_slice(&other.live);
        self.actions.extend_from_slice(&other.actions);
    }
}

/// What a record adds to the sums.
#[derive(Clone)]
struct Share {
    repo: RepoRef,
    state: SessionState,
    totals: Totals,
    days: Vec<(Date, Totals)>,
    pending: Vec<PendingView>,
    action: Option<Action>,
    live: Option<LiveView>,
}

/// What is kept in memory of a record.
enum Kept {
    /// All that it adds. Nothing but another record changes that.
    Share(Box<Share>),
    /// The record, because its turn may be running.
    Live(Box<SessionRecord>),
}

/// The records of a store in memory, for a process that asks often. It is kept right by what the system tells of changes
/// in their folders; where the system does not, the records are read each time.
#[derive(Default)]
pub struct QueryCache(Mutex<RecordCache<Kept, Sums>>);

impl std::fmt::Debug for QueryCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryCache").finish_non_exhaustive()
    }
}

impl Engine {
    /// Summarises the store, see the module.
    pub fn query(&self) -> Result<Query, EngineError> {
        let now = Timestamp::now();
        let mut sums = Sums::default();
        let (_, broken) = self.store.fold_sessions(
            |sums: &mut Sums, record| sums.add(self.share(&record, now)),
            |block| sums.merge(&block),
        )?;
        Ok(summary(sums, broken, now))
    }

    /// [`Engine::query`] with what is in memory. The cache belongs to this store alone.
    pub fn query_from(&self, cache: &QueryCache) -> Result<Query, EngineError> {
        let now = Timestamp::now();
        let mut sums = Sums::default();
        // A panic may have left it half changed.
        let mut cache = cache.0.lock().unwrap_or_else(|poisoned| {
            let mut cache = poisoned.into_inner();
            *cache = RecordCache::default();
            cache
        });
        let broken = cache.fold(
            &self.store,
            |record| match &record.live {
                Some(_) => Kept::Live(Box::new(record)),
                None => Kept::Share(Box::new(self.share(&record, now))),
            },
            |sums: &mut Sums, kept| match kept {
                Kept::Share(share) => {
                    sums.add(Share::clone(share));
                    true
                }
                Kept::Live(record) => {
                    sums.add(self.share(record, now));
                    false
                }
            },
            |block| sums.merge(block),
        )?;
        match broken {
            Some(broken) => Ok(summary(sums, broken, now)),
            None => self.query(),
        }
    }

    fn share(&self, record: &SessionRecord, now: Timestamp) -> Share {
        let state = self.state_of(record);
        let live = record.live.as_ref();
        let live = live.map(|live| self.view(record, live, state, now));
        Share {
            repo: record.address.repo().clone(),
            state,
            totals: record.totals,
            days: record.days.iter().map(|(day, sum)| (*day, *sum)).collect(),
            pending: pending(record),
            action: action(record, state, live.as_ref(), now),
            live,
        }
    }

    fn view(&self, record: &SessionRecord, live: &LiveTurn, state: SessionState, now: Timestamp) -> LiveView {
        let status = self.live_status(&record.address, live.turn);
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
                None => LiveState::Starting,
                Some(status) if status.state == RunState::Paused => LiveState::Paused,
                // Includes a turn that has ended and whose record is being written.
                Some(_) => LiveState::Running,
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

fn summary(sums: Sums, broken: Vec<Broken>, now: Timestamp) -> Query {
    let mut sessions: BTreeMap<String, u64> = ["new", "running"]
        .into_iter()
        .chain(Verdict::ALL.iter().map(|verdict| verdict.as_str()))
        .map(|state| (state.to_owned(), sums.sessions.get(state).copied().unwrap_or(0)))
        .collect();
    sessions.insert("total".to_owned(), sums.total);
    Query {
        time: now,
        sessions,
        live: sums.live,
        pending: sums.pending,
        totals: sums.totals,
        days: sums
            .days
            .into_iter()
            .map(|(day, sum)| day_view(day, &sum))
            .collect(),
        repositories: sums
            .repositories
            .into_iter()
            .map(|(repo, (sessions, sum))| repo_view(repo, sessions, &sum))
            .collect(),
        actions: sums.actions,
        broken: broken
            .into_iter()
            .map(|(path, problem)| BrokenFile { path, problem })
            .collect(),
    }
}

/// The requests of a session that wait for a person.
fn pending(record: &SessionRecord) -> Vec<PendingView> {
    let requests = record.pending.iter();
    requests
        .filter(|request| request.answer.is_none())
        .map(|request| PendingView {
            address: record.address.clone(),
            request: request.clone(),
        })
        .collect()
}

/// The next command for a session, if the session needs one.
fn action(
    record: &SessionRecord,
    state: SessionState,
    live: Option<&LiveView>,
    now: Timestamp,
) -> Option<Action> {
    let address = &record.address;
    let go_on = || format!("kugetsu continue {address} \"go on\"");
    let kugetsu = |words: &[&str]| -> Vec<String> {
        let (verb, rest) = words.split_first().unwrap_or((&"show", &[]));
        let address = address.to_string();
        let all = ["kugetsu", verb, &address]
            .into_iter()
            .chain(rest.iter().copied());
        all.map(str::to_owned).collect()
    };
    let to_go_on = || kugetsu(&["continue", "go on"]);
    let (action, command, why) = match state {
        SessionState::Running | SessionState::Paused => {
            let live = live?;
            let silent = live
                .heartbeat
                .map(|at| Duration::try_from(now.duration_since(at)).unwrap_or_default());
            if live.stale {
                let why = format!(
                    "its supervisor (process {} on {}) has not reported for {}",
                    live.pid,
                    live.host,
                    print_duration(Duration::from_secs(silent.unwrap_or_default().as_secs()))
                );
                (format!("kugetsu stop {address}"), kugetsu(&["stop"]), why)
            } else if live.state == LiveState::Paused {
                (
                    format!("kugetsu signal {address} resume"),
                    kugetsu(&["signal", "resume"]),
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
            (go_on(), to_go_on(), why)
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
                        kugetsu(&["continue", &format!("rebase onto {}", blocked.onto)]),
                        match record.last.as_ref().map(|last| last.verdict) {
                            None | Some(Verdict::Completed | Verdict::Aborted) => {
                                format!("its rebase {blocked}")
                            }
                            Some(before) => {
                                format!("its rebase {blocked}; its last turn was {before}: {why}")
                            }
                        },
                    ),
                    // The record has lost its request, so there is nothing to answer.
                    None => (go_on(), to_go_on(), why),
                },
                Verdict::Blocked if record.pending.iter().all(|request| request.answer.is_some()) => (
                    format!("kugetsu continue {address}"),
                    kugetsu(&["continue"]),
                    "it was blocked, and its answer is on record".to_owned(),
                ),
                // Only a person can choose the answer, so the command shows the request.
                Verdict::Blocked => (
                    format!("kugetsu answer {address} allow|deny|LABEL, then: kugetsu continue {address}"),
                    kugetsu(&["show"]),
                    why,
                ),
                Verdict::Failed | Verdict::Void => (
                    format!("kugetsu logs {address}, then: {}", go_on()),
                    to_go_on(),
                    why,
                ),
                Verdict::Looping | Verdict::Stalled => (
                    format!(
                        "kugetsu logs {address}, then: kugetsu continue {address} \"what to do instead\""
                    ),
                    kugetsu(&["logs"]),
                    why,
                ),
                Verdict::Timeout => {
                    let took = last.map(|last| last.ended.duration_since(last.started));
                    let took = took
                        .and_then(|took| Duration::try_from(took).ok())
                        .unwrap_or_default();
                    let longer = Duration::from_secs((took.as_secs() + 1).saturating_mul(2));
                    (
                        format!("{} --timeout LONGER", go_on()),
                        kugetsu(&["continue", "go on", "--timeout", &print_duration(longer)]),
                        why,
                    )
                }
                Verdict::Completed | Verdict::Aborted | Verdict::Quota | Verdict::Lost => {
                    (go_on(), to_go_on(), why)
                }
            }
        }
    };
    Some(Action {
        address: address.clone(),
        state,
        action,
        command,
        why,
    })
}

fn day_view(day: Date, sum: &Totals) -> DayView {
    DayView {
        day,
        turns: sum.turns,
        cost_usd: sum.cost_usd,
        tokens: sum.tokens,
    }
}

fn repo_view(repo: RepoRef, sessions: u64, sum: &Totals) -> RepoView {
    RepoView {
        repo,
        sessions,
        turns: sum.turns,
        cost_usd: sum.cost_usd,
        tokens: sum.tokens,
    }
}
