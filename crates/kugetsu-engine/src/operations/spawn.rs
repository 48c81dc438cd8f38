//! Turns as handles: many of them may run in one process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::request::{TurnReport, TurnRequest};
use super::{Engine, EngineError};
use crate::turn::stream::Feed;
use crate::turn::{Interrupt, Responder};

/// A turn that was spawned. Dropping the handle leaves the turn alone: it goes on to its end.
#[derive(Debug)]
pub struct TurnHandle {
    /// The turn's id, a UUID v7: the one of the request, else a new one.
    pub id: Uuid,
    /// Its stream, as soon as there is one.
    pub feed: TurnFeed,
    /// What ends it.
    pub control: TurnControl,
    /// What came of it.
    pub done: TurnDone,
}

/// The stream of a turn, once.
#[derive(Debug)]
pub struct TurnFeed(Option<oneshot::Receiver<Feed>>);

impl TurnFeed {
    /// Waits for the stream. `None`: the turn ended without one, or the stream was taken before. May be cancelled and
    /// called again.
    pub async fn ready(&mut self) -> Option<Feed> {
        let feed = self.0.as_mut()?.await.ok();
        self.0 = None;
        feed
    }
}

/// The end of a turn.
#[derive(Debug)]
pub struct TurnDone {
    turn: Uuid,
    task: JoinHandle<Result<TurnReport, EngineError>>,
}

impl TurnDone {
    /// Waits for the end: what came of the turn, or what kept it from running. May be cancelled and called again until it
    /// has returned.
    pub async fn wait(&mut self) -> Result<TurnReport, EngineError> {
        match (&mut self.task).await {
            Ok(done) => done,
            Err(error) => Err(EngineError::Panicked {
                turn: self.turn,
                message: error.try_into_panic().map_or_else(
                    |_| "it was cancelled".to_owned(),
                    |panic| words_of(panic.as_ref()),
                ),
            }),
        }
    }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it left no message".to_owned())
}

/// Ends a turn of this process. Cheap to clone; it does not keep the turn alive.
#[derive(Clone, Debug)]
pub struct TurnControl {
    interrupts: watch::Sender<Interrupt>,
}

impl TurnControl {
    /// Asks the turn to end; [`Interrupt::Now`] without the grace period. A turn that is over ignores it.
    pub fn interrupt(&self, interrupt: Interrupt) {
        self.interrupts.send_if_modified(|newest| {
            let is_more_urgent = interrupt > *newest;
            *newest = interrupt.max(*newest);
            is_more_urgent
        });
    }
}

/// The turns that run in this process, the oldest first. A turn that was spawned twice with one id is here twice: the
/// second one waits for the lease of the first.
#[derive(Clone, Debug, Default)]
pub(super) struct TurnRegistry(Arc<Mutex<Vec<(Uuid, TurnControl)>>>);

impl TurnRegistry {
    fn turns(&self) -> MutexGuard<'_, Vec<(Uuid, TurnControl)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The control of a turn, while it runs.
    pub(super) fn control(&self, turn: Uuid) -> Option<TurnControl> {
        let turns = self.turns();
        let found = turns.iter().find(|(id, _)| *id == turn);
        found.map(|(_, control)| control.clone())
    }

    fn register(&self, turn: Uuid, control: TurnControl) -> Registered {
        self.turns().push((turn, control.clone()));
        Registered {
            registry: self.clone(),
            control,
        }
    }
}

/// Takes a turn out of the registry when it is over, however it ended.
struct Registered {
    registry: TurnRegistry,
    control: TurnControl,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let own = &self.control.interrupts;
        self.registry
            .turns()
            .retain(|(_, other)| !other.interrupts.same_channel(own));
    }
}

impl Engine {
    /// Begins a turn on the event loop of the caller, which must be one of tokio's. What keeps the turn from running is
    /// told by [`TurnDone::wait`].
    pub fn spawn(&self, request: TurnRequest, responder: Responder) -> TurnHandle {
        let id = request.turn.unwrap_or_else(Uuid::now_v7);
        let (interrupts, receiver) = watch::channel(Interrupt::None);
        let control = TurnControl { interrupts };
        let (feeds, feed) = oneshot::channel();
        let registered = self.turns.register(id, control.clone());
        let engine = Arc::new(self.clone());
        let task = tokio::spawn(async move {
            let _registered = registered;
            let ready = |feed| {
                let _ = feeds.send(feed);
            };
            engine
                .deliver(id, request, responder, receiver.into(), ready)
                .await
        });
        TurnHandle {
            id,
            feed: TurnFeed(Some(feed)),
            control,
            done: TurnDone { turn: id, task },
        }
    }

    /// The ids of the turns that run in this process, the oldest first.
    pub fn running_here(&self) -> Vec<Uuid> {
        let mut ids: Vec<_> = self.turns.turns().iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}
