//! The rules of the schedule as slow and simple as they can be: what the tests compare it with.

use std::collections::HashMap;

use kugetsu_api::{Address, RepoRef, TaskId, TaskState};

use super::schedule::AGEING;
use super::time::Micros;

/// A task of the reference.
#[derive(Clone, Debug)]
pub(super) struct ReferenceTask {
    pub(super) task: TaskId,
    pub(super) seq: i64,
    pub(super) address: Address,
    pub(super) priority: i32,
    pub(super) submitted: Micros,
    pub(super) not_before: Option<Micros>,
    pub(super) after: Vec<TaskId>,
    pub(super) state: TaskState,
}

/// All tasks, and when each repository was served. Every question looks at all of them.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub(super) tasks: Vec<ReferenceTask>,
    /// When each repository had its last turn of a rotation, the number of that turn, and its turns since.
    served: HashMap<RepoRef, (Micros, u64, u32)>,
    pub(super) weights: HashMap<RepoRef, u32>,
    turns: u64,
    pub(super) now: Micros,
}

impl Reference {
    pub(super) fn new() -> Self {
        Self {
            tasks: Vec::new(),
            served: HashMap::new(),
            weights: HashMap::new(),
            turns: 0,
            now: 0,
        }
    }

    /// What a queue that is opened knows no more.
    pub(super) fn reopen(&mut self) {
        self.served.clear();
        self.weights.clear();
        self.turns = 0;
        self.now = 0;
    }

    pub(super) fn get(&mut self, task: TaskId) -> &mut ReferenceTask {
        self.tasks.iter_mut().find(|other| other.task == task).unwrap()
    }

    pub(super) fn in_state(&self, state: TaskState) -> Vec<TaskId> {
        let tasks = self.tasks.iter().filter(|task| task.state == state);
        tasks.map(|task| task.task).collect()
    }

    pub(super) fn claim(&mut self, now: Micros) -> Option<TaskId> {
        self.now = self.now.max(now);
        let mut best_of_repo: HashMap<&RepoRef, &ReferenceTask> = HashMap::new();
        for task in self
            .candidates()
            .filter(|task| task.not_before.is_none_or(|time| time <= self.now))
        {
            let best = best_of_repo.entry(task.address.repo()).or_insert(task);
            if (self.points(task, Micros::MIN), -task.seq) > (self.points(best, Micros::MIN), -best.seq) {
                *best = task;
            }
        }
        let (repo, task) = best_of_repo.into_iter().max_by_key(|(repo, task)| {
            let (at, turn, _) = self.served.get(repo).copied().unwrap_or((Micros::MIN, 0, 0));
            (self.points(task, at), std::cmp::Reverse(turn), -task.seq)
        })?;
        let (repo, task) = (repo.clone(), task.task);
        self.turns += 1;
        let weight = self.weights.get(&repo).copied().unwrap_or(1);
        let served = self.served.entry(repo).or_insert((Micros::MIN, 0, 0));
        served.2 += 1;
        if served.2 >= weight {
            *served = (self.now, self.turns, 0);
        }
        self.get(task).state = TaskState::Running;
        Some(task)
    }

    pub(super) fn next_due(&self) -> Option<Micros> {
        let times = self.candidates().filter_map(|task| task.not_before);
        times.filter(|time| *time > self.now).min()
    }

    fn candidates(&self) -> impl Iterator<Item = &ReferenceTask> {
        self.tasks.iter().filter(|task| {
            let first = self
                .tasks
                .iter()
                .filter(|other| other.address == task.address && !other.state.is_final())
                .min_by_key(|other| other.seq);
            let is_busy = self
                .tasks
                .iter()
                .any(|other| other.address == task.address && other.state == TaskState::Running);
            let waits = task.after.iter().any(|other| {
                self.tasks
                    .iter()
                    .any(|task| task.task == *other && !task.state.is_final())
            });
            task.state == TaskState::Queued
                && first.is_some_and(|first| first.task == task.task)
                && !waits
                && !is_busy
        })
    }

    /// Effective priority, in microseconds of waiting.
    fn points(&self, task: &ReferenceTask, not_since: Micros) -> i64 {
        let since = task
            .submitted
            .max(task.not_before.unwrap_or(Micros::MIN))
            .max(not_since);
        self.now - since + i64::from(task.priority) * AGEING
    }
}
