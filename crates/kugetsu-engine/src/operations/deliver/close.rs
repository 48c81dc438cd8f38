//! The end of a turn: checks the verdict against opencode's stored messages, writes the last lines of stream and turn
//! log, and then the record.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::watch::Changed;
use super::{Delivery, TurnReport, TurnSubject, locked};
use crate::operations::evidence::StoredEvidence;
use crate::operations::hooks::HookPoint;
use crate::operations::init::adopt_hint;
use crate::operations::interrupts::{Interrupts, STOP_WAIT};
use crate::operations::sandbox::kind_of;
use crate::operations::{Engine, EngineError, pending};
use crate::redact::Redactor;
use crate::text::one_line;
use crate::turn::status::StatusWriter;
use crate::turn::{Interrupt, MAX_ANSWER, Outcome, millis};
use kugetsu_api::{Changes, ErrorCode, Proof, SCHEMA, Timings, TransportKind, TurnRecord, Verdict};

/// How long the end of a turn may take to be recorded after an interrupt.
pub(in crate::operations) const TO_RECORD: Duration = Duration::from_secs(10);

/// A turn that is closed on disk.
pub(in crate::operations) struct Closed {
    pub(in crate::operations) subject: TurnSubject,
    pub(in crate::operations) turn: TurnRecord,
    pub(in crate::operations) answer: String,
    pub(in crate::operations) interrupt: Interrupt,
    pub(in crate::operations) fallback: Option<String>,
    /// Notes from before the turn.
    pub(in crate::operations) notes: Vec<String>,
    /// The hooks that the turn's warnings say are skipped.
    pub(in crate::operations) skipped_hooks: Vec<HookPoint>,
    /// How long the turn took.
    pub(in crate::operations) took: Duration,
}

impl Closed {
    /// The report of a session's turn.
    pub(super) fn into_report(self) -> Result<TurnReport, EngineError> {
        let TurnSubject::Session(record) = self.subject else {
            return Err(EngineError::Internal("the turn of a base has no report"));
        };
        Ok(TurnReport {
            record,
            notes: self.turn.warnings.clone(),
            turn: self.turn,
            answer: self.answer,
            interrupt: self.interrupt,
            adopted: None,
            fallback: self.fallback,
            early_notes: self.notes,
            skipped_hooks: self.skipped_hooks,
            took: self.took,
        })
    }
}

impl Delivery {
    /// Ends the turn on disk. If the turn ended by an interrupt, or an interrupt comes now, a slow disk or database gets
    /// [`TO_RECORD`]; the next command completes the record then.
    pub(super) async fn close(
        self,
        outcome: Outcome,
        changes: Option<Changes>,
        transport: TransportKind,
        redactor: Redactor,
        status_writer: StatusWriter,
        interrupts: &mut Interrupts,
    ) -> Result<Closed, EngineError> {
        let engine = Arc::clone(&self.engine);
        let (lease, opencode) = (Arc::clone(&self.lease), self.opencode.clone());
        let for_this_turn = self.rules.clone();
        let unrecorded = Unrecorded::of(&self.subject);
        let ended_by = outcome.interrupt;
        let close =
            move |_: &Engine| self.close_blocking(outcome, changes, transport, &redactor, status_writer);
        let closed = engine.run_required(TO_RECORD, interrupts, close).await;
        let closed = closed.map_err(|error| unrecorded.or(error))?;
        // opencode gives a fork that `run` makes a title of its own, at times after kugetsu has.
        if let TurnSubject::Session(record) = &closed.subject
            && (for_this_turn != record.policy.rules()
                || (transport == TransportKind::Run && record.totals.turns == 1))
        {
            let record = record.clone();
            let restore = move |engine: &Engine| {
                let restored = engine.apply_policy(&opencode, &record);
                drop(lease);
                restored
            };
            // The rules of one turn end with it. Where this fails, the next turn writes the policy in any case.
            let _ = engine.run_required(STOP_WAIT, interrupts, restore).await;
        }
        interrupts.mark_handled(ended_by);
        Ok(closed)
    }

    fn close_blocking(
        mut self,
        mut outcome: Outcome,
        changes: Option<Changes>,
        transport: TransportKind,
        redactor: &Redactor,
        status_writer: StatusWriter,
    ) -> Result<Closed, EngineError> {
        if let TurnSubject::Session(record) = &self.subject {
            self.engine.remove_planted_links(record);
        }
        let stored = StoredEvidence::read(&self.opencode, self.subject.session(), self.after.as_deref());
        let claimed = outcome.judgement.verdict;
        let mut judgement = stored.verify(outcome.judgement);
        // The text of an answer that opencode did not store is that of an older one.
        let is_withdrawn = claimed == Verdict::Completed && judgement.verdict != Verdict::Completed;
        // The output of opencode may have lost the answer that made it complete.
        if judgement.verdict == Verdict::Completed
            && (judgement.lacks_end || outcome.ending.lacks_text())
            && let Some(answer) = stored.answer(&self.opencode, MAX_ANSWER)
        {
            outcome.answer = outcome.ending.complete(answer);
        }
        judgement.reason = short_reason(&redactor.clean(&judgement.reason), &self.subject);
        let (cost_usd, tokens) = stored.spent(&outcome.counts);
        let proof = if judgement.verdict == Verdict::Completed {
            Proof::default()
        } else {
            bounded(outcome.proof)
        };
        let changed = match (&self.watched, outcome.interrupt) {
            // After an interrupt, the last write of the record may not have been done.
            (Some(watched), Interrupt::None) => watched.changes(&self.engine, Some(&self.subject)),
            (Some(watched), _) => watched.changes(&self.engine, None),
            (None, _) => Changed::default(),
        };
        let unread = stored.warning(judgement.verdict);
        let unread = unread.map(|warning| redactor.clean(&warning).into_owned());
        let mut refused = outcome.refused;
        for call in &mut refused.calls {
            call.call = redactor.clean(&call.call).into_owned();
        }
        let took = self.began.elapsed();
        let mut turn = TurnRecord {
            schema: SCHEMA,
            turn: self.turn,
            verdict: judgement.verdict,
            reason: judgement.reason,
            retry_at: judgement.retry_at,
            proof,
            transport,
            sandbox: kind_of(&self.opencode),
            started: self.started,
            ended: Timestamp::now(),
            timings: Timings {
                first_output_ms: outcome.first_output.map(millis),
                ..self.timings
            },
            steps: outcome.counts.steps,
            tool_calls: outcome.counts.tool_calls,
            cost_usd,
            tokens,
            opencode: self.subject.opencode().to_owned(),
            events: outcome.counts.events,
            restarts: outcome.restarts,
            answered: outcome.answered,
            log_gap: None,
            prompt: self.kept_prompt.take(),
            changes,
            refused,
            prompt_sha256: self.prompt_sha256.clone(),
            prompt_stored: (self.prompt_sha256.is_some() && judgement.verdict != Verdict::Completed)
                .then(|| stored.has_prompt()),
            parent: self.parent(),
            warnings: changed.warnings.into_iter().chain(unread).collect(),
        };
        for warning in &turn.warnings {
            outcome.ending.warn(warning);
        }
        turn.log_gap = outcome.ending.write(&turn);
        if let TurnSubject::Session(record) = &mut self.subject {
            // If the prompt never reached the session, the person's answer waits for the next turn.
            if outcome.blocked_on.is_some() || stored.has_prompt() {
                record.pending = outcome
                    .blocked_on
                    .map(|request| pending::from_request(&request, self.turn, redactor))
                    .into_iter()
                    .collect();
            }
            // Without a known session the journal stays, so that the next command looks for the fork.
            if record.session.is_some() {
                record.fork = None;
            }
        }
        {
            let _writing = locked(&self.writing);
            self.subject.close(&self.engine, &self.lease, &turn)?;
        }
        status_writer.end(turn.verdict);
        if let Some(registered) = &self.registered {
            registered.end(turn.cost_usd, turn.tokens.total());
        }
        Ok(Closed {
            subject: self.subject,
            turn,
            answer: if is_withdrawn {
                String::new()
            } else {
                outcome.answer
            },
            interrupt: outcome.interrupt,
            fallback: self.fallback,
            notes: self.notes,
            skipped_hooks: changed.skipped,
            took,
        })
    }
}

/// The error of a turn whose end is not on record: the prompt was sent, so the same request must not be repeated.
struct Unrecorded {
    of: String,
    hint: String,
}

impl Unrecorded {
    fn of(subject: &TurnSubject) -> Self {
        let of = subject.key().reference();
        let hint = match subject {
            TurnSubject::Session(_) => {
                format!("the next command on {of} completes the record, or: kugetsu doctor --fix")
            }
            TurnSubject::Base(record) => adopt_hint(&record.session),
        };
        Self { of, hint }
    }

    fn or(self, error: EngineError) -> EngineError {
        error.or_if_interrupted(|interrupt| EngineError::InterruptedWhile {
            subject: self.of,
            doing: "the end of the turn was being recorded",
            code: Some(ErrorCode::TurnUnrecorded),
            interrupt,
            hint: self.hint,
        })
    }
}

/// How much of a reason is kept, in bytes. It is one line of the output of many commands.
const MAX_REASON: usize = 600;

/// The reason on one line. If it is long, its beginning, and where the whole text is.
fn short_reason(reason: &str, subject: &TurnSubject) -> String {
    let mut line = one_line(reason);
    if line.len() > MAX_REASON {
        line.truncate(line.floor_char_boundary(MAX_REASON));
        line.push_str("... ");
        line.push_str(&match subject {
            TurnSubject::Session(record) => {
                format!("(the whole text: kugetsu logs {} --raw)", record.address)
            }
            TurnSubject::Base(_) => "(the whole text is in the raw log of the turn)".to_owned(),
        });
    }
    line
}

/// How much of opencode's own error is kept, in bytes of JSON: an answer of a provider may be of any size, and a record has
/// a limit.
const MAX_ERROR: usize = 64 << 10;

/// Replaces an error that is too large for a record by the beginning of its text.
fn bounded(proof: Proof) -> Proof {
    let error = proof.error.map(|error| {
        let mut text = error.to_string();
        if text.len() <= MAX_ERROR {
            return error;
        }
        text.truncate(text.floor_char_boundary(MAX_ERROR));
        serde_json::Value::String(text)
    });
    Proof { error, ..proof }
}
