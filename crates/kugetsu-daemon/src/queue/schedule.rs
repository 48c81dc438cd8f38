//! Which task runs next. This module knows no clock, file or thread: time is an argument.
//!
//! The rules:
//! - **Sessions.** Only the oldest unfinished task of a session is a candidate, and only while none of them runs, so that
//!   they run in order and one at a time. A task that waits for its time or for other tasks holds back those of its
//!   session behind it. A parked task that is tried again has its old place, also before one that runs.
//! - **Dependencies.** A task waits until the tasks in its `after` are over, however they ended.
//! - **Within a repository**, the candidate with the highest effective priority is first: its priority, and one more
//!   for each [`AGEING`] that it has waited. Waiting counts from the submission, or from `not_before` if that is later.
//! - **Among repositories**, the first candidates are compared in the same way, but a candidate has waited at most since
//!   its repository had its last turn. With equal priorities this is a rotation: the repository that was served longest
//!   ago is next, and its number of tasks does not matter. With unequal ones, the lower priority gets a turn as soon as
//!   it has waited long enough. So every candidate runs at last.
//! - **Weights.** A repository with the weight 3 has three turns before it goes to the end of the rotation.
//!
//! All waiting tasks age alike. Therefore the order of two tasks never changes while they wait, it is known when they
//! become candidates, and a claim looks at no task but the one that it takes.
//!
//! Every change is recorded until [`Schedule::keep`], and [`Schedule::undo`] takes it back: a change in memory is
//! worth nothing if the disk does not have it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use kugetsu_api::{Address, RepoRef, Task, TaskId};

use super::time::{Micros, ceil, floor};

/// A task that waits this long gains one point of priority: ten minutes, because a turn takes minutes. A shorter time
/// would make priorities mean nothing in a queue that is hours long.
pub(super) const AGEING: Micros = 10 * 60 * 1_000_000;

/// A task that is not over.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// Its place in the order of submission, which no other task has.
    pub(super) seq: i64,
    /// Its session.
    pub(super) address: Address,
    /// Its priority.
    pub(super) priority: i32,
    /// When it was submitted.
    pub(super) submitted: Micros,
    /// It does not begin before this time.
    pub(super) not_before: Option<Micros>,
    /// The unfinished tasks whose end it waits for.
    pub(super) after: BTreeSet<TaskId>,
    /// Whether it runs.
    pub(super) running: bool,
}

impl Entry {
    /// That of a task that waits.
    pub(super) fn queued(seq: i64, task: &Task) -> Self {
        Self {
            seq,
            address: task.spec.address.clone(),
            priority: task.priority,
            submitted: floor(task.submitted),
            not_before: task.not_before.map(ceil),
            after: task.after.iter().copied().collect(),
            running: false,
        }
    }

    /// The time from which its waiting counts.
    fn waits_since(&self) -> Micros {
        self.not_before
            .map_or(self.submitted, |time| time.max(self.submitted))
    }

    /// The order of candidates: the lowest is first.
    fn rank(&self) -> Micros {
        aged(self.waits_since(), self.priority)
    }
}

/// Effective priority as a time that does not change: to have one point more is to have waited [`AGEING`] longer.
fn aged(since: Micros, priority: i32) -> Micros {
    since.saturating_sub(AGEING.saturating_mul(i64::from(priority)))
}

/// When a repository had the last one of the turns that its weight gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Served {
    at: Micros,
    /// The number of that turn, for turns at the same time.
    turn: u64,
    /// The turns that it had since, fewer than its weight.
    since: u32,
}

impl Served {
    const NEVER: Self = Self {
        at: Micros::MIN,
        turn: 0,
        since: 0,
    };
}

/// The first candidate of a repository, compared with those of others: rank, number of the last turn, `seq`.
type Standing = (Micros, u64, i64, RepoRef);

/// What a change has replaced.
#[derive(Clone, Debug, PartialEq)]
enum Replaced {
    Entry(TaskId, Option<Entry>),
    Served(RepoRef, Served),
}

/// All tasks that are not over, in the order in which they may run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Schedule {
    tasks: HashMap<TaskId, Entry>,
    /// The unfinished tasks of each session, by `seq`.
    sessions: HashMap<Address, BTreeMap<i64, TaskId>>,
    /// The sessions of which a task runs.
    busy: HashSet<Address>,
    /// The tasks that wait for a task.
    dependents: HashMap<TaskId, BTreeSet<TaskId>>,
    /// Queued tasks by submission.
    queued: BTreeSet<(Micros, i64)>,
    /// Candidates that wait for nothing but their time.
    waiting: BTreeSet<(Micros, i64, TaskId)>,
    /// Candidates that may run now, of each repository that has one, by rank and `seq`.
    ready: HashMap<RepoRef, BTreeSet<(Micros, i64, TaskId)>>,
    /// The repositories in `ready`.
    order: BTreeSet<Standing>,
    /// Kept also for repositories that have no task now: one that returns must not overtake the others.
    served: HashMap<RepoRef, Served>,
    /// How many turns a repository has in each rotation, if it is not one.
    weights: HashMap<RepoRef, u32>,
    /// The number of turns that were given.
    turns: u64,
    /// The latest time that was seen. A clock that is set back does not change the rotation.
    now: Micros,
    replaced: Vec<Replaced>,
}

impl Schedule {
    /// Adds a task. Of `after`, only unfinished tasks count.
    pub(super) fn add(&mut self, task: TaskId, mut entry: Entry) {
        entry.after.retain(|other| self.tasks.contains_key(other));
        self.change(task, Some(entry));
    }

    /// Has an unfinished task wait for another one, which was over before.
    pub(super) fn wait_for(&mut self, task: TaskId, other: TaskId) {
        if let Some(mut entry) = self.tasks.get(&task).cloned() {
            entry.after.insert(other);
            self.change(task, Some(entry));
        }
    }

    /// Takes the next task that may run, which then runs.
    pub(super) fn claim(&mut self, now: Micros) -> Option<TaskId> {
        self.advance(now);
        let (_, _, _, repo) = self.order.first()?.clone();
        let (_, _, task) = *self.ready.get(&repo)?.first()?;
        let mut entry = self.tasks.get(&task)?.clone();
        entry.running = true;
        self.change(task, Some(entry));
        self.turns += 1;
        let before = self.served.get(&repo).copied().unwrap_or(Served::NEVER);
        let weight = self.weights.get(&repo).copied().unwrap_or(1);
        let served = if before.since + 1 < weight {
            Served {
                since: before.since + 1,
                ..before
            }
        } else {
            Served {
                at: self.now,
                turn: self.turns,
                since: 0,
            }
        };
        self.set_served(repo, served);
        Some(task)
    }

    /// Uses other weights for the turns to come.
    pub(super) fn set_weights(&mut self, weights: HashMap<RepoRef, u32>) {
        self.weights = weights;
    }

    /// Puts a task that runs back to its place in its session.
    pub(super) fn requeue(&mut self, task: TaskId, not_before: Micros) {
        if let Some(mut entry) = self.tasks.get(&task).cloned() {
            entry.running = false;
            entry.not_before = Some(not_before);
            self.change(task, Some(entry));
        }
    }

    /// Removes a task that is over, and releases those that wait for it.
    pub(super) fn remove(&mut self, task: TaskId) {
        self.change(task, None);
        for dependent in self.dependents.get(&task).cloned().unwrap_or_default() {
            if let Some(mut entry) = self.tasks.get(&dependent).cloned() {
                entry.after.remove(&task);
                self.change(dependent, Some(entry));
            }
        }
    }

    /// Whether a task is not over.
    pub(super) fn contains(&self, task: TaskId) -> bool {
        self.tasks.contains_key(&task)
    }

    /// The number of queued tasks.
    pub(super) fn queued(&self) -> u64 {
        self.queued.len() as u64
    }

    /// The number of running tasks.
    pub(super) fn running(&self) -> u64 {
        (self.tasks.len() - self.queued.len()) as u64
    }

    /// When the oldest queued task was submitted.
    pub(super) fn oldest(&self) -> Option<Micros> {
        self.queued.first().map(|(submitted, _)| *submitted)
    }

    /// The earliest time at which a task that waits for nothing else may run.
    pub(super) fn next_due(&self) -> Option<Micros> {
        self.waiting.first().map(|(time, _, _)| *time)
    }

    /// Makes all changes so far final.
    pub(super) fn keep(&mut self) {
        self.replaced.clear();
    }

    /// Takes back all changes since the last [`Schedule::keep`].
    pub(super) fn undo(&mut self) {
        for replaced in std::mem::take(&mut self.replaced).into_iter().rev() {
            match replaced {
                Replaced::Entry(task, entry) => {
                    self.replace(task, entry);
                }
                Replaced::Served(repo, served) => {
                    self.replace_served(&repo, served);
                }
            }
        }
    }

    fn advance(&mut self, now: Micros) {
        self.now = self.now.max(now);
        let due: Vec<_> = self
            .waiting
            .iter()
            .take_while(|(time, _, _)| *time <= self.now)
            .copied()
            .collect();
        for candidate in due {
            self.waiting.remove(&candidate);
            if let Some(address) = self.tasks.get(&candidate.2).map(|entry| entry.address.clone()) {
                self.show(&address);
            }
        }
    }

    fn change(&mut self, task: TaskId, entry: Option<Entry>) {
        let before = self.replace(task, entry);
        self.replaced.push(Replaced::Entry(task, before));
    }

    fn set_served(&mut self, repo: RepoRef, served: Served) {
        let before = self.replace_served(&repo, served);
        self.replaced.push(Replaced::Served(repo, before));
    }

    /// The only place that changes a task. All that is kept beside `tasks` follows from the entries.
    fn replace(&mut self, task: TaskId, entry: Option<Entry>) -> Option<Entry> {
        let before = self.tasks.get(&task).cloned();
        let address = entry.as_ref().or(before.as_ref())?.address.clone();
        self.hide(&address);
        if let Some(before) = &before {
            self.unlink(task, before);
        }
        match entry {
            Some(entry) => {
                self.link(task, &entry);
                self.tasks.insert(task, entry);
            }
            None => {
                self.tasks.remove(&task);
            }
        }
        self.show(&address);
        before
    }

    fn link(&mut self, task: TaskId, entry: &Entry) {
        self.sessions
            .entry(entry.address.clone())
            .or_default()
            .insert(entry.seq, task);
        if entry.running {
            self.busy.insert(entry.address.clone());
        } else {
            self.queued.insert((entry.submitted, entry.seq));
        }
        for other in &entry.after {
            self.dependents.entry(*other).or_default().insert(task);
        }
    }

    fn unlink(&mut self, task: TaskId, entry: &Entry) {
        if let Some(session) = self.sessions.get_mut(&entry.address) {
            session.remove(&entry.seq);
            if session.is_empty() {
                self.sessions.remove(&entry.address);
            }
        }
        if entry.running {
            self.busy.remove(&entry.address);
        }
        self.queued.remove(&(entry.submitted, entry.seq));
        for other in &entry.after {
            if let Some(dependents) = self.dependents.get_mut(other) {
                dependents.remove(&task);
                if dependents.is_empty() {
                    self.dependents.remove(other);
                }
            }
        }
    }

    /// The oldest unfinished task of a session, and its entry.
    fn first_of(&self, address: &Address) -> Option<(TaskId, &Entry)> {
        let (_, task) = self.sessions.get(address)?.first_key_value()?;
        Some((*task, self.tasks.get(task)?))
    }

    /// Takes the candidate of a session out of the candidates, before the session changes.
    fn hide(&mut self, address: &Address) {
        let Some((task, entry)) = self.first_of(address) else {
            return;
        };
        let (seq, rank) = (entry.seq, entry.rank());
        if let Some(time) = entry.not_before {
            self.waiting.remove(&(time, seq, task));
        }
        self.change_ready(address.repo(), |ready| {
            ready.remove(&(rank, seq, task));
        });
    }

    /// Puts the candidate of a session, if it has one, where it belongs at this time.
    fn show(&mut self, address: &Address) {
        let Some((task, entry)) = self.first_of(address) else {
            return;
        };
        if self.busy.contains(address) || !entry.after.is_empty() {
            return;
        }
        let (seq, rank) = (entry.seq, entry.rank());
        match entry.not_before {
            Some(time) if time > self.now => {
                self.waiting.insert((time, seq, task));
            }
            _ => self.change_ready(address.repo(), |ready| {
                ready.insert((rank, seq, task));
            }),
        }
    }

    /// Changes the ready candidates of a repository, and with them its place among the others.
    fn change_ready(&mut self, repo: &RepoRef, change: impl FnOnce(&mut BTreeSet<(Micros, i64, TaskId)>)) {
        if let Some(standing) = self.standing(repo) {
            self.order.remove(&standing);
        }
        let ready = self.ready.entry(repo.clone()).or_default();
        change(ready);
        if ready.is_empty() {
            self.ready.remove(repo);
        }
        self.order.extend(self.standing(repo));
    }

    fn replace_served(&mut self, repo: &RepoRef, served: Served) -> Served {
        if let Some(standing) = self.standing(repo) {
            self.order.remove(&standing);
        }
        let before = self.served.insert(repo.clone(), served);
        self.order.extend(self.standing(repo));
        before.unwrap_or(Served::NEVER)
    }

    fn standing(&self, repo: &RepoRef) -> Option<Standing> {
        let (_, seq, task) = self.ready.get(repo)?.first()?;
        let entry = self.tasks.get(task)?;
        let served = self.served.get(repo).copied().unwrap_or(Served::NEVER);
        let since = entry.waits_since().max(served.at);
        Some((aged(since, entry.priority), served.turn, *seq, repo.clone()))
    }
}
