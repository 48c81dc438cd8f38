//! The status file of a live turn, [`STATUS_FILE`]: the current state of the turn, for every reader of the store.
//!
//! One task writes the file and checks for signals. It writes the `TurnProgress` of the supervisor at least every
//! [`HEARTBEAT`]. The task runs on the supervisor's own event loop, so the heartbeat stops if the supervisor is stuck.
//! The file stays after the turn, as `stopped` or `error`. A file is stale if it says that the turn is alive although
//! the supervisor is dead or silent.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::control::{self, BudgetWatch, Control, ControlMessage, SIGNAL_FILE, SharedBudget};
use super::progress::TurnProgress;
use crate::aside::aside;
use crate::process;
use crate::store::{Lease, RecordKey, Store};
pub use kugetsu_api::{RunState, STATUS_SCHEMA as SCHEMA, TurnStatus};
use kugetsu_api::{TokenCount, Verdict};

/// The ending of the status file.
pub const STATUS_FILE: &str = ".status.json";
/// The longest time between two writes for a live turn; a reader may rely on 5 s.
pub const HEARTBEAT: Duration = Duration::from_secs(3);
/// A live turn whose status file has not changed for this long is stale.
pub const STALE_AFTER: Duration = Duration::from_secs(30);
/// The interval between two checks for the signal file.
const SIGNAL_POLL: Duration = Duration::from_millis(250);
/// The shortest time between two writes that report only progress.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// The status of the running turn of this key, or else of its last turn. A file that is not a valid status counts as
/// missing, because the record has everything that matters.
pub fn read(store: &Store, key: &RecordKey) -> Option<TurnStatus> {
    let bytes = store.read_run(key, STATUS_FILE).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// The status file of one turn. Closing it is the last write.
#[derive(Debug)]
struct StatusFile {
    store: Store,
    key: RecordKey,
    progress: TurnProgress,
    budget: Option<Arc<dyn BudgetWatch>>,
    /// The budget that the turn and those that it began share with others.
    shared: Option<Arc<dyn SharedBudget>>,
    /// A write that is still in flight when the turn ends must not overwrite the next turn's file.
    _lease: Arc<Lease>,
    /// What does not change while the turn runs.
    fixed: TurnStatus,
    closed: Mutex<bool>,
}

impl StatusFile {
    /// Writes the current progress, unless the file is closed. Blocks.
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

    /// The reason if the turn must end because of what it and others have spent. Blocks.
    fn over_budget(&self) -> Option<String> {
        let counts = self.progress.notes().counts;
        self.budget
            .as_ref()?
            .check(counts.cost_usd, counts.tokens.total())
    }

    /// Counts what the turns that this one began have cost, if that is more than before. The reason if it must end.
    async fn count_below(&self) -> Option<String> {
        let (shared, budget) = (self.shared.as_ref()?, Arc::clone(self.budget.as_ref()?));
        let below = aside(move || budget.cost_below()).await;
        let total = {
            let mut notes = self.progress.notes();
            if below <= notes.cost_below {
                return None;
            }
            notes.cost_below = below;
            notes.counts.cost_usd + below
        };
        shared.spent(self.fixed.turn, total).await
    }

    /// Ignores a failed write, for example on a full disk, so that the turn continues.
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
        if let Ok(mut bytes) = kugetsu_api::json::to_vec_pretty(&now) {
            bytes.push(b'\n');
            let _ = self.store.write_run_volatile(&self.key, STATUS_FILE, &bytes);
        }
    }
}

/// The budgets that a turn counts against, apart from its own limits.
#[derive(Clone, Debug, Default)]
pub struct TurnBudgets {
    /// That of the turn above it, for a turn that a tool has begun.
    pub of_family: Option<Arc<dyn BudgetWatch>>,
    /// One that it shares with other turns.
    pub shared: Option<Arc<dyn SharedBudget>>,
}

/// Writes the status file of one turn, and reads its signal file. If the turn ends without [`StatusWriter::end`], by a
/// panic, the file reports an error.
#[derive(Debug)]
pub struct StatusWriter {
    file: Arc<StatusFile>,
    task: JoinHandle<()>,
    first_write: Option<oneshot::Receiver<()>>,
}

impl StatusWriter {
    /// Starts to write the status, to read signals and to watch the budgets. The folders are those of the session and of
    /// its worktree. Discards the files of an earlier turn. Needs the event loop of the supervisor.
    pub fn start(
        store: &Store,
        key: RecordKey,
        turn: Uuid,
        started: Timestamp,
        (directory, worktree): (PathBuf, Option<PathBuf>),
        lease: Arc<Lease>,
        budgets: TurnBudgets,
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
            budget: budgets.of_family,
            shared: budgets.shared.clone(),
            _lease: lease,
            progress: progress.clone(),
            closed: Mutex::new(false),
        });
        let (sender, messages) = mpsc::unbounded_channel();
        let (first_writes, first_write) = oneshot::channel();
        let task = tokio::spawn(run_status_task(Arc::clone(&file), sender, first_writes));
        let writer = Self {
            file,
            task,
            first_write: Some(first_write),
        };
        let control = Control {
            messages,
            progress,
            shared: budgets.shared.map(|budget| (turn, budget)),
        };
        (writer, control)
    }

    /// Waits until readers can find the status of this turn. Cancel-safe.
    pub async fn wait_until_written(&mut self) {
        if let Some(first_write) = &mut self.first_write {
            let _ = first_write.await;
            self.first_write = None;
        }
    }

    /// Writes how the turn ended. The record must have been written before. Blocks.
    pub fn end(self, verdict: Verdict) {
        self.close(Some(verdict));
    }

    fn close(&self, verdict: Option<Verdict>) {
        self.task.abort();
        self.file.close(verdict);
    }
}

/// Does something only after a panic, and blocks the event loop then.
impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.close(None);
    }
}

/// Reads signals and writes the status until the task is aborted. A disk that hangs holds up this task alone.
async fn run_status_task(
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
    let mut poll = tokio::time::interval(SIGNAL_POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut written = Instant::now();
    loop {
        tokio::select! {
            _ = poll.tick() => {}
            () = file.progress.spent() => {}
        }
        let (taken, over) = {
            let file = Arc::clone(&file);
            aside(move || {
                let over = file.over_budget();
                (control::take(&file.store, &file.key, file.fixed.turn), over)
            })
            .await
        };
        let over = match over {
            Some(reason) => Some(reason),
            None => file.count_below().await,
        };
        if let Some(reason) = over {
            let _ = messages.send(ControlMessage::OverBudget(reason));
        }
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
        if urgent || age >= HEARTBEAT || (changed && age >= MIN_WRITE_INTERVAL) {
            let file = Arc::clone(&file);
            aside(move || file.refresh()).await;
            written = Instant::now();
        }
    }
}
