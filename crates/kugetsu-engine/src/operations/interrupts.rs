//! Requests to end an operation, and work that they can end.

use std::time::Duration;

use tokio::sync::watch;

use super::{Engine, EngineError};
use crate::aside::aside;
use crate::cancel::Cancel;
use crate::turn::Interrupt;

/// How long interrupted work has to end by itself before it is left alone.
pub(super) const TO_END: Duration = Duration::from_millis(400);

/// The interrupts of an operation, as the steps of the operation see them.
#[derive(Clone, Debug)]
pub(super) struct Interrupts {
    receiver: watch::Receiver<Interrupt>,
    /// The interrupt that an earlier step has ended by. Later steps end by a later interrupt only.
    heeded: Interrupt,
}

impl From<watch::Receiver<Interrupt>> for Interrupts {
    fn from(receiver: watch::Receiver<Interrupt>) -> Self {
        Self {
            receiver,
            heeded: Interrupt::None,
        }
    }
}

impl Interrupts {
    pub(super) fn receiver(&self) -> watch::Receiver<Interrupt> {
        self.receiver.clone()
    }

    /// The interrupt that the next step must end by, if there is one.
    pub(super) fn pending(&self) -> Option<Interrupt> {
        let newest = *self.receiver.borrow();
        (newest != Interrupt::None && newest != self.heeded).then_some(newest)
    }

    /// Has the steps that follow ignore an interrupt that a step has ended by.
    pub(super) fn heed(&mut self, interrupt: Interrupt) {
        self.receiver.mark_unchanged();
        self.heeded = interrupt;
    }

    /// Waits for an interrupt. May be cancelled.
    pub(super) async fn next(&mut self) -> Interrupt {
        if let Some(interrupt) = self.pending() {
            return interrupt;
        }
        match self.receiver.changed().await {
            Ok(()) => *self.receiver.borrow(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits for work that may be dropped at any moment, or for an interrupt.
    pub(super) async fn or<F: Future>(&mut self, work: F) -> Result<F::Output, EngineError> {
        tokio::select! {
            biased;
            interrupt = self.next() => Err(EngineError::Interrupted(interrupt)),
            done = work => Ok(done),
        }
    }
}

impl Engine {
    /// Runs blocking work beside the event loop until it is done or an interrupt comes. The work gets an engine of its
    /// own, whose git is ended by the interrupt.
    ///
    /// Interrupted work that does not end within [`TO_END`] goes on, with all that it holds, and its result is lost. So
    /// this is only for work that the next command can repeat, or complete when it finds it half done.
    pub(super) async fn interruptible<T: Send + 'static>(
        &self,
        interrupts: &mut Interrupts,
        work: impl FnOnce(&Self) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        match interrupts.pending() {
            Some(interrupt) => Err(EngineError::Interrupted(interrupt)),
            None => self.begun(TO_END, interrupts, work).await,
        }
    }

    /// [`Engine::interruptible`] for work that must be begun in any case. After an interrupt the work has `to_end` to end,
    /// or until a second interrupt. An error that is not due to the interrupt is returned as it is.
    pub(super) async fn begun<T: Send + 'static>(
        &self,
        to_end: Duration,
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
        later.heed(interrupt);
        tokio::select! {
            done = work => {
                if done.is_ok() || !cancel.was_noticed() {
                    return done;
                }
            }
            () = tokio::time::sleep(to_end) => {}
            _ = later.next() => {}
        }
        Err(EngineError::Interrupted(interrupt))
    }
}
