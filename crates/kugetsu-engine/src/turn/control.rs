//! Controls a live turn through files, without a daemon or a socket: any program that can write to the store may
//! control a turn.
//!
//! A signal is a file beside the live turn, [`SIGNAL_FILE`]. The supervisor removes the file before it acts, so a
//! signal takes effect once, or not at all if the supervisor dies in between. A signal that names another turn arrived
//! too late for that turn and is dropped.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::store::{RecordKey, Store, StoreError, this_process};
pub use kugetsu_api::{SIGNAL_SCHEMA as SCHEMA, Signal, SignalFile};

/// The ending of the signal file's name.
pub const SIGNAL_FILE: &str = ".signal.json";

/// Sends a signal to a live turn. Replaces a signal that the supervisor has not taken yet.
pub fn send(store: &Store, key: &RecordKey, turn: Uuid, signal: Signal) -> Result<(), StoreError> {
    let file = SignalFile {
        schema: SCHEMA,
        turn: Some(turn),
        signal,
        sent: Some(Timestamp::now()),
        from: Some(this_process(format!("signal {}", signal.as_str()))),
    };
    let bytes = serde_json::to_vec_pretty(&file).map_err(|error| StoreError::Io {
        action: "encode",
        path: store.run_path(key, SIGNAL_FILE),
        source: error.into(),
    })?;
    store.write_run(key, SIGNAL_FILE, &bytes)
}

/// Removes a signal for an earlier turn. A signal for this turn may already exist, because the turn is on record before
/// its supervisor listens.
pub(super) fn drop_stale(store: &Store, key: &RecordKey, turn: Uuid) {
    let there = store.read_run(key, SIGNAL_FILE).ok().flatten();
    let file = there.and_then(|bytes| serde_json::from_slice::<SignalFile>(&bytes).ok());
    if file.and_then(|file| file.turn) != Some(turn) {
        let _ = store.remove_run(key, SIGNAL_FILE);
    }
}

/// Takes the signal for this turn, if there is one. `Err` describes a file that is not a valid signal.
pub(super) fn take(store: &Store, key: &RecordKey, turn: Uuid) -> Result<Option<Signal>, String> {
    let bytes = match store.take_run(key, SIGNAL_FILE) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) => {
            return Err(format!(
                "the signal file could not be read and was removed: {error}"
            ));
        }
    };
    match serde_json::from_slice::<SignalFile>(&bytes) {
        Ok(file) if file.schema > SCHEMA => Err(format!(
            "a signal with the newer schema {} was ignored",
            file.schema
        )),
        Ok(file) if file.turn.is_some_and(|meant| meant != turn) => Ok(None),
        Ok(file) => Ok(Some(file.signal)),
        Err(error) => Err(format!(
            "the signal file was not a valid signal and was removed: {error}"
        )),
    }
}

/// A message from a turn's control files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// A signal.
    Signal(Signal),
    /// A description of a file that was not a valid signal.
    Problem(String),
    /// The turn and others with which it shares a budget have spent too much together; the reason.
    OverBudget(String),
}

/// A budget that a turn shares with turns of other sessions, such as one of the daemon. Without an answer, the turn
/// goes on.
#[async_trait]
pub trait SharedBudget: std::fmt::Debug + Send + Sync {
    /// Counts what a turn has cost so far, with the turns that it began. The reason if it must end.
    async fn spent(&self, turn: Uuid, cost_usd: f64) -> Option<String>;

    /// Counts what a turn of a dead supervisor has cost, if it was counted while it ran.
    async fn recovered(&self, turn: Uuid, cost_usd: f64);

    /// Waits until the turns together have spent too much. The reason.
    async fn used_up(&self) -> String;
}

/// Watches what a turn and others together spend.
pub trait BudgetWatch: std::fmt::Debug + Send + Sync {
    /// Notes what the turn has spent so far, if a limit counts it. The reason if it must end. Blocks.
    fn check(&self, cost_usd: f64, tokens: u64) -> Option<String>;

    /// What the turns that this one began have cost so far. Blocks.
    fn cost_below(&self) -> f64;
}

/// The supervisor's receiving end of the control files.
#[derive(Debug)]
pub struct Control {
    pub(super) messages: mpsc::UnboundedReceiver<ControlMessage>,
    pub(super) progress: super::progress::TurnProgress,
    /// The turn, and the budget that it shares, if there is one.
    pub(super) shared: Option<(Uuid, Arc<dyn SharedBudget>)>,
}

impl Control {
    /// A message that has arrived already.
    pub(super) fn try_next(&mut self) -> Option<ControlMessage> {
        self.messages.try_recv().ok()
    }

    /// The next message. Waits for ever if nothing is watched. Cancelling loses no message.
    pub(super) async fn next(&mut self) -> ControlMessage {
        tokio::select! {
            Some(message) = self.messages.recv() => message,
            Some(reason) = used_up(self.shared.as_ref()) => ControlMessage::OverBudget(reason),
            else => std::future::pending().await,
        }
    }

    /// Counts what the turn has cost so far. The reason if it must end.
    pub(super) async fn spent(&self, cost_usd: f64) -> Option<String> {
        let (turn, budget) = self.shared.as_ref()?;
        let below = self.progress.notes().cost_below;
        budget.spent(*turn, cost_usd + below).await
    }
}

async fn used_up(shared: Option<&(Uuid, Arc<dyn SharedBudget>)>) -> Option<String> {
    let (_, budget) = shared?;
    Some(budget.used_up().await)
}
