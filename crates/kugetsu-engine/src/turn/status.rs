//! The status file of a live turn, [`STATUS_FILE`]: what a turn is doing, for everybody who can read the store.
//!
//! One task keeps it: it writes what the supervisor has put into `TurnProgress`, at the latest every [`HEARTBEAT`], and
//! looks for signals on the way. It is paced by the supervisor's own event loop, so the heartbeat of a supervisor that is
//! stuck stops. The file stays when the turn is over, as `stopped` or `error`; it is stale when it says that the turn
//! is alive and the supervisor is dead or silent.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::control::{self, Control, ControlMessage, SIGNAL_FILE};
use super::progress::TurnProgress;
use crate::aside::aside;
use crate::process;
use crate::store::{Lease, RecordKey, Store};
pub use kugetsu_api::{RunState, STATUS_SCHEMA as SCHEMA, TurnStatus};
use kugetsu_api::{TokenCount, Verdict};

/// The ending of the status file.
pub const STATUS_FILE: &str = ".status.json";
/// The longest time between two writes of a live turn; a reader may rely on 5 s.
pub const HEARTBEAT: Duration = Duration::from_secs(3);
/// A live turn that has written nothing for so long is stale.
pub const STALE_AFTER: Duration = Duration::from_secs(30);
/// How often the signal file is looked for.
const LOOK: Duration = Duration::from_millis(250);
/// The shortest time between two writes that only tell of progress.
const PACE: Duration = Duration::from_secs(1);

/// The status of the turn that runs, or ran last, for this key. A file that is not a valid status counts as missing: it is worth
/// nothing beside the record.
pub fn read(store: &Store, key: &RecordKey) -> Option<TurnStatus> {
    let bytes = store.read_run(key, STATUS_FILE).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// The status file of one turn; whoever writes it last is the one who closes it.
#[derive(Debug)]
struct StatusFile {
    store: Store,
    key: RecordKey,
    progress: TurnProgress,
    /// A write that is still on its way when the turn is over must not meet the next turn.
    _lease: Arc<Lease>,
    /// What does not change while the turn runs.
    fixed: TurnStatus,
    closed: Mutex<bool>,
}

impl StatusFile {
    /// Writes what is known now, unless the file is closed. Blocks.
    fn refresh(&self) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if !*closed {
            self.write(None);
        }
    }

    /// Writes how the turn ended, once, and removes a signal that came too late. Blocks.
    fn close(&self, verdict: Option<Verdict>) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *closed, true) {
            return;
        }
        self.progress.state(match verdict {
            Some(Verdict::Completed | Verdict::Aborted) => RunState::Stopped,
            _ => RunState::Error,
        });
        self.write(verdict);
        let _ = self.store.remove_run(&self.key, SIGNAL_FILE);
    }

    /// On a full disk nothing is written, and the turn goes on.
    fn write(&self, verdict: Option<Verdict>) {
        let notes = {
            let mut notes = self.progress.notes();
            notes.changed = false;
            notes.urgent = false;
            notes.clone()
        };
        let now = TurnStatus {
            state: notes.state,
            verdict,
            current_step: notes.step,
            tool: notes.tools.last().map(|(_, tool)| tool.clone()),
            completed_steps: notes.counts.steps,
            tool_calls: notes.counts.tool_calls,
            cost_usd: notes.counts.cost_usd,
            tokens: notes.counts.tokens,
            heartbeat: Timestamp::now(),
            ..self.fixed.clone()
        };
        if let Ok(mut bytes) = serde_json::to_vec_pretty(&now) {
            bytes.push(b'\n');
            let _ = self.store.write_run_volatile(&self.key, STATUS_FILE, &bytes);
        }
    }
}

/// Writes the status file of one turn, and listens for its signals. A turn that ends without [`StatusWriter::end`], by a
/// panic, is told as an error.
#[derive(Debug)]
pub struct StatusWriter {
    file: Arc<StatusFile>,
    task: JoinHandle<()>,
    first_write: Option<oneshot::Receiver<()>>,
}

impl StatusWriter {
    /// Begins to write the status and to listen. What an earlier turn left is thrown away. Needs the event loop of the
    /// supervisor.
    pub fn start(
        store: &Store,
        key: RecordKey,
        turn: Uuid,
        started: Timestamp,
        directory: PathBuf,
        worktree: Option<PathBuf>,
        lease: Arc<Lease>,
    ) -> (Self, Control) {
        let progress = TurnProgress::default();
        let file = Arc::new(StatusFile {
            store: store.clone(),
            fixed: TurnStatus {
                schema: SCHEMA,
                subject: key.reference(),
                turn,
                supervisor: process::current(),
                state: RunState::Running,
                verdict: None,
                current_step: 0,
                tool: None,
                completed_steps: 0,
                tool_calls: 0,
                cost_usd: 0.0,
                tokens: TokenCount::default(),
                started,
                heartbeat: started,
                directory,
                worktree,
            },
            key,
            _lease: lease,
            progress: progress.clone(),
            closed: Mutex::new(false),
        });
        let (sender, messages) = mpsc::unbounded_channel();
        let (first_writes, first_write) = oneshot::channel();
        let task = tokio::spawn(keep(Arc::clone(&file), sender, first_writes));
        let writer = Self {
            file,
            task,
            first_write: Some(first_write),
        };
        (writer, Control { messages, progress })
    }

    /// Waits until readers find the status of this turn. May be cancelled.
    pub async fn wait_until_written(&mut self) {
        if let Some(first_write) = &mut self.first_write {
            let _ = first_write.await;
            self.first_write = None;
        }
    }

    /// Writes how the turn ended, which the record must have by now. Blocks.
    pub fn end(self, verdict: Verdict) {
        self.close(Some(verdict));
    }

    fn close(&self, verdict: Option<Verdict>) {
        self.task.abort();
        self.file.close(verdict);
    }
}

/// Only a panic leaves anything to write here, which blocks the event loop.
impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.close(None);
    }
}

/// Looks for signals and writes the status, until it is aborted. A disk that hangs holds up this task alone.
async fn keep(
    file: Arc<StatusFile>,
    messages: mpsc::UnboundedSender<ControlMessage>,
    first_write: oneshot::Sender<()>,
) {
    let first = Arc::clone(&file);
    aside(move || {
        control::drop_stale(&first.store, &first.key, first.fixed.turn);
        first.refresh();
    })
    .await;
    let _ = first_write.send(());
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut written = Instant::now();
    loop {
        look.tick().await;
        let taken = {
            let file = Arc::clone(&file);
            aside(move || control::take(&file.store, &file.key, file.fixed.turn)).await
        };
        let next = match taken {
            Ok(signal) => signal.map(ControlMessage::Signal),
            Err(problem) => Some(ControlMessage::Problem(problem)),
        };
        if let Some(next) = next {
            let _ = messages.send(next);
        }
        let (changed, urgent) = {
            let notes = file.progress.notes();
            (notes.changed, notes.urgent)
        };
        let age = written.elapsed();
        if urgent || age >= HEARTBEAT || (changed && age >= PACE) {
            let file = Arc::clone(&file);
            aside(move || file.refresh()).await;
            written = Instant::now();
        }
    }
}
