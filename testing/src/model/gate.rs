//! A point at which the model waits for the test.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    arrived: usize,
    open: bool,
}

/// Holds replies back until the test opens the gate. Clones share one gate.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<State>, Condvar)>);

impl fmt::Debug for Gate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        out.debug_struct("Gate")
            .field("arrived", &state.arrived)
            .field("open", &state.open)
            .finish()
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets every request through, both waiting and future ones.
    pub fn open(&self) {
        self.state().open = true;
        self.0.1.notify_all();
    }

    /// How many requests have reached the gate so far.
    pub fn arrived(&self) -> usize {
        self.state().arrived
    }

    /// Waits until a request has reached the gate; panics if `deadline` passes first.
    #[track_caller]
    pub fn wait_arrived(&self, deadline: Duration) {
        self.wait_arrivals(1, deadline);
    }

    /// Waits until `count` requests have reached the gate; panics if `deadline` passes first.
    #[track_caller]
    pub fn wait_arrivals(&self, count: usize, deadline: Duration) {
        let end = Instant::now() + deadline;
        let mut state = self.state();
        while state.arrived < count {
            let left = end.saturating_duration_since(Instant::now());
            let arrived = state.arrived;
            assert!(
                !left.is_zero(),
                "{arrived} of {count} requests reached the gate within {deadline:?}"
            );
            state = self
                .0
                .1
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Blocks until the gate is open (true), or until `gone` reports that the client has left (false).
    pub(crate) fn pass(&self, mut gone: impl FnMut() -> bool) -> bool {
        let mut state = self.state();
        state.arrived += 1;
        self.0.1.notify_all();
        loop {
            if state.open {
                return true;
            }
            drop(state);
            if gone() {
                return false;
            }
            state = self.state();
            if !state.open {
                state = self
                    .0
                    .1
                    .wait_timeout(state, Duration::from_millis(20))
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
