//! Delivery of one prompt to one session, from the lease to the record. Turns of sessions and the turn of `init
//! --prompt` on a base take the same path.
//!
//! [`admit`] takes the lease and decides whether the turn may run; [`fork`] forks the session and writes its policy;
//! [`run`] connects to opencode and supervises the turn; [`close`] checks the verdict against opencode's stored
//! messages and writes the record.
//!
//! The order of the writes makes a turn survive a crash. The record announces a fork before opencode is asked for it,
//! and holds the fork's id as soon as the id is known. The policy is in the database before the prompt goes out
//! (serve), or right after it (run, which has the policy in its environment from the first prompt on). So a crash at
//! any point leaves a session that the next command finds, or no session.

mod admit;
mod changes;
mod clock;
mod close;
mod fork;
mod program;
mod run;
mod subject;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use uuid::Uuid;

use super::family::Registered;
use super::hooks::HookPoint;
use super::interrupts::{Interrupts, STOP_WAIT};
use super::request::{Mode, TurnOptions, TurnReport, TurnRequest};
use super::spawn::WaitReports;
use super::{Engine, EngineError};
use crate::opencode::{Opencode, SessionContext, names_unknown_model};
use crate::permission::Rule;
use crate::settings::Origin;
use crate::store::Lease;
use crate::turn::stream::Feed;
use crate::turn::{Responder, millis};
use kugetsu_api::{Phase, Timings, Verdict};

use admit::Admitted;
pub(super) use admit::check_session;
use changes::Before;
pub(super) use clock::disorder_of;
pub(super) use close::{Closed, TO_RECORD};
pub(super) use fork::{forked_after, sha256};
pub(super) use subject::TurnSubject;
use watch::Watched;

/// An admitted turn.
pub(super) struct Delivery {
    pub(super) engine: Arc<Engine>,
    pub(super) lease: Arc<Lease>,
    pub(super) opencode: Opencode,
    /// The session or the base that the turn runs on.
    pub(super) subject: TurnSubject,
    pub(super) turn: Uuid,
    pub(super) started: Timestamp,
    /// The same moment for durations, which must not change with the system's clock.
    pub(super) began: Instant,
    /// The answers to the request that blocked the last turn, then the message.
    pub(super) prompt: String,
    /// The part of the prompt that the record keeps, once opencode is connected.
    pub(super) kept_prompt: Option<String>,
    /// The clone before the turn, if the session works in one.
    pub(super) before: Option<Before>,
    /// SHA-256 of the message alone, if the caller chose the turn's id.
    pub(super) prompt_sha256: Option<String>,
    /// The permission rules of the session during this turn.
    pub(super) rules: Vec<Rule>,
    /// What the session is told about itself.
    pub(super) context: SessionContext,
    /// Whether opencode loads nothing of what the repository brings for it.
    pub(super) ignore_project: bool,
    pub(super) responder: Responder,
    pub(super) options: TurnOptions,
    /// Why the turn uses `run` although `serve` was preferred.
    pub(super) fallback: Option<String>,
    /// Notes for people from before the turn.
    pub(super) notes: Vec<String>,
    /// The turn's entry in the register of running turns; a base has none.
    pub(super) registered: Option<Arc<Registered>>,
    /// What decides about later turns, as it was before the prompt.
    pub(super) watched: Option<Watched>,
    /// The newest messages of the session before the turn, once the session is known.
    pub(super) after: Option<Vec<String>>,
    /// When the parts of the turn happened.
    pub(super) timings: Timings,
    /// Held by each write of the record, because an interrupted write may still be running when the next one begins.
    pub(super) writing: Arc<Mutex<()>>,
}

impl Engine {
    /// Delivers one prompt as the turn with this id. Calls `feed` with the turn's stream as soon as the stream exists.
    pub(super) async fn deliver(
        self: Arc<Self>,
        id: Uuid,
        request: TurnRequest,
        responder: Responder,
        mut interrupts: Interrupts,
        waits: WaitReports,
        feed: impl FnOnce(Feed) + Send,
    ) -> Result<TurnReport, EngineError> {
        let model = request.options.model.clone();
        let Admitted {
            delivery,
            adopted,
            folder_lock,
            keys,
        } = Arc::clone(&self)
            .admit(id, request, responder, waits, &mut interrupts)
            .await?;
        if let (Some(shared), Some(dead)) = (&self.shared_budget, &adopted) {
            shared.recovered(dead.turn, dead.cost_usd).await;
        }
        // Lease and lock are held to the end of this function, so that other turns begin after the hook. The lock ends
        // first, so that the session's next turn does not meet it.
        let lease = Arc::clone(&delivery.lease);
        let _folder_lock = folder_lock;
        self.collect_some_garbage(delivery.subject.key());
        let ran = delivery.run(&mut interrupts, feed).await;
        if keys.is_some() {
            let remove = move |_: &Self| {
                drop(keys);
                Ok(())
            };
            let _ = self.run_required(STOP_WAIT, &mut interrupts, remove).await;
        }
        let mut report = ran?.into_report()?;
        report.adopted = adopted;
        if report.turn.verdict == Verdict::Failed && names_unknown_model(&report.turn.reason) {
            report.notes.push(format!(
                "opencode does not know {}; name one that `opencode models` lists: kugetsu continue {} --model \
                 PROVIDER/MODEL MESSAGE",
                self.origin_of_model(model.as_deref()),
                report.record.address
            ));
        }
        let (point, record) = (HookPoint::AfterTurn, &report.record);
        if report.skipped_hooks.contains(&point) {
            return Ok(report);
        }
        let hook = self.interruptible_hook(point, record, Some(id), &lease, &mut interrupts);
        if let Err(error) = hook.await {
            let note = match error {
                EngineError::Interrupted(_) => "hook_after_turn was interrupted".to_owned(),
                error => error.to_string(),
            };
            tracing::warn!("{note}");
            report.notes.push(note);
        }
        Ok(report)
    }
}

impl Engine {
    /// The model of a turn, and who chose it.
    fn origin_of_model(&self, model: Option<&str>) -> String {
        match (model, &self.settings.origins.model) {
            (None, _) => "the model that the session used last, or its default".to_owned(),
            (Some(model), Origin::File) if self.settings.model.as_deref() == Some(model) => {
                format!("the model {model}, which `model` in config.toml sets")
            }
            (Some(model), Origin::Environment(name)) if self.settings.model.as_deref() == Some(model) => {
                format!("the model {model}, which {name} sets")
            }
            (Some(model), _) => {
                format!("the model {model} of --model, which the session keeps until another one is named")
            }
        }
    }
}

impl Delivery {
    /// A part of the turn that began at this moment and ends now.
    fn phase_since(&self, began: Instant) -> Phase {
        Phase {
            at_ms: millis(began.saturating_duration_since(self.began)),
            took_ms: millis(began.elapsed()),
        }
    }

    /// Writes the subject's record.
    async fn save(&mut self, interrupts: &mut Interrupts) -> Result<(), EngineError> {
        let write = self.record_write();
        self.engine.interruptible(interrupts, write).await
    }

    /// A write of the subject's record, as blocking work. It waits for an earlier write that an interrupt has
    /// abandoned.
    fn record_write(&mut self) -> impl FnOnce(&Engine) -> Result<(), EngineError> + Send + use<> {
        self.subject.touch();
        let (lease, subject) = (Arc::clone(&self.lease), self.subject.clone());
        let writing = Arc::clone(&self.writing);
        move |engine| {
            let _writing = locked(&writing);
            subject.save(engine, &lease)
        }
    }
}

fn locked(writing: &Mutex<()>) -> MutexGuard<'_, ()> {
    writing.lock().unwrap_or_else(PoisonError::into_inner)
}
