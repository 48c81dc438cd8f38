//! The wish to end blocking work, which the work itself looks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once, and never taken back. Clones are the same wish.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
