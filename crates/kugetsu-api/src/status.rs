//! The status file of a turn: what the turn is doing, for every program that can read the store.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{ProcessIdentity, TokenCount, Verdict};

/// The schema of the status file.
pub const STATUS_SCHEMA: u32 = 1;

/// What a turn is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// It runs.
    #[default]
    Running,
    /// It was paused and waits to be resumed; opencode does not run.
    Paused,
    /// It is over: completed, or ended because somebody wanted it.
    Stopped,
    /// It is over, with any other verdict.
    Error,
}

impl RunState {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }

    /// Whether the turn is over.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Stopped | Self::Error)
    }
}

/// What the status file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnStatus {
    /// The schema of the file.
    pub schema: u32,
    /// The issue, or the base's repository.
    #[serde(rename = "ref")]
    pub subject: String,
    /// The turn.
    pub turn: Uuid,
    /// The supervisor: `host`, `pid`, `start_ticks`, `boot_id`.
    #[serde(flatten)]
    pub supervisor: ProcessIdentity,
    /// What the turn is doing.
    pub state: RunState,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The step that the model is at, from 1; 0 before the first.
    pub current_step: u64,
    /// The tool that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Steps that are done.
    pub completed_steps: u64,
    /// Tool calls that ended.
    pub tool_calls: u64,
    /// US dollars so far.
    pub cost_usd: f64,
    /// Tokens so far.
    pub tokens: TokenCount,
    /// When the turn started.
    pub started: Timestamp,
    /// When this was written.
    pub heartbeat: Timestamp,
    /// Where it works.
    pub directory: PathBuf,
    /// The git worktree that it works in, if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<PathBuf>,
}

impl TurnStatus {
    /// How old the last sign of life is.
    pub fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.heartbeat)).unwrap_or_default()
    }
}
