//! The queue of tasks: durable, fair across repositories, one task at a time for each session.
//!
//! [`Queue`] is the border. Nothing above it knows how tasks are kept, because a distributed queue will be a second
//! implementation beside [`SqliteQueue`]. A queue delivers a task at least once: after a crash it hands out a claimed
//! task again, with the same turn id, and the engine runs no turn twice.

#[cfg(test)]
mod reference;
mod schedule;
mod sqlite;
#[cfg(test)]
mod tests;
mod time;

use std::collections::HashMap;

use async_trait::async_trait;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use uuid::Uuid;

use kugetsu_api::{QueueCounts, RepoRef, Task, TaskId, TaskSpec, TaskState, Verdict};

#[cfg(feature = "internals")]
pub use sqlite::task_of_row;
pub use sqlite::{QueueOptions, SqliteQueue};

/// A task that is submitted.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    /// Its id, which is new.
    pub task: TaskId,
    /// What it does.
    pub spec: TaskSpec,
    /// Tasks with a higher number run first.
    pub priority: i32,
    /// The tasks whose end it waits for, however they end.
    pub after: Vec<TaskId>,
    /// It does not begin before this time.
    pub not_before: Option<Timestamp>,
    /// The key with which the same submission can be repeated without making a second task.
    pub idempotency_key: Option<String>,
    /// The time of submission.
    pub submitted: Timestamp,
}

/// The id of the turn that an attempt of a task runs. It follows from the two, so every earlier attempt can be found.
pub fn turn_of(task: TaskId, attempt: u32) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(task.0);
    hash.update(attempt.to_be_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The result of a submission.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    /// The task: the new one, or the one that was submitted before with the same idempotency key.
    pub task: Task,
    /// Whether the submission made the task.
    pub is_new: bool,
}

/// A task that was claimed. It is on record as running before the claim is returned.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The task.
    pub task: Task,
    /// The id of the turn that this attempt runs. The same attempt keeps it after a crash of the daemon.
    pub turn: Uuid,
    /// Whether the claim was on record already when the queue was opened, so that the turn may have run.
    pub resumed: bool,
    /// Whether the task was cancelled while its turn ran. The turn is not to run any more.
    pub cancelled: bool,
}

/// How the attempt of a claimed task ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Settlement {
    /// The turn has a verdict; the task has ended.
    Ended {
        /// The turn: that of the claim, or of an earlier attempt whose end was not known.
        turn: Uuid,
        /// The verdict.
        verdict: Verdict,
        /// Why, if the verdict is not `completed`.
        reason: Option<String>,
        /// What the turn cost, in US dollars.
        cost_usd: f64,
    },
    /// The task is to be run again as a new turn, not before this time; one that was cancelled is not.
    Again {
        /// The time.
        not_before: Timestamp,
        /// Why.
        reason: String,
        /// What the turn cost, in US dollars.
        cost_usd: f64,
        /// Whether this attempt counts against the limit of tries.
        counts: bool,
    },
    /// The task cannot be run; one that was cancelled is not parked.
    Parked {
        /// Why.
        reason: String,
    },
    /// The task was cancelled while its turn ran.
    Cancelled {
        /// What the turn cost, in US dollars.
        cost_usd: f64,
    },
}

/// The result of a cancellation.
#[derive(Clone, Debug, PartialEq)]
pub enum Cancellation {
    /// The task had not begun, or was parked, and will not run.
    Cancelled(Task),
    /// The turn of the task runs; its runner has to end it. That it was cancelled is on record, so the task is not run
    /// again whatever becomes of the runner.
    Running(Task),
    /// The task had ended before.
    Over(Task),
}

/// Which tasks to list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskFilter {
    /// Only those in one of these states; all if empty.
    pub states: Vec<TaskState>,
    /// Only those of this repository.
    pub repo: Option<RepoRef>,
    /// Only those of the session with this address.
    pub address: Option<String>,
    /// Only those submitted before this one: newest first, a page continues where the last one ended.
    pub before: Option<TaskId>,
    /// At most this many.
    pub limit: usize,
}

/// Why the queue did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The idempotency key belongs to another submission.
    #[error("the idempotency key was used for the task {task}, which asks for something else")]
    KeyReused {
        /// The task of the first submission.
        task: TaskId,
    },
    /// A task waits for one that the queue does not have.
    #[error("there is no task {0} to wait for")]
    NoSuchDependency(TaskId),
    /// The queue has no such task.
    #[error("there is no task {0}")]
    NoSuchTask(TaskId),
    /// The task is over, and was not parked.
    #[error("the task {task} is {state}, and only a parked one can be tried again")]
    NotParked {
        /// The task.
        task: TaskId,
        /// Its state.
        state: TaskState,
    },
    /// As many tasks wait as may.
    #[error("the queue is full: {most} tasks wait")]
    Full {
        /// The limit.
        most: u64,
    },
    /// The place where tasks are kept cannot be read or written now.
    #[error("the queue cannot be {what}: {problem}")]
    Unavailable {
        /// `read` or `written`.
        what: &'static str,
        /// The problem.
        problem: String,
    },
    /// What is kept was written by a newer version or is damaged.
    #[error("the queue in {place} cannot be used: {problem}")]
    Unusable {
        /// Where it is.
        place: String,
        /// The problem.
        problem: String,
    },
}

/// A durable queue of tasks.
///
/// Invariants, which the tests hold every implementation to:
/// - a task whose submission was confirmed is never lost;
/// - a claimed task is not handed out again before it is settled, except to a queue that is opened after a crash, with
///   the same turn id;
/// - the tasks of one session are handed out in the order of their submission, one at a time, whatever their priority
///   (a task that waits for its time or for another task holds back those of its session behind it);
/// - no repository waits for another one that has more tasks: among repositories whose first task has the same
///   priority, each gets as many turns as its weight says, in turn.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Stores a task. It is durable when this returns. The same submission with the same idempotency key, or the same id,
    /// gives the first task; a different one is an error.
    async fn submit(&self, task: NewTask) -> Result<Submitted, QueueError>;

    /// Hands out the next task that may run now, with the id of its turn, and records that it runs.
    async fn claim(&self, now: Timestamp) -> Result<Option<Claim>, QueueError>;

    /// Records how the attempt of a claimed task ended. Settling a task that does not run with this turn does nothing.
    async fn settle(
        &self,
        task: TaskId,
        turn: Uuid,
        end: Settlement,
        now: Timestamp,
    ) -> Result<Task, QueueError>;

    /// Cancels a task that has not begun, and takes note that one that runs is not to be run again.
    async fn cancel(&self, task: TaskId, now: Timestamp) -> Result<Cancellation, QueueError>;

    /// Puts a parked task back to its place in its session, with all its attempts. One that waits or runs stays as it
    /// is.
    async fn retry(&self, task: TaskId, now: Timestamp) -> Result<Task, QueueError>;

    /// A task.
    async fn task(&self, task: TaskId) -> Result<Option<Task>, QueueError>;

    /// Tasks, newest first.
    async fn list(&self, filter: TaskFilter) -> Result<Vec<Task>, QueueError>;

    /// The ids of tasks that begin or end with this text, at most ten.
    async fn matching(&self, text: String) -> Result<Vec<TaskId>, QueueError>;

    /// The number of tasks.
    fn counts(&self) -> QueueCounts;

    /// Why nothing can be written, if the last attempt has failed.
    fn problem(&self) -> Option<String>;

    /// The time at which a task that waits for its time may run, if nothing else can be claimed before.
    fn next_due(&self) -> Option<Timestamp>;

    /// Changes whenever there may be something to claim. Closed if nothing can be written any more until the queue is
    /// opened again.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Uses these weights of repositories from now on; one that has none weighs 1. A queue that is opened has none.
    async fn set_weights(&self, weights: HashMap<RepoRef, u32>) -> Result<(), QueueError>;

    /// Forgets tasks that ended before this time, unless another task waits for them. Returns how many.
    async fn forget_ended(&self, before: Timestamp) -> Result<u64, QueueError>;
}
