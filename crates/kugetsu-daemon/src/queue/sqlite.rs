//! The queue in one SQLite file.
//!
//! [`SqliteQueue`] is a handle: one thread owns the connection that writes and the schedule in memory
//! (`writer`), and a second connection reads. The file is the truth. The schedule follows from it and is built again when
//! the queue is opened, and it changes only with a transaction.
//!
//! The schedule must know of every change, so that one queue at a time may have the file open. The caller sees to that;
//! the daemon holds a lock of its own for its home.

mod memory;
mod operations;
mod record;
mod schema;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, ToSql};
use tokio::sync::{Mutex, watch};
use uuid::Uuid;

use kugetsu_api::{QueueCounts, RepoRef, Task, TaskId};

use super::{Cancellation, Claim, NewTask, Queue, QueueError, Settlement, Submitted, TaskFilter};
use memory::{Memory, SharedOverview};
pub(super) use operations::{Problem, Work};
#[cfg(feature = "internals")]
pub use record::task_of_row;
use writer::{Operations, Pending, Writer, WriterThread, writer_ended};

/// How long an operation waits while another program, such as a backup, has locked the file.
const BUSY: Duration = Duration::from_secs(5);

/// How many tasks one transaction forgets.
const FORGET_AT_ONCE: u64 = 1000;

/// The limits of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// As many tasks may wait. Running ones do not count.
    pub max_queued: u64,
    /// A task whose attempts failed this often is parked. Only attempts that count do.
    pub max_tries: u32,
}

/// A queue that is kept in a SQLite file.
///
/// Dropping it waits until what it has accepted is on disk.
#[derive(Debug)]
pub struct SqliteQueue {
    // Dropped before the thread, which ends when this is closed.
    operations: Operations,
    _thread: WriterThread,
    // One read at a time, so that reads take at most one of the runtime's threads from the rest of the daemon.
    reader: Arc<Mutex<Connection>>,
    overview: SharedOverview,
    changes: watch::Receiver<u64>,
    path: PathBuf,
}

impl SqliteQueue {
    /// Opens the queue, and makes the file if there is none. Its folder has to exist. Blocks until all unfinished tasks
    /// are read.
    pub fn open(path: &Path, options: QueueOptions) -> Result<Self, QueueError> {
        Self::open_with(path, options, BUSY)
    }

    pub(super) fn open_with(path: &Path, options: QueueOptions, busy: Duration) -> Result<Self, QueueError> {
        let connection = schema::open_writer(path, busy)?;
        let memory = Memory::load(&connection, path)?;
        let reader = schema::open_reader(path, busy)?;
        let overview = SharedOverview::default();
        let (changes, watched) = watch::channel(0);
        let writer = Writer {
            connection,
            memory,
            options,
            overview: overview.clone(),
            changes,
            path: path.to_owned(),
        };
        let (operations, thread) = writer.start()?;
        Ok(Self {
            operations,
            _thread: thread,
            reader: Arc::new(Mutex::new(reader)),
            overview,
            changes: watched,
            path: path.to_owned(),
        })
    }

    /// Has the writer do something, and waits until it is on disk.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Work<'_>) -> Result<T, Problem> + Send + 'static,
    {
        let (pending, answer) = Pending::new(work);
        self.operations
            .send(Box::new(pending))
            .await
            .map_err(|_| writer_ended())?;
        answer.await.map_err(|_| writer_ended())?
    }

    /// Reads with the second connection, which sees what was committed.
    async fn read<T, F>(&self, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let connection = Arc::clone(&self.reader).lock_owned().await;
        tokio::task::spawn_blocking(move || work(&connection))
            .await
            .map_err(|error| QueueError::Unavailable {
                what: "read",
                problem: error.to_string(),
            })?
            .map_err(|error| schema::failure(&self.path, "read", &error))
    }

    fn undamaged(&self, found: record::Found<record::Record>) -> Result<Task, QueueError> {
        match found {
            Ok(record) => Ok(record.task),
            Err(damage) => Err(schema::unusable(&self.path, damage)),
        }
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn submit(&self, task: NewTask) -> Result<Submitted, QueueError> {
        self.write(move |work| work.submit(task)).await
    }

    async fn claim(&self, now: Timestamp) -> Result<Option<Claim>, QueueError> {
        self.write(move |work| work.claim(now)).await
    }

    async fn settle(
        &self,
        task: TaskId,
        turn: Uuid,
        end: Settlement,
        now: Timestamp,
    ) -> Result<Task, QueueError> {
        self.write(move |work| work.settle(task, turn, end, now)).await
    }

    async fn cancel(&self, task: TaskId, now: Timestamp) -> Result<Cancellation, QueueError> {
        self.write(move |work| work.cancel(task, now)).await
    }

    async fn retry(&self, task: TaskId, now: Timestamp) -> Result<Task, QueueError> {
        self.write(move |work| work.retry(task, now)).await
    }

    async fn task(&self, task: TaskId) -> Result<Option<Task>, QueueError> {
        let found = self
            .read(move |connection| record::load(connection, task))
            .await?;
        found.map(|found| self.undamaged(found)).transpose()
    }

    async fn list(&self, filter: TaskFilter) -> Result<Vec<Task>, QueueError> {
        let found = self.read(move |connection| list(connection, &filter)).await?;
        found.into_iter().map(|found| self.undamaged(found)).collect()
    }

    async fn matching(&self, text: String) -> Result<Vec<TaskId>, QueueError> {
        self.read(move |connection| matching(connection, &text)).await
    }

    fn counts(&self) -> QueueCounts {
        self.overview.get().counts
    }

    fn problem(&self) -> Option<String> {
        self.overview.problem()
    }

    fn next_due(&self) -> Option<Timestamp> {
        self.overview.get().next_due
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    async fn set_weights(&self, weights: HashMap<RepoRef, u32>) -> Result<(), QueueError> {
        self.write(move |work| {
            work.set_weights(weights);
            Ok(())
        })
        .await
    }

    async fn forget_ended(&self, before: Timestamp) -> Result<u64, QueueError> {
        let mut all = 0;
        loop {
            let some = self
                .write(move |work| work.forget_ended(before, FORGET_AT_ONCE))
                .await?;
            all += some;
            if some < FORGET_AT_ONCE {
                return Ok(all);
            }
        }
    }
}

fn list(
    connection: &Connection,
    filter: &TaskFilter,
) -> rusqlite::Result<Vec<record::Found<record::Record>>> {
    let mut conditions = vec!["TRUE".to_owned()];
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    if !filter.states.is_empty() {
        conditions.push(format!(
            "state IN ({})",
            vec!["?"; filter.states.len()].join(", ")
        ));
        values.extend(
            filter
                .states
                .iter()
                .map(|state| Box::new(state.as_str()) as Box<dyn ToSql>),
        );
    }
    if let Some(repo) = &filter.repo {
        conditions.push("repo = ?".to_owned());
        values.push(Box::new(repo.as_str().to_owned()));
    }
    if let Some(address) = &filter.address {
        conditions.push("ref = ?".to_owned());
        values.push(Box::new(address.clone()));
    }
    if let Some(before) = filter.before {
        conditions.push(BEFORE.to_owned());
        values.push(Box::new(before.to_string()));
        values.push(Box::new(before.to_string()));
    }
    values.push(Box::new(i64::try_from(filter.limit).unwrap_or(i64::MAX)));
    let condition = format!("WHERE {} ORDER BY seq DESC LIMIT ?", conditions.join(" AND "));
    connection
        .prepare_cached(&record::select(&condition))?
        .query_map(rusqlite::params_from_iter(values), record::read)?
        .collect()
}

/// If the task that a page ended with was forgotten since, ids tell what is older: they sort by time.
const BEFORE: &str = "seq < coalesce((SELECT seq FROM tasks WHERE id = ?), \
     (SELECT max(seq) + 1 FROM tasks WHERE id < ?), 0)";

/// A person looks for an id seldom, and the index on ids has all that this reads.
fn matching(connection: &Connection, text: &str) -> rusqlite::Result<Vec<TaskId>> {
    let text = text.to_ascii_lowercase();
    let length = text.chars().count() as i64;
    connection
        .prepare_cached(
            "SELECT id FROM tasks WHERE ?1 IN (substr(id, 1, ?2), substr(id, -?2),
                 substr(replace(id, '-', ''), 1, ?2), substr(replace(id, '-', ''), -?2))
             ORDER BY id DESC LIMIT 10",
        )?
        .query_map((text, length), |row| row.get::<_, String>(0))?
        .filter_map(|id| id.map(|id| id.parse().ok()).transpose())
        .collect()
}
