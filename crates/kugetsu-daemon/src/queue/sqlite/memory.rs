//! What the writer keeps in memory beside the file: the schedule, and what is cheap to ask for.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use kugetsu_api::{QueueCounts, TaskId, TaskState};

use super::super::schedule::{Entry, Schedule};
use super::super::time::{Micros, timestamp};
use super::{QueueError, schema};

/// The queue as the writer knows it. It follows from the file, but for the rotation of the repositories, which begins
/// anew when the queue is opened.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// All tasks that are not over.
    pub(super) schedule: Schedule,
    /// Tasks that ran when the queue was opened and were not handed out since.
    pub(super) resumed: VecDeque<TaskId>,
    /// The number of parked tasks.
    pub(super) parked: u64,
}

/// What is told without asking the writer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Overview {
    /// The number of tasks.
    pub(super) counts: QueueCounts,
    /// When a task that waits for its time may run.
    pub(super) next_due: Option<jiff::Timestamp>,
}

/// The newest overview.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedOverview(Arc<Mutex<(Overview, Option<String>)>>);

impl SharedOverview {
    pub(super) fn get(&self) -> Overview {
        self.locked().0
    }

    /// Why the last attempt to write has failed, if it has.
    pub(super) fn problem(&self) -> Option<String> {
        self.locked().1.clone()
    }

    pub(super) fn set(&self, overview: Overview, problem: Option<String>) {
        *self.locked() = (overview, problem);
    }

    fn locked(&self) -> MutexGuard<'_, (Overview, Option<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Reads all that is not over.
    pub(super) fn load(connection: &Connection, path: &Path) -> Result<Self, QueueError> {
        let rows = unfinished(connection).map_err(|error| schema::failure(path, "read", &error))?;
        let mut dependencies =
            open_dependencies(connection).map_err(|error| schema::failure(path, "read", &error))?;
        let parked = count_parked(connection).map_err(|error| schema::failure(path, "read", &error))?;
        let mut memory = Self {
            parked,
            ..Self::default()
        };
        for row in rows {
            let id = row.id.clone();
            let after = dependencies.remove(&row.seq).unwrap_or_default();
            memory.load_task(row, &after).map_err(|problem| {
                schema::unusable(
                    path,
                    format!("the record of the task {id} makes no sense: {problem}"),
                )
            })?;
        }
        memory.schedule.keep();
        Ok(memory)
    }

    pub(super) fn overview(&self) -> Overview {
        Overview {
            counts: QueueCounts {
                queued: self.schedule.queued(),
                running: self.schedule.running(),
                parked: self.parked,
                oldest: self.schedule.oldest().and_then(timestamp),
            },
            next_due: self.schedule.next_due().and_then(timestamp),
        }
    }

    fn load_task(&mut self, row: UnfinishedRow, after: &[String]) -> Result<(), String> {
        let task: TaskId = row.id.parse().map_err(|error: uuid::Error| error.to_string())?;
        let after: Result<BTreeSet<TaskId>, _> = after.iter().map(|other| other.parse()).collect();
        let running = row.state == TaskState::Running.as_str();
        let entry = Entry {
            seq: row.seq,
            address: row
                .address
                .try_into()
                .map_err(|error: kugetsu_api::RefError| error.to_string())?,
            priority: row.priority,
            submitted: row.submitted,
            not_before: row.not_before,
            after: after.map_err(|error| error.to_string())?,
            running,
        };
        self.schedule.add(task, entry);
        if running {
            self.resumed.push_back(task);
        }
        Ok(())
    }
}

/// The columns that the schedule needs.
struct UnfinishedRow {
    seq: i64,
    id: String,
    address: String,
    state: String,
    priority: i32,
    not_before: Option<Micros>,
    submitted: Micros,
}

/// In the order of submission, so that a task comes after those that it waits for.
fn unfinished(connection: &Connection) -> rusqlite::Result<Vec<UnfinishedRow>> {
    connection
        .prepare(
            "SELECT seq, id, ref, state, priority, not_before, submitted FROM tasks
             WHERE state IN ('queued', 'running') ORDER BY seq",
        )?
        .query_map([], |row| {
            Ok(UnfinishedRow {
                seq: row.get("seq")?,
                id: row.get("id")?,
                address: row.get("ref")?,
                state: row.get("state")?,
                priority: row.get("priority")?,
                not_before: row.get("not_before")?,
                submitted: row.get("submitted")?,
            })
        })?
        .collect()
}

/// The dependencies of unfinished tasks. One that runs may have to wait when it is put back, because what it waited for
/// was tried again meanwhile.
fn open_dependencies(connection: &Connection) -> rusqlite::Result<HashMap<i64, Vec<String>>> {
    let mut statement = connection.prepare(
        "SELECT dependencies.task, dependencies.after FROM tasks
         JOIN dependencies ON dependencies.task = tasks.seq WHERE tasks.state IN ('queued', 'running')",
    )?;
    let mut rows = statement.query([])?;
    let mut dependencies: HashMap<i64, Vec<String>> = HashMap::new();
    while let Some(row) = rows.next()? {
        dependencies.entry(row.get(0)?).or_default().push(row.get(1)?);
    }
    Ok(dependencies)
}

fn count_parked(connection: &Connection) -> rusqlite::Result<u64> {
    let parked: i64 =
        connection.query_row("SELECT count(*) FROM tasks WHERE state = 'parked'", [], |row| {
            row.get(0)
        })?;
    Ok(parked.unsigned_abs())
}
