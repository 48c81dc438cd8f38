//! The places of turns that may run at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// The places. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Slots(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    most: u32,
    used: u32,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

/// The place of a turn that runs. Dropping it makes the place free.
pub(crate) struct Place(Slots);

impl Slots {
    pub(crate) fn new(most: u32) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                most,
                used: 0,
                waiting: VecDeque::new(),
            }),
            changed: Notify::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how many places there are. Turns that run keep theirs.
    pub(crate) fn set_most(&self, most: u32) {
        self.state().most = most;
        self.0.changed.notify_one();
    }

    /// Whether a place is free.
    pub(crate) fn has_free(&self) -> bool {
        let state = self.state();
        state.used < state.most
    }

    /// Takes a place, which the caller has seen to be free. Nobody else takes one.
    pub(crate) fn take(&self) -> Place {
        self.state().used += 1;
        Place(self.clone())
    }

    /// Asks for a place for a command. Dropping the receiver withdraws the request.
    pub(crate) fn ask(&self) -> oneshot::Receiver<Place> {
        let (sender, receiver) = oneshot::channel();
        self.state().waiting.push_back(sender);
        self.0.changed.notify_one();
        receiver
    }

    /// Gives a free place to the command that has waited longest, if one waits.
    pub(crate) fn grant(&self) {
        loop {
            let Some(next) = self.state().waiting.pop_front() else {
                return;
            };
            if next.is_closed() {
                continue;
            }
            match next.send(self.take()) {
                Ok(()) => return,
                // The command has just gone.
                Err(place) => drop(place),
            }
        }
    }

    /// Whether a command waits.
    pub(crate) fn is_awaited(&self) -> bool {
        let mut state = self.state();
        state.waiting.retain(|waiting| !waiting.is_closed());
        !state.waiting.is_empty()
    }

    /// The places, those in use, and the commands that wait.
    pub(crate) fn counts(&self) -> (u32, u32, u32) {
        let waiting = |state: &State| state.waiting.iter().filter(|one| !one.is_closed()).count();
        let state = self.state();
        (
            state.most,
            state.used,
            u32::try_from(waiting(&state)).unwrap_or(u32::MAX),
        )
    }

    /// Waits until a place has become free, or a command has asked for one.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.used = state.used.saturating_sub(1);
        drop(state);
        self.0.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_it_is_dropped() {
        let slots = Slots::new(2);
        let first = slots.take();
        assert!(slots.has_free());
        let _second = slots.take();
        assert!(!slots.has_free());
        drop(first);
        assert!(slots.has_free());
        slots.set_most(1);
        assert!(!slots.has_free(), "the places are fewer now");
    }

    #[test]
    fn commands_get_places_in_their_order_and_those_that_left_get_none() {
        let slots = Slots::new(1);
        let (gone, mut first, mut second) = (slots.ask(), slots.ask(), slots.ask());
        drop(gone);
        slots.grant();
        let granted = first.try_recv().expect("the first one that is still there");
        assert!(second.try_recv().is_err());
        assert!(!slots.has_free() && slots.is_awaited());
        drop(granted);
        slots.grant();
        let _granted = second.try_recv().expect("the next one");
        assert!(!slots.is_awaited());
        assert_eq!(slots.counts(), (1, 1, 0));
    }
}
