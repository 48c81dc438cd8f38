//! How a turn of this command uses a daemon: a place among the turns that may run at once, and a warm server.

use std::sync::Arc;

use kugetsu_api::{Address, ErrorCode, SlotRequest, TurnEnd};
use kugetsu_client::{Client, ClientError};
use kugetsu_engine::operations::{Engine, EngineError, TurnReport, TurnRequest};
use kugetsu_engine::settings::DaemonSetting;
use kugetsu_engine::transport::PooledServers;
use kugetsu_engine::turn::Interrupt;
use tokio::sync::watch;

use super::context::Context;
use super::live::LiveView;
use super::output::Output;
use super::start_daemon;
use crate::daemon::{self, Slot};

/// Whether this command uses a daemon, and which.
pub(super) enum Use {
    /// It runs its turn without one.
    None,
    /// It uses this one.
    One(Client),
}

impl Use {
    /// Finds the daemon, or starts one if the settings say so. A tool's turn uses none: it would wait for a place that
    /// the turn above it holds.
    pub(super) fn of(context: &Context, opted_out: bool, output: Output) -> Self {
        let settings = context.engine.settings();
        if opted_out || settings.daemon == DaemonSetting::Never || context.engine.parent_turn().is_some() {
            return Self::None;
        }
        if let Some(client) = daemon::find(&context.home) {
            return Self::One(client);
        }
        if settings.daemon != DaemonSetting::Spawn {
            return Self::None;
        }
        match start_daemon::on_need(context) {
            Ok(client) => Self::One(client),
            Err(error) => {
                output.note(format!("kugetsu: no daemon is used: {}", error.for_people()));
                Self::None
            }
        }
    }

    /// Waits for a place, unless an interrupt comes first. `None` if the turn runs without the daemon.
    pub(super) async fn place(
        self,
        address: &Address,
        interrupts: &mut watch::Receiver<Interrupt>,
        view: &mut Option<LiveView>,
        output: Output,
    ) -> Result<Option<Slot>, EngineError> {
        let Self::One(client) = self else {
            return Ok(None);
        };
        let request = SlotRequest {
            address: address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let waiting = |running, most| {
            if let Some(view) = view {
                view.says(&format!(
                    "waiting for one of the daemon's {most} turns to end ({running} run)"
                ));
            }
        };
        let asked = tokio::select! {
            biased;
            Ok(interrupt) = interrupts.wait_for(|interrupt| *interrupt != Interrupt::None) => {
                return Err(EngineError::Interrupted(*interrupt));
            }
            asked = Slot::ask(client, &request, waiting) => asked,
        };
        match asked {
            Ok(slot) => Ok(Some(slot)),
            // It finishes what runs, and will be gone.
            Err(ClientError::Problem(problem)) if problem.code == ErrorCode::Draining => Ok(None),
            Err(ClientError::Problem(problem)) if problem.code == ErrorCode::BudgetUsedUp => {
                Err(EngineError::Refused {
                    code: problem.code,
                    problem: problem.detail,
                    hint: problem.hints.into_iter().next().unwrap_or_default(),
                })
            }
            Err(ClientError::Problem(problem)) => {
                let hint = problem
                    .hints
                    .first()
                    .map(|hint| format!("; {hint}"))
                    .unwrap_or_default();
                output.note(format!("kugetsu: no daemon is used: {}{hint}", problem.detail));
                Ok(None)
            }
            Err(error) => {
                output.note(format!("kugetsu: no daemon is used: {error}"));
                Ok(None)
            }
        }
    }
}

/// Narrows what a turn may cost to what the daemon's budgets have left.
pub(super) fn limit(request: &mut TurnRequest, slot: Option<&Slot>) {
    if let Some(left) = slot.and_then(|slot| slot.max_cost_usd) {
        let own = &mut request.options.limits.cost_usd;
        *own = Some(own.map_or(left, |own| own.min(left)));
    }
}

/// The engine for a turn that has this place.
pub(super) fn engine(engine: &Engine, slot: Option<&Slot>) -> Engine {
    match slot {
        Some(slot) => engine
            .clone()
            .with_server_connector(Arc::new(PooledServers::of(slot.lender())))
            .with_shared_budget(slot.budget()),
        None => engine.clone(),
    }
}

/// Gives the place back, and tells the daemon how the turn has ended.
pub(super) async fn end(slot: Option<Slot>, result: &Result<TurnReport, EngineError>) {
    if let (Some(slot), Ok(report)) = (slot, result) {
        slot.end(&TurnEnd::of(&report.turn, report.took)).await;
    }
}
