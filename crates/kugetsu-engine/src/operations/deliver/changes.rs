//! What the turn changes in the clone that it works in. A turn never fails or waits long because git does not tell.

use std::time::Duration;

use super::Delivery;
use crate::changes::{ChangesError, Reading, Scratch};
use crate::git::{Git, top_of};
use crate::operations::interrupts::Interrupts;
use crate::operations::{Engine, EngineError};
use crate::store::COMPARISON;
use crate::turn::Interrupt;
use kugetsu_api::Changes;

/// The time limit of one reading or comparison, with all its git commands. git takes longer than this in few clones.
const LIMIT: Duration = Duration::from_secs(10);
/// The same for a turn that a person has ended and now waits for.
const LIMIT_AFTER_INTERRUPT: Duration = Duration::from_secs(1);

/// The clone before a turn.
pub(in crate::operations) struct Before {
    pub(super) reading: Reading,
    scratch: Scratch,
}

impl Delivery {
    /// Reads the clone before the turn.
    pub(super) async fn read_clone(
        &self,
        interrupts: &mut Interrupts,
    ) -> Result<Option<Before>, EngineError> {
        let (git, key) = (self.git_within(LIMIT), self.subject.key());
        let read = move |engine: &Engine| {
            let git = git(engine);
            if top_of(git.folder()).is_none() {
                return Ok(None);
            }
            let folder = engine.store.make_folder(&key)?;
            let read = || {
                let scratch = Scratch::at(&folder, COMPARISON)?;
                let reading = Reading::keep(&git, scratch.path())?;
                Ok(Before { reading, scratch })
            };
            Ok(told(read()))
        };
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
        let worktree = self.subject.worktree().cloned();
        let compare = move |engine: &Engine| {
            let scratch = before.scratch.path();
            let compared = before.reading.compare(&git(engine), scratch, worktree.as_ref());
            Ok(told(compared))
        };
        self.engine.interruptible(&mut later, compare).await.ok()?
    }

    fn git_within(&self, limit: Duration) -> impl FnOnce(&Engine) -> Git + Send + use<> {
        let directory = self.subject.directory().to_owned();
        move |engine| engine.git().at(&directory).within(limit)
    }
}

fn told<T>(result: Result<T, ChangesError>) -> Option<T> {
    result
        .inspect_err(|error| tracing::warn!("the changes of the turn are unknown: {error}"))
        .ok()
}
