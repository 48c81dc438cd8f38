//! A request to end blocking work. The work checks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once, and never taken back. Clones share one state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancel(Arc<State>);

#[derive(Debug, Default)]
struct State {
    set: AtomicBool,
    noticed: AtomicBool,
}

impl Cancel {
    pub(crate) fn set(&self) {
        self.0.set.store(true, Ordering::Relaxed);
    }

    /// For the work: whether it must end. The caller must end it then.
    pub(crate) fn is_set(&self) -> bool {
        let set = self.0.set.load(Ordering::Relaxed);
        if set {
            self.0.noticed.store(true, Ordering::Relaxed);
        }
        set
    }

    /// Whether the work has ended early. If not, an error of the work has another cause.
    pub(crate) fn was_noticed(&self) -> bool {
        self.0.noticed.load(Ordering::Relaxed)
    }
}
