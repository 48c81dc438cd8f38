//! The end of a turn: checks the verdict against opencode's stored messages, writes the last lines of stream and turn
//! log, and then the record.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Delivery, TurnReport, TurnSubject, locked};
use crate::operations::evidence::StoredEvidence;
use crate::operations::interrupts::{Interrupts, STOP_WAIT};
use crate::operations::{Engine, EngineError, pending};
use crate::redact::Redactor;
use crate::turn::status::StatusWriter;
use crate::turn::{Counts, Interrupt, Outcome};
use kugetsu_api::{Proof, SCHEMA, TransportKind, TurnRecord, Verdict};

/// A turn that is closed on disk.
pub(in crate::operations) struct Closed {
    pub(in crate::operations) subject: TurnSubject,
    pub(in crate::operations) turn: TurnRecord,
    pub(in crate::operations) answer: String,
    pub(in crate::operations) interrupt: Interrupt,
    pub(in crate::operations) fallback: Option<String>,
    /// Writes the end of the turn into the status file, after the record has been written.
    pub(in crate::operations) status_writer: StatusWriter,
}

impl Closed {
    /// The report of a session's turn, and the writer of the status file, which has not been ended yet.
    pub(super) fn into_report(self) -> Result<(TurnReport, StatusWriter), EngineError> {
        let TurnSubject::Session(record) = self.subject else {
            return Err(EngineError::Internal("the turn of a base has no report"));
        };
        let report = TurnReport {
            record,
            turn: self.turn,
            answer: self.answer,
            interrupt: self.interrupt,
            adopted: None,
            fallback: self.fallback,
            notes: Vec::new(),
        };
        Ok((report, self.status_writer))
    }
}

impl Delivery {
    /// Records the end of the turn on disk. Only an interrupt that came after the end of the turn cuts this work off.
    pub(super) async fn close(
        self,
        outcome: Outcome,
        transport: TransportKind,
        redactor: Redactor,
        status_writer: StatusWriter,
        interrupts: &mut Interrupts,
    ) -> Result<Closed, EngineError> {
        interrupts.mark_handled(outcome.interrupt);
        let engine = Arc::clone(&self.engine);
        let subject = self.subject.key().reference();
        let close = move |_: &Engine| self.close_blocking(outcome, transport, &redactor, status_writer);
        engine
            .run_required(STOP_WAIT, interrupts, close)
            .await
            .map_err(|error| match error {
                EngineError::Interrupted(interrupt) => EngineError::InterruptedWhile {
                    hint: format!(
                        "the next command on {subject} completes the record, or: kugetsu doctor --fix"
                    ),
                    subject,
                    doing: "the end of the turn was being recorded",
                    interrupt,
                },
                error => error,
            })
    }

    fn close_blocking(
        mut self,
        outcome: Outcome,
        transport: TransportKind,
        redactor: &Redactor,
        status_writer: StatusWriter,
    ) -> Result<Closed, EngineError> {
        let stored = StoredEvidence::since(&self.opencode, self.subject.session(), self.started);
        let mut judgement = stored.verify(outcome.judgement);
        judgement.reason = redactor.clean(&judgement.reason).into_owned();
        let (cost_usd, tokens) = stored.spent(&outcome.counts);
        let counts = Counts {
            cost_usd,
            tokens,
            ..outcome.counts
        };
        let proof = if judgement.verdict == Verdict::Completed {
            Proof::default()
        } else {
            bounded(outcome.proof)
        };
        let log_gap = outcome.ending.write(&judgement, counts, proof.clone());
        let turn = TurnRecord {
            schema: SCHEMA,
            turn: self.turn,
            verdict: judgement.verdict,
            reason: judgement.reason,
            retry_at: judgement.retry_at,
            proof,
            transport,
            started: self.started,
            ended: Timestamp::now(),
            steps: outcome.counts.steps,
            tool_calls: outcome.counts.tool_calls,
            cost_usd,
            tokens,
            opencode: self.subject.opencode().to_owned(),
            events: outcome.counts.events,
            restarts: outcome.restarts,
            answered: outcome.answered,
            log_gap,
        };
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
        if let TurnSubject::Session(record) = &self.subject
            && self.rules != record.policy.rules()
        {
            // Permissions for one turn end with the turn. A failure here does no harm, because the next turn writes the
            // policy again.
            let _ = self.engine.apply_policy(&self.opencode, record);
        }
        Ok(Closed {
            subject: self.subject,
            turn,
            answer: outcome.answer,
            interrupt: outcome.interrupt,
            fallback: self.fallback,
            status_writer,
        })
    }
}

/// The largest size of opencode's error in a proof, in bytes of JSON. A provider's answer may have any size, and a
/// record has a limit.
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
