//! The status file of a turn: its current activity, for every program that can read the store.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{ProcessIdentity, TokenCount, Verdict};

/// The schema of the status file.
pub const STATUS_SCHEMA: u32 = 1;

/// The state of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// The turn runs.
    #[default]
    Running,
    /// The turn is paused; opencode does not run.
    Paused,
    /// The turn is over: completed, or ended on request.
    Stopped,
    /// The turn is over, with any other verdict.
    Error,
}

impl RunState {
    /// The name in the file.
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

/// The content of the status file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TurnStatus {
    /// The schema of the file.
    pub schema: u32,
    /// The session's address, or the base's repository.
    #[serde(rename = "ref")]
    pub subject: String,
    /// The turn's id.
    pub turn: Uuid,
    /// The supervisor: `host`, `pid`, `start_ticks`, `boot_id`.
    #[serde(flatten)]
    pub supervisor: ProcessIdentity,
    /// The turn's state.
    pub state: RunState,
    /// How the turn ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The number of the current step, from 1; 0 before the first.
    pub current_step: u64,
    /// The tool that is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The number of finished steps.
    pub completed_steps: u64,
    /// The number of finished tool calls.
    pub tool_calls: u64,
    /// US dollars so far.
    pub cost_usd: f64,
    /// Tokens so far.
    pub tokens: TokenCount,
    /// When the turn started.
    pub started: Timestamp,
    /// When this file was written.
    pub heartbeat: Timestamp,
    /// The turn's working directory.
    pub directory: PathBuf,
    /// The session's git worktree, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<PathBuf>,
}

impl TurnStatus {
    /// The age of the last heartbeat.
    pub fn age(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.heartbeat)).unwrap_or_default()
    }
}
