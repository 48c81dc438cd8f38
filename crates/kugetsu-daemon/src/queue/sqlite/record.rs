//! Rows and tasks: how a task is written and read.

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use uuid::Uuid;

use kugetsu_api::{Task, TaskId, Verdict};

use super::super::time::{Micros, ceil, floor, timestamp};

/// A task as it is kept.
#[derive(Debug)]
pub(super) struct Record {
    /// Its place in the order of submission.
    pub(super) seq: i64,
    /// The task.
    pub(super) task: Task,
    /// How many of its attempts count against the limit.
    pub(super) tries: u32,
    /// The time that the submission asked for, before any attempt changed it.
    pub(super) requested_not_before: Option<Micros>,
    /// Whether it was cancelled while it ran.
    pub(super) cancelled: bool,
}

/// What is new about a task that is submitted.
pub(super) struct NewRecord<'a> {
    pub(super) task: &'a Task,
    pub(super) spec: &'a str,
    pub(super) idempotency_key: Option<&'a str>,
}

/// A row that does not make sense. Only damage or another program writes one.
pub(super) type Damage = String;

/// A row, or why it does not make sense.
pub(super) type Found<T> = Result<T, Damage>;

const COLUMNS: &str = "seq, id, state, priority, not_before, requested_not_before, submitted, attempts, tries, turn, \
     started, ended, verdict, cost, reason, cancelled, spec, \
     (SELECT group_concat(after, ' ' ORDER BY position) FROM dependencies WHERE task = seq)";

/// The statement that reads the tasks for which the condition holds.
pub(super) fn select(condition: &str) -> String {
    format!("SELECT {COLUMNS} FROM tasks {condition}")
}

/// Reads a task.
pub(super) fn load(connection: &Connection, task: TaskId) -> rusqlite::Result<Option<Found<Record>>> {
    connection
        .prepare_cached(&select("WHERE id = ?1"))?
        .query_row([task.to_string()], read)
        .optional()
}

/// Reads the row of a statement that [`select`] made.
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Found<Record>> {
    let id: String = row.get("id")?;
    let fields = Fields {
        seq: row.get("seq")?,
        state: row.get("state")?,
        priority: row.get("priority")?,
        not_before: row.get("not_before")?,
        requested_not_before: row.get("requested_not_before")?,
        submitted: row.get("submitted")?,
        attempts: row.get("attempts")?,
        tries: row.get("tries")?,
        turn: row.get("turn")?,
        started: row.get("started")?,
        ended: row.get("ended")?,
        verdict: row.get("verdict")?,
        cost: row.get("cost")?,
        reason: row.get("reason")?,
        cancelled: row.get("cancelled")?,
        spec: row.get("spec")?,
        after: row.get(17)?,
    };
    Ok(fields
        .into_record(&id)
        .map_err(|problem| format!("the record of the task {id} makes no sense: {problem}")))
}

/// Writes what changes in the life of a task.
pub(super) fn save(connection: &Connection, record: &Record) -> rusqlite::Result<()> {
    let task = &record.task;
    connection
        .prepare_cached(
            "UPDATE tasks SET state = :state, not_before = :not_before, attempts = :attempts, tries = :tries,
                 turn = :turn, started = :started, ended = :ended, verdict = :verdict, cost = :cost,
                 reason = :reason, cancelled = :cancelled
             WHERE seq = :seq",
        )?
        .execute(named_params! {
            ":seq": record.seq,
            ":state": task.state.as_str(),
            ":not_before": task.not_before.map(ceil),
            ":attempts": task.attempts,
            ":tries": record.tries,
            ":turn": task.turn.map(|turn| turn.to_string()),
            ":started": task.started.map(floor),
            ":ended": task.ended.map(floor),
            ":verdict": task.verdict.map(Verdict::as_str),
            ":cost": task.cost_usd,
            ":reason": task.reason,
            ":cancelled": record.cancelled,
        })?;
    Ok(())
}

/// Writes a new task, and returns its place in the order of submission.
pub(super) fn insert(connection: &Connection, new: &NewRecord<'_>) -> rusqlite::Result<i64> {
    let task = new.task;
    connection
        .prepare_cached(
            "INSERT INTO tasks (id, ref, repo, state, priority, not_before, requested_not_before, submitted,
                 idempotency_key, spec)
             VALUES (:id, :ref, :repo, :state, :priority, :not_before, :not_before, :submitted, :key, :spec)",
        )?
        .execute(named_params! {
            ":id": task.task.to_string(),
            ":ref": task.spec.address.to_string(),
            ":repo": task.repo().as_str(),
            ":state": task.state.as_str(),
            ":priority": task.priority,
            ":not_before": task.not_before.map(ceil),
            ":submitted": floor(task.submitted),
            ":key": new.idempotency_key,
            ":spec": new.spec,
        })?;
    let seq = connection.last_insert_rowid();
    let mut statement =
        connection.prepare_cached("INSERT INTO dependencies (task, position, after) VALUES (?1, ?2, ?3)")?;
    for (position, other) in task.after.iter().enumerate() {
        statement.execute((seq, position as i64, other.to_string()))?;
    }
    Ok(seq)
}

/// The unfinished tasks that were to wait for this one.
pub(super) fn waiting_for(connection: &Connection, task: TaskId) -> rusqlite::Result<Vec<TaskId>> {
    let mut statement = connection.prepare_cached(
        "SELECT tasks.id FROM dependencies JOIN tasks ON tasks.seq = dependencies.task
         WHERE dependencies.after = ?1 AND tasks.state IN ('queued', 'running')",
    )?;
    statement
        .query_map([task.to_string()], |row| row.get::<_, String>(0))?
        .filter_map(|id| id.map(|id| id.parse().ok()).transpose())
        .collect()
}

/// The columns of a row, before they are understood.
struct Fields {
    seq: i64,
    state: String,
    priority: i32,
    not_before: Option<Micros>,
    requested_not_before: Option<Micros>,
    submitted: Micros,
    attempts: u32,
    tries: u32,
    turn: Option<String>,
    started: Option<Micros>,
    ended: Option<Micros>,
    verdict: Option<String>,
    cost: f64,
    reason: Option<String>,
    cancelled: bool,
    spec: String,
    after: Option<String>,
}

impl Fields {
    fn into_record(self, id: &str) -> Found<Record> {
        let task = Task {
            task: id.parse().map_err(damage)?,
            spec: serde_json::from_str(&self.spec).map_err(damage)?,
            state: self.state.parse()?,
            priority: self.priority,
            after: ids(self.after.as_deref().unwrap_or_default())?,
            not_before: self.not_before.map(time).transpose()?,
            submitted: time(self.submitted)?,
            attempts: self.attempts,
            turn: self
                .turn
                .map(|turn| turn.parse::<Uuid>())
                .transpose()
                .map_err(damage)?,
            started: self.started.map(time).transpose()?,
            ended: self.ended.map(time).transpose()?,
            verdict: self.verdict.map(|verdict| verdict.parse()).transpose()?,
            cost_usd: self.cost,
            reason: self.reason,
        };
        Ok(Record {
            seq: self.seq,
            task,
            tries: self.tries,
            requested_not_before: self.requested_not_before,
            cancelled: self.cancelled,
        })
    }
}

/// The task of a row with these texts (id, state, turn, verdict, ids of other tasks, spec) and times (not before,
/// submitted, started, ended), or why there is none.
#[cfg(feature = "internals")]
pub fn task_of_row(texts: [&str; 6], times: [i64; 4]) -> Result<Task, String> {
    let [id, state, turn, verdict, after, spec] = texts;
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let fields = Fields {
        seq: 1,
        state: state.to_owned(),
        priority: 0,
        not_before: Some(times[0]),
        requested_not_before: None,
        submitted: times[1],
        attempts: 0,
        tries: 0,
        turn: given(turn),
        started: Some(times[2]),
        ended: Some(times[3]),
        verdict: given(verdict),
        cost: 0.0,
        reason: None,
        cancelled: false,
        spec: spec.to_owned(),
        after: given(after),
    };
    Ok(fields.into_record(id)?.task)
}

fn ids(text: &str) -> Found<Vec<TaskId>> {
    text.split_whitespace()
        .map(|id| id.parse().map_err(damage))
        .collect()
}

fn time(micros: Micros) -> Found<jiff::Timestamp> {
    timestamp(micros).ok_or_else(|| format!("{micros} is not a time"))
}

fn damage(error: impl std::fmt::Display) -> Damage {
    error.to_string()
}
