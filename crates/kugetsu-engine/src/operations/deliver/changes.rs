//! What the turn changes in the clone that it works in. A turn never fails or waits long because git does not tell.

use std::time::Duration;

use super::Delivery;
use crate::changes::Reading;
use crate::git::{Git, GitError};
use crate::operations::interrupts::Interrupts;
use crate::operations::{Engine, EngineError};
use crate::turn::Interrupt;
use kugetsu_api::Changes;

/// The time limit of each git command. git takes longer than this in few clones.
const LIMIT: Duration = Duration::from_secs(10);
/// The same for a turn that a person has ended and now waits for.
const LIMIT_AFTER_INTERRUPT: Duration = Duration::from_secs(1);

impl Delivery {
    /// Reads the clone before the turn.
    pub(super) async fn read_clone(
        &self,
        interrupts: &mut Interrupts,
    ) -> Result<Option<Reading>, EngineError> {
        let git = self.git_within(LIMIT);
        let read = move |engine: &Engine| Ok(told(Reading::take(&git(engine))).flatten());
        self.engine.interruptible(interrupts, read).await
    }

    /// Compares the clone after the turn with what it was before. An interrupt during this step ends only this step,
    /// because the turn itself is over.
    pub(super) async fn changes(&mut self, ended_by: Interrupt, interrupts: &Interrupts) -> Option<Changes> {
        let before = self.before.take()?;
        let mut later = interrupts.clone();
        later.mark_handled(ended_by);
        let git = self.git_within(match ended_by {
            Interrupt::None => LIMIT,
            _ => LIMIT_AFTER_INTERRUPT,
        });
        let compare = move |engine: &Engine| Ok(told(before.compare(&git(engine))).flatten());
        self.engine.interruptible(&mut later, compare).await.ok()?
    }

    fn git_within(&self, limit: Duration) -> impl FnOnce(&Engine) -> Git + Send + use<> {
        let directory = self.subject.directory().to_owned();
        move |engine| engine.git().at(&directory).within(limit)
    }
}

fn told<T>(result: Result<T, GitError>) -> Option<T> {
    result
        .inspect_err(|error| tracing::warn!("the changes of the turn are unknown: {error}"))
        .ok()
}
