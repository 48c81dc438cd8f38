//! Turns as handles. Many turns may run in one process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::request::{TurnReport, TurnRequest};
use super::{Engine, EngineError};
use crate::store::Holder;
use crate::turn::stream::Feed;
use crate::turn::{Interrupt, Responder};

/// A spawned turn. If the handle is dropped, the turn continues to its end.
#[derive(Debug)]
pub struct TurnHandle {
    /// The turn's id: the id from the request, or else a new UUID v7.
    pub id: Uuid,
    /// The turn's stream, as soon as the stream exists.
    pub feed: TurnFeed,
    /// What the turn waits for before it begins.
    pub waits: watch::Receiver<Option<WaitsFor>>,
    /// Ends the turn on request.
    pub control: TurnControl,
    /// The result of the turn.
    pub done: TurnDone,
}

/// The lease of its session, which another process or turn holds and a turn waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitsFor {
    /// Its holder, if known.
    pub holder: Option<Holder>,
}

/// Reports what a turn waits for.
#[derive(Clone, Debug, Default)]
pub(super) struct WaitReports(watch::Sender<Option<WaitsFor>>);

impl WaitReports {
    pub(super) fn begin(&self, holder: Option<Holder>) {
        self.set(Some(WaitsFor { holder }));
    }

    pub(super) fn end(&self) {
        self.set(None);
    }

    fn set(&self, waits: Option<WaitsFor>) {
        self.0.send_if_modified(|newest| {
            let is_new = *newest != waits;
            *newest = waits;
            is_new
        });
    }
}

/// The stream of a turn. It can be taken once.
#[derive(Debug)]
pub struct TurnFeed(Option<oneshot::Receiver<Feed>>);

impl TurnFeed {
    /// Waits for the stream. `None` if the turn ended without a stream, or if the stream was taken before. Cancel-safe.
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
    /// Waits for the end of the turn. Cancel-safe; must not be called again after it has returned.
    pub async fn wait(&mut self) -> Result<TurnReport, EngineError> {
        match (&mut self.task).await {
            Ok(done) => done,
            Err(error) => Err(EngineError::Panicked {
                turn: self.turn,
                message: error.try_into_panic().map_or_else(
                    |_| "the turn was cancelled".to_owned(),
                    |panic| panic_message(panic.as_ref()),
                ),
            }),
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the panic has no message".to_owned())
}

/// Ends a turn of this process on request. Cheap to clone; does not keep the turn alive.
#[derive(Clone, Debug)]
pub struct TurnControl {
    interrupts: watch::Sender<Interrupt>,
}

impl TurnControl {
    /// Asks the turn to end, with [`Interrupt::Now`] without the grace period. A turn that has ended ignores the
    /// request.
    pub fn interrupt(&self, interrupt: Interrupt) {
        self.interrupts.send_if_modified(|newest| {
            let is_more_urgent = interrupt > *newest;
            *newest = interrupt.max(*newest);
            is_more_urgent
        });
    }
}

/// The running turns of this process, oldest first. A turn that was spawned twice with one id is listed twice; the
/// second one waits for the lease of the first.
#[derive(Clone, Debug, Default)]
pub(super) struct TurnRegistry(Arc<Mutex<Vec<(Uuid, TurnControl)>>>);

impl TurnRegistry {
    fn turns(&self) -> MutexGuard<'_, Vec<(Uuid, TurnControl)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The control of a running turn.
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

/// Removes a turn from the registry when it ends, for whatever reason.
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
    /// Starts a turn on the caller's tokio runtime. If the turn cannot run, [`TurnDone::wait`] returns the reason.
    pub fn spawn(&self, request: TurnRequest, responder: Responder) -> TurnHandle {
        let id = request.turn.unwrap_or_else(Uuid::now_v7);
        let (interrupts, receiver) = watch::channel(Interrupt::None);
        let control = TurnControl { interrupts };
        let (feeds, feed) = oneshot::channel();
        let reports = WaitReports::default();
        let waits = reports.0.subscribe();
        let registered = self.turns.register(id, control.clone());
        let engine = Arc::new(self.clone());
        let task = tokio::spawn(async move {
            let _registered = registered;
            let ready = |feed| {
                let _ = feeds.send(feed);
            };
            engine
                .deliver(id, request, responder, receiver.into(), reports, ready)
                .await
        });
        TurnHandle {
            id,
            feed: TurnFeed(Some(feed)),
            waits,
            control,
            done: TurnDone { turn: id, task },
        }
    }

    /// The ids of the running turns of this process, oldest first.
    pub fn running_here(&self) -> Vec<Uuid> {
        let mut ids: Vec<_> = self.turns.turns().iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}
