//! The current activity of a turn, shared between its supervisor and the writer of its status file.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Counts;
use crate::transport::{ToolStatus, TransportEvent};
use kugetsu_api::RunState;

/// The supervisor's notes for the writer of the status file, in memory only.
#[derive(Clone, Debug, Default)]
pub(super) struct TurnProgress {
    notes: Arc<Mutex<Notes>>,
    /// Wakes the writer when something was spent, so that turns which share a budget know it at once.
    spent: Arc<Notify>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    pub(super) state: RunState,
    pub(super) step: u64,
    pub(super) tools: Vec<(String, String)>,
    pub(super) counts: Counts,
    /// What the turns that this one began have cost, in US dollars.
    pub(super) cost_below: f64,
    pub(super) changed: bool,
    pub(super) urgent: bool,
}

impl TurnProgress {
    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something was spent since the last call.
    pub(super) async fn spent(&self) {
        self.spent.notified().await;
    }

    /// Notes an event of opencode.
    pub(super) fn note_event(&self, event: &TransportEvent, counts: &Counts) {
        let mut notes = self.notes();
        match event {
            TransportEvent::StepStarted => notes.step += 1,
            TransportEvent::Tool(call) => {
                notes.tools.retain(|(id, _)| *id != call.call);
                if matches!(call.status, ToolStatus::Pending | ToolStatus::Running) {
                    notes.tools.push((call.call.clone(), call.tool.clone()));
                }
            }
            TransportEvent::StepFinished { .. } => notes.tools.clear(),
            TransportEvent::SubagentStep { .. } => {}
            _ => return,
        }
        notes.counts = *counts;
        notes.changed = true;
        drop(notes);
        if matches!(
            event,
            TransportEvent::StepFinished { .. } | TransportEvent::SubagentStep { .. }
        ) {
            self.spent.notify_one();
        }
    }

    /// Records that the turn was paused or resumed; written with the next status.
    pub(super) fn state(&self, state: RunState) {
        let mut notes = self.notes();
        notes.state = state;
        notes.tools.clear();
        notes.urgent = true;
    }
}
