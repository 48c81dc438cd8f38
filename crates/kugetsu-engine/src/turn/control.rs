//! Live control by files: no daemon, no socket, anybody who may write the store may steer a turn.
//!
//! Beside a live turn stands its signal file, [`SIGNAL_FILE`]: whoever wants something of the turn puts it there, and
//! the supervisor takes it away before it acts, so a signal is obeyed once or, when the supervisor dies in between,
//! not at all. A signal that names another turn is thrown away: it came too late for the turn that it was meant for.

use jiff::Timestamp;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::store::{RecordKey, Store, StoreError, this_process};
pub use kugetsu_api::{SIGNAL_SCHEMA as SCHEMA, Signal, SignalFile};

/// The ending of the signal file.
pub const SIGNAL_FILE: &str = ".signal.json";

/// Puts a signal there for a live turn. One that is not taken yet is replaced.
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

/// Removes what was meant for an earlier turn. A signal for this one may be there already: a turn is on record before it
/// has a supervisor that listens.
pub(super) fn drop_stale(store: &Store, key: &RecordKey, turn: Uuid) {
    let there = store.read_run(key, SIGNAL_FILE).ok().flatten();
    let file = there.and_then(|bytes| serde_json::from_slice::<SignalFile>(&bytes).ok());
    if file.and_then(|file| file.turn) != Some(turn) {
        let _ = store.remove_run(key, SIGNAL_FILE);
    }
}

/// Takes the signal that is there for this turn. `Err` says in words what was there instead of a signal.
pub(super) fn take(store: &Store, key: &RecordKey, turn: Uuid) -> Result<Option<Signal>, String> {
    let bytes = match store.take_run(key, SIGNAL_FILE) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) => return Err(format!("the signal file was removed: {error}")),
    };
    match serde_json::from_slice::<SignalFile>(&bytes) {
        Ok(file) if file.schema > SCHEMA => {
            Err(format!("a signal of schema {} was thrown away", file.schema))
        }
        Ok(file) if file.turn.is_some_and(|meant| meant != turn) => Ok(None),
        Ok(file) => Ok(Some(file.signal)),
        Err(error) => Err(format!(
            "the signal file was not a valid signal and was removed: {error}"
        )),
    }
}

/// What the supervisor hears of a turn's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// A signal.
    Signal(Signal),
    /// A file that was not a valid signal.
    Problem(String),
}

/// The supervisor's end: signals come in.
#[derive(Debug)]
pub struct Control {
    pub(super) messages: mpsc::UnboundedReceiver<ControlMessage>,
    pub(super) progress: super::progress::TurnProgress,
}

impl Control {
    /// The next thing that is heard; never comes where nothing is. May be cancelled.
    pub(super) async fn next(&mut self) -> ControlMessage {
        match self.messages.recv().await {
            Some(message) => message,
            None => std::future::pending().await,
        }
    }
}
