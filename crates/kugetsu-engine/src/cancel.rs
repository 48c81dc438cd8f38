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
    parent: Option<Cancel>,
}

impl Cancel {
    pub(crate) fn set(&self) {
        self.0.set.store(true, Ordering::Relaxed);
    }

    /// A request for a part of the work, which is also set when this one is.
    pub(crate) fn child(&self) -> Self {
        Self(Arc::new(State {
            parent: Some(self.clone()),
            ..State::default()
        }))
    }

    /// For the work: whether it must end. The caller must end it then.
    pub(crate) fn is_set(&self) -> bool {
        let set = self.0.set.load(Ordering::Relaxed) || self.0.parent.as_ref().is_some_and(Self::is_set);
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
