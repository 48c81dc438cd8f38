//! The limits of a turn.

use std::time::Duration;

/// The limits of a turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// For the whole turn.
    pub timeout: Duration,
    /// Without any progress; a running tool counts as progress.
    pub stall: Duration,
    /// Steps in a row that end without a finish reason.
    pub idle_steps: u32,
    /// In US dollars.
    pub cost_usd: Option<f64>,
    /// Tokens of all kinds.
    pub tokens: Option<u64>,
    /// Steps, which are requests to the model, with those of subagents.
    pub steps: Option<u64>,
    /// For waiting for the model's provider.
    pub quota_wait: Duration,
    /// Between requesting opencode to end and killing it.
    pub grace: Duration,
    /// How often to restart opencode after a crash.
    pub restarts: u32,
    /// How long opencode may stay after its answer is complete.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3600),
            stall: Duration::from_secs(600),
            idle_steps: 5,
            cost_usd: None,
            tokens: None,
            steps: None,
            quota_wait: Duration::from_secs(600),
            grace: Duration::from_secs(10),
            restarts: 3,
            linger: Duration::from_secs(15),
        }
    }
}
