//! Interrupts of an operation, and work that an interrupt can end.

use std::time::Duration;

use tokio::sync::watch;

use super::{Engine, EngineError};
use crate::aside::aside;
use crate::cancel::Cancel;
use crate::turn::Interrupt;

/// How long the engine waits for interrupted work to end before it abandons that work.
pub(super) const STOP_WAIT: Duration = Duration::from_millis(400);

/// How much of its time interrupted work keeps after a second interrupt, so that an impatient one loses nothing that is about
/// to be written.
const HURRIED_WAIT: Duration = Duration::from_secs(1);

/// The interrupts of an operation, as the steps of the operation see them.
#[derive(Clone, Debug)]
pub(super) struct Interrupts {
    receiver: watch::Receiver<Interrupt>,
    /// The interrupt that ended an earlier step. Only a later interrupt ends the steps that follow.
    handled: Interrupt,
}

impl From<watch::Receiver<Interrupt>> for Interrupts {
    fn from(receiver: watch::Receiver<Interrupt>) -> Self {
        Self {
            receiver,
            handled: Interrupt::None,
        }
    }
}

impl Interrupts {
    pub(super) fn receiver(&self) -> watch::Receiver<Interrupt> {
        self.receiver.clone()
    }

    /// The interrupt that must end the next step, if there is one.
    pub(super) fn pending(&self) -> Option<Interrupt> {
        let newest = *self.receiver.borrow();
        (newest != Interrupt::None && newest != self.handled).then_some(newest)
    }

    /// Makes the following steps ignore an interrupt that has ended an earlier step.
    pub(super) fn mark_handled(&mut self, interrupt: Interrupt) {
        self.receiver.mark_unchanged();
        self.handled = interrupt;
    }

    /// Waits for an interrupt. Cancel-safe.
    pub(super) async fn next(&mut self) -> Interrupt {
        if let Some(interrupt) = self.pending() {
            return interrupt;
        }
        match self.receiver.changed().await {
            Ok(()) => *self.receiver.borrow(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits for work or for an interrupt. An interrupt drops the work.
    pub(super) async fn or<F: Future>(&mut self, work: F) -> Result<F::Output, EngineError> {
        tokio::select! {
            biased;
            interrupt = self.next() => Err(EngineError::Interrupted(interrupt)),
            done = work => Ok(done),
        }
    }
}

impl Engine {
    /// Runs blocking work off the event loop until the work is done or an interrupt comes. The work gets an engine of
    /// its own, whose git commands the interrupt ends.
    ///
    /// Interrupted work that does not end within [`STOP_WAIT`] continues with everything that it holds, and its result
    /// is lost. So use this only for work that the next command can repeat, or complete if it is half done.
    pub(super) async fn interruptible<T: Send + 'static>(
        &self,
        interrupts: &mut Interrupts,
        work: impl FnOnce(&Self) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        match interrupts.pending() {
            Some(interrupt) => Err(EngineError::Interrupted(interrupt)),
            None => self.run_required(STOP_WAIT, interrupts, work).await,
        }
    }

    /// [`Engine::interruptible`] for work that must be begun in any case. After an interrupt the work has `stop_wait` to end.
    /// A second interrupt, now or before, leaves it at most [`HURRIED_WAIT`]. An error that is not due to the interrupt is
    /// returned as it is.
    pub(super) async fn run_required<T: Send + 'static>(
        &self,
        stop_wait: Duration,
        interrupts: &mut Interrupts,
        work: impl FnOnce(&Self) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let cancel = Cancel::default();
        let engine = Self {
            cancel: cancel.clone(),
            ..self.clone()
        };
        let mut work = std::pin::pin!(aside(move || work(&engine)));
        let interrupt = tokio::select! {
            done = &mut work => return done,
            interrupt = interrupts.next() => interrupt,
        };
        cancel.set();
        let mut later = interrupts.clone();
        later.mark_handled(interrupt);
        let hurried = async {
            if interrupt != Interrupt::Now {
                later.next().await;
            }
            tokio::time::sleep(HURRIED_WAIT).await;
        };
        tokio::select! {
            done = work => {
                if done.is_ok() || !cancel.was_noticed() {
                    return done;
                }
            }
            () = tokio::time::sleep(stop_wait) => {}
            () = hurried => {}
        }
        Err(EngineError::Interrupted(interrupt))
    }
}
