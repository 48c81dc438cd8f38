//! Lookup of turns by id, after a detach and for a repeated request with the same turn id.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use super::deliver::sha256;
use super::{Engine, EngineError, Mode, TurnReport, TurnRequest};
use crate::log_file::{self, LogReader};
use crate::store::{Holder, RecordKey};
use crate::turn::stream::{StreamEvent, StreamLine};
use crate::turn::{INTERRUPTED, Interrupt};
use kugetsu_api::{Address, ErrorCode, SessionRecord, TurnRecord, Verdict};

/// How long a request with a turn id waits while another turn holds the lease and has not recorded its own id yet. That
/// turn starts opencode before it records its id.
const RECORD_WAIT: Duration = Duration::from_secs(60);

impl Engine {
    /// The running turn, or else the turn that ended last.
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

    /// Whether a turn with this id is on record, running or ended. `Err` if it had another message than this one.
    pub fn is_recorded(
        &self,
        address: &Address,
        turn: Uuid,
        message: Option<&str>,
    ) -> Result<bool, EngineError> {
        let Some(record) = self.store.session_record(address)? else {
            return Ok(false);
        };
        let recorded = match &record.live {
            Some(live) if live.turn == turn => {
                if !self.turn_lives(address, live) {
                    return Ok(false);
                }
                live.prompt_sha256.clone()
            }
            _ => match self.ended_record(&record, turn)? {
                Some(ended) => ended.prompt_sha256,
                None => return Ok(false),
            },
        };
        refuse_other_prompt(address, turn, recorded.as_deref(), message)?;
        Ok(true)
    }

    /// The report of an ended turn, with its answer; `None` while the turn runs.
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
        let mut ended = ended;
        if ended.verdict == Verdict::Completed && !log_file::exists(&events) {
            ended
                .log_gap
                .get_or_insert_with(|| "the log of the turn was removed to save space".to_owned());
        }
        Ok(Some(TurnReport {
            record,
            notes: ended.warnings.clone(),
            took: Duration::try_from(ended.ended.duration_since(ended.started)).unwrap_or_default(),
            turn: ended,
            answer: answer_in(&events),
            interrupt,
            adopted: None,
            fallback: None,
            early_notes: Vec::new(),
            skipped_hooks: Vec::new(),
        }))
    }

    /// The record of an ended turn; `None` while the turn runs. A turn whose supervisor is dead counts as ended with
    /// the verdict lost, whether or not a command has adopted the turn yet.
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
            // The supervisor may have ended after it wrote the final record.
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

    /// Whether to keep waiting for a held lease. A request with a turn id also waits until the id of the running turn
    /// is recorded, so that no turn runs twice. `Err` if a turn with the requested id is on record.
    pub(super) fn may_wait(
        &self,
        request: &TurnRequest,
        holder: Option<&Holder>,
        waited: Duration,
    ) -> Result<bool, EngineError> {
        let may_wait = request.wait.is_some_and(|wait| waited < wait);
        let Some(turn) = request.turn else {
            return Ok(may_wait);
        };
        if self.is_recorded(&request.address, turn, request.message())? {
            return Err(EngineError::Recorded(turn));
        }
        let live = self
            .store
            .session_record(&request.address)?
            .and_then(|record| record.live);
        let another = live
            .as_ref()
            .is_some_and(|live| self.turn_lives(&request.address, live));
        // A turn that is about to begin is named in the lease before its record exists. A holder that runs another
        // command is never the requested turn.
        let another = another || holder.is_some_and(|holder| !Mode::VERBS.contains(&holder.what.as_str()));
        Ok(may_wait || (!another && waited < RECORD_WAIT))
    }

    /// Refuses to run a recorded turn again. The caller holds the lease.
    pub(super) fn refuse_recorded(
        &self,
        request: &TurnRequest,
        record: Option<&SessionRecord>,
    ) -> Result<(), EngineError> {
        if let (Some(turn), Some(record)) = (request.turn, record)
            && let Some(ended) = self.ended_record(record, turn)?
        {
            let recorded = ended.prompt_sha256.as_deref();
            refuse_other_prompt(&record.address, turn, recorded, request.message())?;
            return Err(EngineError::Recorded(turn));
        }
        match record {
            Some(record) if !request.earlier.is_empty() => self.refuse_answered(record, &request.earlier),
            _ => Ok(()),
        }
    }

    /// Refuses to deliver a message again that one of these turns has delivered and come to an end with. Only its caller
    /// was not told, such as on a full disk.
    fn refuse_answered(&self, record: &SessionRecord, earlier: &[Uuid]) -> Result<(), EngineError> {
        let turns = self.store.turns(&record.address)?;
        let ended = record.last.iter().chain(turns.iter().rev());
        let calls_for_another =
            |verdict| matches!(verdict, Verdict::Lost | Verdict::Quota | Verdict::Aborted);
        let mut answered =
            ended.filter(|turn| earlier.contains(&turn.turn) && !calls_for_another(turn.verdict));
        match answered.next() {
            Some(turn) => Err(EngineError::Recorded(turn.turn)),
            None => Ok(()),
        }
    }
}

/// Refuses a message that is not that of the recorded turn. A turn of an older version, or one whose id was not chosen,
/// has no hash.
fn refuse_other_prompt(
    address: &Address,
    turn: Uuid,
    recorded: Option<&str>,
    message: Option<&str>,
) -> Result<(), EngineError> {
    if let (Some(recorded), Some(message)) = (recorded, message)
        && recorded != sha256(message)
    {
        return Err(EngineError::OtherPrompt {
            address: address.clone(),
            turn,
        });
    }
    Ok(())
}

/// The turn of a dead supervisor that no command has adopted yet.
fn lost(record: &SessionRecord, turn: Uuid) -> Option<TurnRecord> {
    let live = record.live.as_ref().filter(|live| live.turn == turn)?;
    Some(TurnRecord::lost(live, &record.opencode))
}

/// The answer in a turn's stream: the text of the last step that produced text.
fn answer_in(events: &Path) -> String {
    let Ok(file) = LogReader::open(events) else {
        return String::new();
    };
    let mut reader = BufReader::new(file);
    let (mut answer, mut fresh, mut line) = (String::new(), false, Vec::new());
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        match serde_json::from_slice::<StreamLine>(&line).map(|line| line.event) {
            Ok(StreamEvent::StepStart { .. }) => fresh = true,
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
