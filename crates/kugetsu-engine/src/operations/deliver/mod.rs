//! One prompt to one session, with everything around it; issues, and bases with `init --prompt`, take the same path.
//!
//! [`admit`] takes the lease and decides whether the turn may run; [`fork`] gives the session its fork and its policy;
//! [`run`] reaches opencode and supervises the turn; [`close`] checks the verdict against what opencode stored and writes
//! the record.
//!
//! The order of the writes makes a turn survive a crash. Before opencode is asked for a fork, the record says that a fork
//! is wanted. As soon as the fork's id is known, the record holds it. The policy is in the database before the prompt goes
//! out (serve), or right after (run, which has the policy in its environment from the first prompt on). So a crash at any
//! point leaves a session that the next command finds, or nothing.

mod admit;
mod close;
mod fork;
mod run;
mod subject;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use uuid::Uuid;

use super::hooks::HookPoint;
use super::interrupts::Interrupts;
use super::request::{Mode, TurnOptions, TurnReport, TurnRequest};
use super::{Engine, EngineError};
use crate::opencode::Opencode;
use crate::permission::Rule;
use crate::store::{Lease, Lock};
use crate::turn::Responder;
use crate::turn::stream::Feed;

use admit::Admitted;
pub(super) use admit::check_session;
pub(super) use close::Closed;
pub(super) use subject::TurnSubject;

/// An admitted turn, until its verdict.
pub(super) struct Delivery {
    pub(super) engine: Arc<Engine>,
    pub(super) lease: Arc<Lease>,
    pub(super) opencode: Opencode,
    /// Whose turn it is.
    pub(super) subject: TurnSubject,
    pub(super) turn: Uuid,
    pub(super) started: Timestamp,
    /// The answers to what the last turn was blocked on, then the message.
    pub(super) prompt: String,
    /// What the session carries during this turn.
    pub(super) rules: Vec<Rule>,
    pub(super) responder: Responder,
    pub(super) options: TurnOptions,
    /// Why the turn goes through `run` although `serve` was preferred.
    pub(super) fallback: Option<String>,
    /// Held until the fork that was asked for is known.
    pub(super) fork_lock: Option<Lock>,
    /// Held by each write of the record: an interrupted one may still be on its way when the next begins.
    pub(super) writing: Arc<Mutex<()>>,
}

impl Engine {
    /// Delivers one prompt as the turn of this id. `feed` is called with the turn's stream as soon as there is one.
    pub(super) async fn deliver(
        self: Arc<Self>,
        id: Uuid,
        request: TurnRequest,
        responder: Responder,
        mut interrupts: Interrupts,
        feed: impl FnOnce(Feed) + Send,
    ) -> Result<TurnReport, EngineError> {
        let Admitted {
            delivery,
            adopted,
            notes,
        } = Arc::clone(&self)
            .admit(id, request, responder, &mut interrupts)
            .await?;
        // Held to the end of this function: the next turn begins after the hook.
        let lease = Arc::clone(&delivery.lease);
        let mut report = match delivery.run(&mut interrupts, feed).await {
            Ok(closed) => closed.into_report()?,
            Err(error) => {
                for note in notes {
                    tracing::warn!("{note}");
                }
                return Err(error);
            }
        };
        report.adopted = adopted;
        report.notes = notes;
        let (point, record) = (HookPoint::AfterTurn, &report.record);
        let hook = self.interruptible_hook(point, record, Some(id), &lease, &mut interrupts);
        if let Err(error) = hook.await {
            let note = match error {
                EngineError::Interrupted(_) => "hook_after_turn was interrupted".to_owned(),
                error => error.to_string(),
            };
            tracing::warn!("{note}");
            report.notes.push(note);
        }
        Ok(report)
    }
}

impl Delivery {
    /// Writes the subject's record.
    async fn save(&mut self, interrupts: &mut Interrupts) -> Result<(), EngineError> {
        let write = self.record_write();
        self.engine.interruptible(interrupts, write).await
    }

    /// A write of the subject's record, as blocking work. A write that an interrupt has left alone ends before it.
    fn record_write(&mut self) -> impl FnOnce(&Engine) -> Result<(), EngineError> + Send + use<> {
        self.subject.touch();
        let (lease, subject) = (Arc::clone(&self.lease), self.subject.clone());
        let writing = Arc::clone(&self.writing);
        move |engine| {
            let _writing = locked(&writing);
            subject.save(engine, &lease)
        }
    }
}

fn locked(writing: &Mutex<()>) -> MutexGuard<'_, ()> {
    writing.lock().unwrap_or_else(PoisonError::into_inner)
}
