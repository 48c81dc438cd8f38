//! One prompt to one session, with everything around it; issues, and bases with `init --prompt`, take the same path.
//!
//! [`admit`] takes the lease and decides whether the turn may run; [`fork`] gives the session its fork and its policy;
//! [`run`] reaches opencode and supervises the turn; [`close`] checks the verdict against what opencode stored and writes
//! the record.
//!
//! The order of what is written is the whole point. Before opencode is asked for a fork, the record says that one is
//! wanted; as soon as its id is known, the record holds it; the policy is in the database before (serve) or right after
//! (run, which has it by environment from the first prompt) the prompt goes out. So a crash at any point leaves a session
//! that the next command finds, or nothing.

mod admit;
mod close;
mod fork;
mod run;
mod subject;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use super::request::{Mode, TurnOptions, TurnReport, TurnRequest};
use super::{Engine, EngineError};
use crate::aside::aside;
use crate::cancel::Cancel;
use crate::opencode::Opencode;
use crate::permission::Rule;
use crate::store::{Lease, Lock};
use crate::turn::stream::Feed;
use crate::turn::{Interrupt, Responder};

pub(super) use admit::check_session;
pub(super) use close::Closed;
pub(super) use subject::TurnSubject;

/// A turn that was admitted, on its way to its verdict.
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
}

impl Engine {
    /// Delivers one prompt as the turn of this id. `feed` is called with the turn's stream as soon as there is one.
    pub(super) async fn deliver(
        self: Arc<Self>,
        id: Uuid,
        request: TurnRequest,
        responder: Responder,
        mut interrupts: watch::Receiver<Interrupt>,
        feed: impl FnOnce(Feed) + Send,
    ) -> Result<TurnReport, EngineError> {
        let admitted = Arc::clone(&self)
            .admit(id, request, responder, &mut interrupts)
            .await?;
        let closed = admitted.delivery.run(interrupts.clone(), feed).await?;
        let mut report = aside(move || closed.into_report()).await?;
        report.adopted = admitted.adopted;
        report.notes = admitted.notes;
        if let Err(error) = self
            .hook_after_turn(&report.record, id, report.interrupt, interrupts)
            .await
        {
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
    /// Writes the subject's record aside.
    async fn save(&mut self) -> Result<(), EngineError> {
        self.subject.touch();
        let (engine, lease, subject) = (
            Arc::clone(&self.engine),
            Arc::clone(&self.lease),
            self.subject.clone(),
        );
        aside(move || subject.save(&engine, &lease)).await
    }
}

/// Waits until somebody wants the turn to end.
pub(super) async fn interrupted(interrupts: &mut watch::Receiver<Interrupt>) -> Interrupt {
    let wish = interrupts
        .wait_for(|wish| *wish != Interrupt::None)
        .await
        .map(|wish| *wish);
    match wish {
        Ok(wish) => wish,
        Err(_) => std::future::pending().await,
    }
}

/// Does something for as long as nobody wants the turn to end.
pub(super) async fn unless_interrupted<F: Future>(
    interrupts: &mut watch::Receiver<Interrupt>,
    work: F,
) -> Result<F::Output, EngineError> {
    tokio::select! {
        biased;
        wish = interrupted(interrupts) => Err(EngineError::Interrupted(wish)),
        done = work => Ok(done),
    }
}

/// How long work that was interrupted has to end by itself, before it is left to the next command.
const TO_END: Duration = Duration::from_millis(500);

impl Engine {
    /// Runs blocking work aside of the event loop until it is done or somebody interrupts. The work gets an engine of its
    /// own, whose git is ended by the interrupt.
    ///
    /// Interrupted work that does not end soon goes on, with all that it holds, and its result is lost. So this is only for
    /// work that may be done again, or found half done, by the next command.
    pub async fn interruptible<T: Send + 'static>(
        &self,
        interrupts: &mut watch::Receiver<Interrupt>,
        work: impl FnOnce(&Self) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let asked = *interrupts.borrow();
        if asked != Interrupt::None {
            return Err(EngineError::Interrupted(asked));
        }
        let cancel = Cancel::default();
        let engine = Self {
            cancel: cancel.clone(),
            ..self.clone()
        };
        let mut work = std::pin::pin!(aside(move || work(&engine)));
        let asked = tokio::select! {
            done = &mut work => return done,
            asked = interrupted(interrupts) => asked,
        };
        cancel.set();
        match tokio::time::timeout(TO_END, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) | Err(_) => Err(EngineError::Interrupted(asked)),
        }
    }
}
