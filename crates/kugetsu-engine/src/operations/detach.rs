//! Turns that are found again: by whoever detached from them, and by whoever asks for the same turn twice.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use super::{Engine, EngineError, Mode, TurnReport, TurnRequest};
use crate::store::{Holder, RecordKey};
use crate::turn::stream::{StreamEvent, StreamLine};
use crate::turn::{INTERRUPTED, Interrupt};
use kugetsu_api::{Address, ErrorCode, SessionRecord, TurnRecord, Verdict};

/// How long whoever asks for a turn by its id waits for one that holds the lease and has not said its id yet: it
/// starts opencode first.
const ARRIVAL: Duration = Duration::from_secs(60);

impl Engine {
    /// The turn that runs, else the one that ended last.
    pub fn newest_turn(&self, address: &Address) -> Result<Uuid, EngineError> {
        let record = self.record(address)?;
        record
            .live
            .as_ref()
            .map(|live| live.turn)
            .or(record.last.as_ref().map(|last| last.turn))
            .ok_or_else(|| EngineError::NotFound {
                code: ErrorCode::NoTurn,
                problem: format!("{address} has had no turn yet"),
                hint: format!("run one: kugetsu continue {address}"),
            })
    }

    /// Whether a turn of this id is on record: it runs, or has ended.
    pub fn is_recorded(&self, address: &Address, turn: Uuid) -> Result<bool, EngineError> {
        let Some(record) = self.store.session_record(address)? else {
            return Ok(false);
        };
        if let Some(live) = &record.live
            && live.turn == turn
        {
            return Ok(self.turn_lives(address, live));
        }
        Ok(self.ended_record(&record, turn)?.is_some())
    }

    /// How a turn ended, with its answer; nothing while it runs.
    pub fn ended_turn(&self, address: &Address, turn: Uuid) -> Result<Option<TurnReport>, EngineError> {
        let Some((record, ended)) = self.end_of(address, turn)? else {
            return Ok(None);
        };
        let key = RecordKey::from(address);
        let events = self.store.folder(&key).join(format!("{turn}.events.jsonl"));
        let interrupt = match (ended.verdict, ended.reason.as_str()) {
            (Verdict::Aborted, INTERRUPTED) => Interrupt::Interrupted,
            (Verdict::Aborted, _) => Interrupt::Terminated,
            _ => Interrupt::None,
        };
        Ok(Some(TurnReport {
            record,
            turn: ended,
            answer: answer_in(&events),
            interrupt,
            adopted: None,
            fallback: None,
            notes: Vec::new(),
        }))
    }

    /// How a turn ended; nothing while it runs. One whose supervisor is dead has ended as lost, whether or not a
    /// command has adopted it already.
    pub fn end_of(
        &self,
        address: &Address,
        turn: Uuid,
    ) -> Result<Option<(SessionRecord, TurnRecord)>, EngineError> {
        let mut record = self.record(address)?;
        if let Some(live) = record.live.as_ref().filter(|live| live.turn == turn) {
            if self.turn_lives(address, live) {
                return Ok(None);
            }
            // It may have died after its last word.
            record = self.record(address)?;
        }
        let ended = match self.ended_record(&record, turn)? {
            Some(ended) => ended,
            None => lost(&record, turn).ok_or_else(|| EngineError::NotFound {
                code: ErrorCode::NoTurn,
                problem: format!("{address} has no turn {turn}"),
                hint: format!("list them: kugetsu show {address} --turns"),
            })?,
        };
        Ok(Some((record, ended)))
    }

    fn ended_record(&self, record: &SessionRecord, turn: Uuid) -> Result<Option<TurnRecord>, EngineError> {
        if let Some(last) = record.last.as_ref().filter(|last| last.turn == turn) {
            return Ok(Some(last.clone()));
        }
        let turns = self.store.turns(&record.address)?;
        Ok(turns.into_iter().rev().find(|ended| ended.turn == turn))
    }

    /// Whether to wait on for a lease that is held. One who asks for a turn by its id waits for it to be recorded, so
    /// that it is not run twice: `Err` says that it is.
    pub(super) fn may_wait(
        &self,
        request: &TurnRequest,
        holder: Option<&Holder>,
        waited: Duration,
    ) -> Result<bool, EngineError> {
        let wanted = request.wait.is_some_and(|wait| waited < wait);
        let Some(turn) = request.turn else {
            return Ok(wanted);
        };
        if self.is_recorded(&request.address, turn)? {
            return Err(EngineError::Recorded(turn));
        }
        let live = self
            .store
            .session_record(&request.address)?
            .and_then(|record| record.live);
        let another = live
            .as_ref()
            .is_some_and(|live| self.turn_lives(&request.address, live));
        // One that is about to begin has a name and no record yet; what does something else will never be ours.
        let another = another || holder.is_some_and(|holder| !Mode::VERBS.contains(&holder.what.as_str()));
        Ok(wanted || (!another && waited < ARRIVAL))
    }

    /// Under the lease: refuses to run a turn again.
    pub(super) fn refuse_recorded(
        &self,
        request: &TurnRequest,
        record: Option<&SessionRecord>,
    ) -> Result<(), EngineError> {
        if let (Some(turn), Some(record)) = (request.turn, record)
            && self.ended_record(record, turn)?.is_some()
        {
            return Err(EngineError::Recorded(turn));
        }
        Ok(())
    }
}

/// The turn of a dead supervisor that nobody has adopted yet.
fn lost(record: &SessionRecord, turn: Uuid) -> Option<TurnRecord> {
    let live = record.live.as_ref().filter(|live| live.turn == turn)?;
    Some(TurnRecord::lost(live, &record.opencode))
}

/// The answer in a turn's stream: the text of the last step that had any.
fn answer_in(events: &Path) -> String {
    let Ok(file) = std::fs::File::open(events) else {
        return String::new();
    };
    let mut reader = BufReader::new(file);
    let (mut answer, mut fresh, mut line) = (String::new(), false, Vec::new());
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        match serde_json::from_slice::<StreamLine>(&line).map(|line| line.event) {
            Ok(StreamEvent::TurnStart { .. }) => fresh = true,
            Ok(StreamEvent::MessageUpdate {
                reasoning: false,
                delta,
                ..
            }) => {
                if std::mem::take(&mut fresh) {
                    answer.clear();
                }
                answer.push_str(&delta);
            }
            _ => {}
        }
        line.clear();
    }
    answer
}
