//! What the writer does for each operation, inside the transaction of its batch.
//!
//! An operation that is refused has changed nothing. One that SQLite fails takes its whole batch with it.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};
use serde_json::Value;
use uuid::Uuid;

use kugetsu_api::{RepoRef, Task, TaskId, TaskState};

use super::super::schedule::Entry;
use super::super::time::{ceil, floor, timestamp};
use super::super::{Cancellation, Claim, NewTask, QueueError, Settlement, Submitted, turn_of};
use super::memory::Memory;
use super::record::{self, NewRecord, Record};
use super::{QueueOptions, schema};

/// Why an operation did nothing.
pub(in crate::queue) enum Problem {
    /// It may not be done. The others of its batch may.
    Refused(QueueError),
    /// The file cannot be read or written.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        Self::Refused(error)
    }
}

type Outcome<T> = Result<T, Problem>;

/// The open transaction of a batch.
pub(in crate::queue) struct Work<'a> {
    pub(in crate::queue) connection: &'a Connection,
    pub(super) memory: &'a mut Memory,
    pub(super) options: &'a QueueOptions,
    /// Whether something happened that may let a task be claimed.
    pub(super) news: bool,
}

impl Work<'_> {
    pub(in crate::queue) fn submit(&mut self, new: NewTask) -> Outcome<Submitted> {
        let new = Request::of(new)?;
        if let Some(submitted) = self.submitted_before(&new)? {
            return Ok(submitted);
        }
        for other in &new.task.after {
            if !self.exists(*other)? {
                return Err(QueueError::NoSuchDependency(*other).into());
            }
        }
        self.refuse_if_full()?;
        let seq = record::insert(
            self.connection,
            &NewRecord {
                task: &new.task,
                spec: &new.spec,
                idempotency_key: new.idempotency_key.as_deref(),
            },
        )?;
        self.memory
            .schedule
            .add(new.task.task, Entry::queued(seq, &new.task));
        self.news = true;
        Ok(Submitted {
            task: new.task,
            is_new: true,
        })
    }

    pub(in crate::queue) fn claim(&mut self, now: Timestamp) -> Outcome<Option<Claim>> {
        if let Some(claim) = self.resume(now)? {
            return Ok(Some(claim));
        }
        while let Some(task) = self.memory.schedule.claim(floor(now)) {
            if let Some(claim) = self.begin(task, now)? {
                return Ok(Some(claim));
            }
        }
        Ok(None)
    }

    pub(in crate::queue) fn settle(
        &mut self,
        task: TaskId,
        turn: Uuid,
        end: Settlement,
        now: Timestamp,
    ) -> Outcome<Task> {
        let mut record = self.record(task)?;
        if record.task.state != TaskState::Running || record.task.turn != Some(turn) {
            return Ok(record.task);
        }
        self.apply(&mut record, end);
        if record.task.state.is_final() {
            record.task.ended = timestamp(floor(now));
        }
        record::save(self.connection, &record)?;
        if record.task.state.is_final() {
            self.forget_unfinished(&record.task);
        } else if let Some(time) = record.task.not_before {
            self.memory.schedule.requeue(task, ceil(time));
        }
        self.news = true;
        Ok(record.task)
    }

    pub(in crate::queue) fn cancel(&mut self, task: TaskId, now: Timestamp) -> Outcome<Cancellation> {
        let mut record = self.record(task)?;
        match record.task.state {
            TaskState::Queued => {}
            TaskState::Running => {
                record.cancelled = true;
                record::save(self.connection, &record)?;
                return Ok(Cancellation::Running(record.task));
            }
            TaskState::Parked => self.memory.parked = self.memory.parked.saturating_sub(1),
            TaskState::Ended | TaskState::Cancelled => {
                return Ok(Cancellation::Over(record.task));
            }
        }
        record.task.state = TaskState::Cancelled;
        record.task.ended = timestamp(floor(now));
        record::save(self.connection, &record)?;
        self.forget_unfinished(&record.task);
        self.news = true;
        Ok(Cancellation::Cancelled(record.task))
    }

    pub(in crate::queue) fn retry(&mut self, task: TaskId, now: Timestamp) -> Outcome<Task> {
        let mut record = self.record(task)?;
        match record.task.state {
            TaskState::Queued | TaskState::Running => return Ok(record.task),
            TaskState::Parked => {}
            state @ (TaskState::Ended | TaskState::Cancelled) => {
                return Err(QueueError::NotParked { task, state }.into());
            }
        }
        self.refuse_if_full()?;
        record.task.state = TaskState::Queued;
        // The time in which it was parked is no time of waiting.
        record.task.not_before = timestamp(floor(now));
        record.task.ended = None;
        record.tries = 0;
        record.cancelled = false;
        record::save(self.connection, &record)?;
        self.memory.parked = self.memory.parked.saturating_sub(1);
        self.memory
            .schedule
            .add(task, Entry::queued(record.seq, &record.task));
        for waiting in record::waiting_for(self.connection, task)? {
            self.memory.schedule.wait_for(waiting, task);
        }
        self.news = true;
        Ok(record.task)
    }

    fn refuse_if_full(&self) -> Outcome<()> {
        let most = self.options.max_queued;
        if self.memory.schedule.queued() >= most {
            return Err(QueueError::Full { most }.into());
        }
        Ok(())
    }

    pub(in crate::queue) fn set_weights(&mut self, weights: HashMap<RepoRef, u32>) {
        self.memory.schedule.set_weights(weights);
    }

    /// Removes at most `limit` tasks, so that other operations need not wait until a large queue is cleared out.
    pub(in crate::queue) fn forget_ended(&mut self, before: Timestamp, limit: u64) -> Outcome<u64> {
        let mut statement = self.connection.prepare_cached(
            "DELETE FROM tasks WHERE seq IN (
                 SELECT seq FROM tasks AS old WHERE old.ended < ?1
                 AND old.state NOT IN ('queued', 'running')
                 AND NOT EXISTS (
                     SELECT 1 FROM dependencies JOIN tasks AS other ON other.seq = dependencies.task
                     WHERE dependencies.after = old.id AND other.state IN ('queued', 'running'))
                 ORDER BY old.ended LIMIT ?2)
             RETURNING state = 'parked'",
        )?;
        let were_parked = statement
            .query_map((floor(before), limit as i64), |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<bool>>>()?;
        let parked = were_parked.iter().filter(|parked| **parked).count() as u64;
        self.memory.parked = self.memory.parked.saturating_sub(parked);
        Ok(were_parked.len() as u64)
    }

    /// The task that this request, or one with its key, has made before. The id of a task is a key, too.
    fn submitted_before(&self, new: &Request) -> Outcome<Option<Submitted>> {
        let first = self
            .connection
            .prepare_cached("SELECT id, spec FROM tasks WHERE idempotency_key = ?1 OR id = ?2 LIMIT 1")?
            .query_row(
                (new.idempotency_key.as_deref(), new.task.task.to_string()),
                |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)),
            )
            .optional()?;
        let Some((id, spec)) = first else {
            return Ok(None);
        };
        let id: TaskId = id
            .parse()
            .map_err(|error: uuid::Error| self.damaged(error.to_string()))?;
        let record = self.record(id)?;
        if !new.is_repeated(&record, &spec) {
            return Err(QueueError::KeyReused { task: id }.into());
        }
        Ok(Some(Submitted {
            task: record.task,
            is_new: false,
        }))
    }

    /// The next of the tasks that ran when the queue was opened.
    fn resume(&mut self, now: Timestamp) -> Outcome<Option<Claim>> {
        while let Some(id) = self.memory.resumed.pop_front() {
            let Record { task, cancelled, .. } = match record::load(self.connection, id)? {
                Some(Ok(record)) => record,
                Some(Err(damage)) => {
                    self.park_damaged(id, now, &damage)?;
                    continue;
                }
                None => continue,
            };
            // It may have been settled by someone who knew its turn.
            if let (TaskState::Running, Some(turn)) = (task.state, task.turn) {
                return Ok(Some(Claim {
                    task,
                    turn,
                    resumed: true,
                    cancelled,
                }));
            }
        }
        Ok(None)
    }

    /// Begins an attempt of a task that the schedule has handed out.
    fn begin(&mut self, id: TaskId, now: Timestamp) -> Outcome<Option<Claim>> {
        let mut record = match record::load(self.connection, id)? {
            Some(Ok(record)) => record,
            Some(Err(damage)) => {
                self.park_damaged(id, now, &damage)?;
                return Ok(None);
            }
            None => {
                self.memory.schedule.remove(id);
                return Ok(None);
            }
        };
        record.task.state = TaskState::Running;
        record.task.attempts = record.task.attempts.saturating_add(1);
        let turn = turn_of(id, record.task.attempts);
        record.task.turn = Some(turn);
        record.task.started = timestamp(floor(now));
        record.task.reason = None;
        record::save(self.connection, &record)?;
        Ok(Some(Claim {
            task: record.task,
            turn,
            resumed: false,
            cancelled: false,
        }))
    }

    /// A task that cannot be read must not be first in the queue forever.
    fn park_damaged(&mut self, task: TaskId, now: Timestamp, damage: &str) -> Outcome<()> {
        tracing::error!(%task, damage, "a task of the queue cannot be read; it is parked");
        self.connection.execute(
            "UPDATE tasks SET state = 'parked', ended = ?2, reason = ?3 WHERE id = ?1",
            (task.to_string(), floor(now), damage),
        )?;
        self.memory.parked += 1;
        self.memory.schedule.remove(task);
        self.news = true;
        Ok(())
    }

    fn apply(&self, record: &mut Record, end: Settlement) {
        let end = match end {
            Settlement::Again { cost_usd, .. } if record.cancelled => Settlement::Cancelled { cost_usd },
            Settlement::Parked { .. } if record.cancelled => Settlement::Cancelled { cost_usd: 0.0 },
            end => end,
        };
        let task = &mut record.task;
        match end {
            Settlement::Ended {
                turn,
                verdict,
                reason,
                cost_usd,
            } => {
                task.state = TaskState::Ended;
                task.turn = Some(turn);
                task.verdict = Some(verdict);
                task.reason = reason;
                add_cost(task, cost_usd);
            }
            Settlement::Again {
                not_before,
                reason,
                cost_usd,
                counts,
            } => {
                record.tries = record.tries.saturating_add(u32::from(counts));
                add_cost(task, cost_usd);
                if counts && record.tries >= self.options.max_tries {
                    task.state = TaskState::Parked;
                    task.reason = Some(given_up(record.tries, &reason));
                } else {
                    task.state = TaskState::Queued;
                    task.not_before = timestamp(ceil(not_before));
                    task.reason = Some(reason);
                }
            }
            Settlement::Parked { reason } => {
                task.state = TaskState::Parked;
                task.reason = Some(reason);
            }
            Settlement::Cancelled { cost_usd } => {
                task.state = TaskState::Cancelled;
                task.reason = None;
                add_cost(task, cost_usd);
            }
        }
    }

    fn forget_unfinished(&mut self, task: &Task) {
        self.memory.parked += u64::from(task.state == TaskState::Parked);
        self.memory.schedule.remove(task.task);
    }

    fn exists(&self, task: TaskId) -> Outcome<bool> {
        if self.memory.schedule.contains(task) {
            return Ok(true);
        }
        let mut statement = self
            .connection
            .prepare_cached("SELECT 1 FROM tasks WHERE id = ?1")?;
        Ok(statement.exists([task.to_string()])?)
    }

    fn record(&self, task: TaskId) -> Outcome<Record> {
        match record::load(self.connection, task)? {
            Some(Ok(record)) => Ok(record),
            Some(Err(damage)) => Err(self.damaged(damage)),
            None => Err(QueueError::NoSuchTask(task).into()),
        }
    }

    fn damaged(&self, damage: String) -> Problem {
        let path = self.connection.path().unwrap_or_default();
        schema::unusable(path.as_ref(), damage).into()
    }
}

/// A submission in the form in which it is kept.
struct Request {
    task: Task,
    spec: String,
    idempotency_key: Option<String>,
}

impl Request {
    fn of(new: NewTask) -> Outcome<Self> {
        let spec = serde_json::to_string(&new.spec).map_err(|error| QueueError::Unavailable {
            what: "written",
            problem: error.to_string(),
        })?;
        let task = Task {
            task: new.task,
            spec: new.spec,
            state: TaskState::Queued,
            priority: new.priority,
            after: without_repetitions(new.after),
            not_before: new.not_before.map(ceil).and_then(timestamp),
            submitted: timestamp(floor(new.submitted)).unwrap_or(new.submitted),
            attempts: 0,
            turn: None,
            started: None,
            ended: None,
            verdict: None,
            cost_usd: 0.0,
            reason: None,
        };
        Ok(Self {
            task,
            spec,
            idempotency_key: new.idempotency_key,
        })
    }

    /// Specs are compared as JSON, because a number may not be the same after it was written and read. The span is that
    /// of the one request.
    fn is_repeated(&self, first: &Record, spec: &str) -> bool {
        let json = |text: &str| {
            let mut spec = serde_json::from_str::<Value>(text).ok()?;
            spec.as_object_mut()?.remove("traceparent");
            Some(spec)
        };
        self.task.priority == first.task.priority
            && self.task.after == first.task.after
            && self.task.not_before.map(ceil) == first.requested_not_before
            && json(&self.spec) == json(spec)
    }
}

fn without_repetitions(ids: Vec<TaskId>) -> Vec<TaskId> {
    let mut seen = std::collections::HashSet::new();
    ids.into_iter().filter(|id| seen.insert(*id)).collect()
}

/// A cost that is not a number would make the sum useless, and SQLite has no such number.
fn add_cost(task: &mut Task, cost: f64) {
    let sum = task.cost_usd + cost;
    if sum.is_finite() {
        task.cost_usd = sum;
    }
}

fn given_up(tries: u32, reason: &str) -> String {
    let times = if tries == 1 { "time" } else { "times" };
    format!("given up: it failed {tries} {times}, which is the limit; the last time: {reason}")
}
