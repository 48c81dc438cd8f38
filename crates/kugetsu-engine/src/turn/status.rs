//! The status file of a live turn, [`STATUS_FILE`]: what a turn is doing, for everybody who can read the store.
//!
//! One task keeps it: it writes what the supervisor has put on the [`TurnProgress`], at the latest every [`HEARTBEAT`], and
//! looks for signals on the way. It runs on the supervisor's own event loop, so the heartbeat of a supervisor that is
//! stuck stops. The file stays when the turn is over, as `stopped` or `error`; it is stale when it says that the turn
//! is alive and the supervisor is dead or silent.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::Counts;
use super::control::{self, Control, ControlMessage, SIGNAL_FILE};
use crate::process::{self, Liveness};
use crate::store::{RecordKey, Store};
use crate::transport::{ToolStatus, TransportEvent};
use kugetsu_api::{ProcessIdentity, TokenCount, Verdict};

/// The ending of the status file.
pub const STATUS_FILE: &str = ".status.json";
/// The schema of the status file.
pub const SCHEMA: u32 = 1;
/// The longest time between two writes of a live turn; a reader may rely on 5 s.
pub const HEARTBEAT: Duration = Duration::from_secs(3);
/// A live turn that has written nothing for so long is stale.
pub const STALE_AFTER: Duration = Duration::from_secs(30);
/// How often the signal file is looked for.
const LOOK: Duration = Duration::from_millis(250);
/// The shortest time between two writes that only tell of progress.
const PACE: Duration = Duration::from_secs(1);

/// What a turn is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// It runs.
    #[default]
    Running,
    /// It was paused and waits to be resumed; opencode does not run.
    Paused,
    /// It is over: completed, or ended because somebody wanted it.
    Stopped,
    /// It is over, with any other verdict.
    Error,
}

impl RunState {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }

    /// Whether the turn is over.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Stopped | Self::Error)
    }
}

/// What the status file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnStatus {
    /// The schema of the file.
    pub schema: u32,
    /// The issue, or the base's repository.
    #[serde(rename = "ref")]
    pub subject: String,
    /// The turn.
    pub turn: Uuid,
    /// The supervisor: `host`, `pid`, `start_ticks`, `boot_id`.
    #[serde(flatten)]
    pub supervisor: ProcessIdentity,
    /// What the turn is doing.
    pub state: RunState,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The step that the model is at, from 1; 0 before the first.
    pub current_step: u64,
    /// The tool that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Steps that are done.
    pub completed_steps: u64,
    /// Tool calls that ended.
    pub tool_calls: u64,
    /// US dollars so far.
    pub cost_usd: f64,
    /// Tokens so far.
    pub tokens: TokenCount,
    /// When the turn started.
    pub started: Timestamp,
    /// When this was written.
    pub heartbeat: Timestamp,
    /// Where it works.
    pub directory: PathBuf,
    /// The git worktree that it works in, if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<PathBuf>,
}

impl TurnStatus {
    /// How old the last sign of life is.
    pub fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.heartbeat)).unwrap_or_default()
    }

    /// Whether it tells of a turn that is alive, and cannot be believed: the supervisor is dead, or silent for
    /// [`STALE_AFTER`].
    pub fn is_stale(&self, now: Timestamp) -> bool {
        !self.state.is_over()
            && (process::is_alive(&self.supervisor) == Liveness::Dead || self.age(now) > STALE_AFTER)
    }
}

/// The status of the turn that runs, or ran last, for this key. A file that is none is taken for missing: it is worth
/// nothing beside the record.
pub fn read(store: &Store, key: &RecordKey) -> Option<TurnStatus> {
    let bytes = store.read_run(key, STATUS_FILE).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// What the supervisor tells the keeper, in memory only.
#[derive(Clone, Debug, Default)]
pub(super) struct TurnProgress(Arc<Mutex<Notes>>);

#[derive(Clone, Debug, Default)]
struct Notes {
    state: RunState,
    step: u64,
    tools: Vec<(String, String)>,
    counts: Counts,
    changed: bool,
    urgent: bool,
}

impl TurnProgress {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// opencode said something.
    pub(super) fn messages(&self, event: &TransportEvent, counts: &Counts) {
        let mut notes = self.notes();
        match event {
            TransportEvent::StepStarted => notes.step += 1,
            TransportEvent::Tool(call) => {
                notes.tools.retain(|(id, _)| *id != call.call);
                if matches!(call.status, ToolStatus::Pending | ToolStatus::Running) {
                    notes.tools.push((call.call.clone(), call.tool.clone()));
                }
            }
            TransportEvent::StepFinished { .. } => notes.tools.clear(),
            TransportEvent::SubagentStep { .. } => {}
            _ => return,
        }
        notes.counts = *counts;
        notes.changed = true;
    }

    /// The turn was paused or goes on; written at the next look.
    pub(super) fn state(&self, state: RunState) {
        let mut notes = self.notes();
        notes.state = state;
        notes.tools.clear();
        notes.urgent = true;
    }
}

/// Keeps the status file of one turn, and listens for its signals.
#[derive(Debug)]
pub struct StatusWriter {
    store: Store,
    key: RecordKey,
    progress: TurnProgress,
    status: TurnStatus,
    task: JoinHandle<()>,
    over: bool,
}

impl StatusWriter {
    /// Writes the first status and begins to listen. What an earlier turn left is thrown away. Needs the event loop of
    /// the supervisor.
    pub fn start(
        store: &Store,
        key: RecordKey,
        turn: Uuid,
        started: Timestamp,
        directory: PathBuf,
        worktree: Option<PathBuf>,
    ) -> (Self, Control) {
        let status = TurnStatus {
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
        };
        control::drop_stale(store, &key, turn);
        let progress = TurnProgress::default();
        write(store, &key, &status, &progress);
        let (sender, messages) = mpsc::unbounded_channel();
        let task = tokio::spawn(keep(
            store.clone(),
            key.clone(),
            status.clone(),
            progress.clone(),
            sender,
        ));
        let control = Control {
            messages,
            progress: progress.clone(),
        };
        let status_writer = Self {
            store: store.clone(),
            key,
            progress,
            status,
            task,
            over: false,
        };
        (status_writer, control)
    }

    /// The record tells how the turn ended; now the status does.
    pub fn end(mut self, verdict: Verdict) {
        self.close(Some(verdict));
    }

    fn close(&mut self, verdict: Option<Verdict>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.task.abort();
        self.progress.state(match verdict {
            Some(Verdict::Completed | Verdict::Aborted) => RunState::Stopped,
            _ => RunState::Error,
        });
        self.status.verdict = verdict;
        write(&self.store, &self.key, &self.status, &self.progress);
        let _ = self.store.remove_run(&self.key, SIGNAL_FILE);
    }
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.close(None);
    }
}

async fn keep(
    store: Store,
    key: RecordKey,
    status: TurnStatus,
    progress: TurnProgress,
    messages: mpsc::UnboundedSender<ControlMessage>,
) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut written = Instant::now();
    loop {
        look.tick().await;
        let next = match control::take(&store, &key, status.turn) {
            Ok(signal) => signal.map(ControlMessage::Signal),
            Err(problem) => Some(ControlMessage::Problem(problem)),
        };
        if let Some(next) = next {
            let _ = messages.send(next);
        }
        let (changed, urgent) = {
            let notes = progress.notes();
            (notes.changed, notes.urgent)
        };
        let age = written.elapsed();
        if urgent || age >= HEARTBEAT || (changed && age >= PACE) {
            write(&store, &key, &status, &progress);
            written = Instant::now();
        }
    }
}

/// Writes what the board says. On a full disk nothing is written, and the turn goes on.
fn write(store: &Store, key: &RecordKey, status: &TurnStatus, progress: &TurnProgress) {
    let notes = {
        let mut notes = progress.notes();
        notes.changed = false;
        notes.urgent = false;
        notes.clone()
    };
    let now = TurnStatus {
        state: notes.state,
        current_step: notes.step,
        tool: notes.tools.last().map(|(_, tool)| tool.clone()),
        completed_steps: notes.counts.steps,
        tool_calls: notes.counts.tool_calls,
        cost_usd: notes.counts.cost_usd,
        tokens: notes.counts.tokens,
        heartbeat: Timestamp::now(),
        ..status.clone()
    };
    if let Ok(mut bytes) = serde_json::to_vec_pretty(&now) {
        bytes.push(b'\n');
        let _ = store.write_run_volatile(key, STATUS_FILE, &bytes);
    }
}
