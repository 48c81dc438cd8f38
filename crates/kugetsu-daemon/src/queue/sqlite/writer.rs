//! The thread that owns the file: it takes operations from a channel and commits all that wait in one transaction.
//!
//! A commit waits for the disk. With many operations at once, each would wait for those before it; in a batch they
//! share one wait. Within a batch the operations run in order on file and memory, so that each sees those before it.
//! If the commit fails, the transaction is rolled back, the memory takes its changes back, and every operation of the
//! batch is answered with the error. SQLite may still find the pages of a commit that failed if the machine crashes
//! right after it. Callers must therefore repeat what failed: the idempotency key and the turn id make that harmless.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::memory::{Memory, SharedOverview};
use super::operations::{Problem, Work};
use super::{QueueError, QueueOptions, schema};

/// More operations in one transaction would make the first one wait for longer, and save little.
const BATCH: usize = 512;

/// The end of the channel at which operations are put in.
pub(super) type Operations = mpsc::Sender<Box<dyn Operation>>;

/// Something that the writer does.
pub(super) trait Operation: Send {
    /// Does it, in the transaction of its batch.
    fn run(&mut self, work: &mut Work<'_>) -> rusqlite::Result<()>;

    /// Answers the caller, with the failure of the batch if it has one.
    fn answer(self: Box<Self>, failure: Option<QueueError>);
}

/// An operation with a result of this type.
pub(super) struct Pending<T, F> {
    work: Option<F>,
    result: Option<Result<T, QueueError>>,
    caller: oneshot::Sender<Result<T, QueueError>>,
}

impl<T, F> Pending<T, F> {
    pub(super) fn new(work: F) -> (Self, oneshot::Receiver<Result<T, QueueError>>) {
        let (caller, answer) = oneshot::channel();
        let pending = Self {
            work: Some(work),
            result: None,
            caller,
        };
        (pending, answer)
    }
}

impl<T, F> Operation for Pending<T, F>
where
    T: Send,
    F: FnOnce(&mut Work<'_>) -> Result<T, Problem> + Send,
{
    fn run(&mut self, work: &mut Work<'_>) -> rusqlite::Result<()> {
        let Some(operation) = self.work.take() else {
            return Ok(());
        };
        self.result = Some(match operation(work) {
            Ok(value) => Ok(value),
            Err(Problem::Refused(error)) => Err(error),
            Err(Problem::Sqlite(error)) => return Err(error),
        });
        Ok(())
    }

    fn answer(self: Box<Self>, failure: Option<QueueError>) {
        let result = match (failure, self.result) {
            (Some(failure), _) => Err(failure),
            (None, Some(result)) => result,
            (None, None) => Err(writer_ended()),
        };
        // A caller that no longer waits does not want to know.
        let _ = self.caller.send(result);
    }
}

/// The thread of the writer. Dropping it waits for its end, so that a queue may be opened again at once.
#[derive(Debug)]
pub(super) struct WriterThread(Option<JoinHandle<()>>);

impl Drop for WriterThread {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the queue has panicked");
        }
    }
}

/// The file and the memory of the queue.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) memory: Memory,
    pub(super) options: QueueOptions,
    pub(super) overview: SharedOverview,
    pub(super) changes: watch::Sender<u64>,
    pub(super) path: PathBuf,
}

impl Writer {
    /// Starts the thread. It ends when the channel is closed and empty.
    pub(super) fn start(mut self) -> Result<(Operations, WriterThread), QueueError> {
        let (operations, mut waiting) = mpsc::channel(2 * BATCH);
        self.overview.set(self.memory.overview(), None);
        let thread = std::thread::Builder::new()
            .name("queue-writer".to_owned())
            .spawn(move || {
                while let Some(batch) = next_batch(&mut waiting) {
                    self.run(batch);
                }
            })
            .map_err(|error| QueueError::Unavailable {
                what: "written",
                problem: format!("its thread cannot be started: {error}"),
            })?;
        Ok((operations, WriterThread(Some(thread))))
    }

    fn run(&mut self, mut batch: Vec<Box<dyn Operation>>) {
        let before = (self.memory.resumed.clone(), self.memory.parked);
        let result = self.commit(&mut batch);
        match &result {
            Ok(_) => self.memory.schedule.keep(),
            Err(error) => {
                tracing::warn!(%error, operations = batch.len(), "the queue could not be written");
                self.memory.schedule.undo();
                (self.memory.resumed, self.memory.parked) = before;
            }
        }
        // After a failure, too: a claim has moved what is due, and that is not taken back.
        let problem = result.as_ref().err().map(ToString::to_string);
        self.overview.set(self.memory.overview(), problem);
        if let Ok(true) = result {
            self.changes
                .send_modify(|change| *change = change.wrapping_add(1));
        }
        for operation in batch {
            operation.answer(result.as_ref().err().map(|error| failure(&self.path, error)));
        }
    }

    /// Runs the operations in one transaction. Returns whether there may be something new to claim.
    fn commit(&mut self, batch: &mut [Box<dyn Operation>]) -> rusqlite::Result<bool> {
        // A rollback that failed has left the last transaction open.
        roll_back(&self.connection)?;
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut work = Work {
            connection: &self.connection,
            memory: &mut self.memory,
            options: &self.options,
            news: false,
        };
        let result = batch
            .iter_mut()
            .try_for_each(|operation| operation.run(&mut work))
            .and_then(|()| self.connection.execute_batch("COMMIT"));
        let news = work.news;
        if let Err(error) = result {
            // If this fails, the next batch begins with it.
            let _ = roll_back(&self.connection);
            return Err(error);
        }
        Ok(news)
    }
}

/// SQLite itself has ended the transaction after some errors.
fn roll_back(connection: &Connection) -> rusqlite::Result<()> {
    if connection.is_autocommit() {
        return Ok(());
    }
    connection.execute_batch("ROLLBACK")
}

/// Waits for an operation, and takes all that wait with it.
fn next_batch(waiting: &mut mpsc::Receiver<Box<dyn Operation>>) -> Option<Vec<Box<dyn Operation>>> {
    let mut batch = vec![waiting.blocking_recv()?];
    while batch.len() < BATCH
        && let Ok(operation) = waiting.try_recv()
    {
        batch.push(operation);
    }
    Some(batch)
}

fn failure(path: &Path, error: &rusqlite::Error) -> QueueError {
    schema::failure(path, "written", error)
}

/// What a caller hears if the thread has panicked.
pub(super) fn writer_ended() -> QueueError {
    QueueError::Unavailable {
        what: "written",
        problem: "its writer has ended".to_owned(),
    }
}
