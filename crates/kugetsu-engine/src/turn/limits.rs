//! What a turn may take.

use std::time::Duration;

/// What a turn may take before it is ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// The whole turn.
    pub timeout: Duration,
    /// Without progress of any kind; a running tool is progress.
    pub stall: Duration,
    /// Steps in a row that end without a finish reason.
    pub idle_steps: u32,
    /// US dollars.
    pub cost_usd: Option<f64>,
    /// Tokens of all kinds.
    pub tokens: Option<u64>,
    /// Waiting for the model's provider.
    pub quota_wait: Duration,
    /// Between asking opencode to end and killing it.
    pub grace: Duration,
    /// How often opencode is started again after it crashed.
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
            quota_wait: Duration::from_secs(600),
            grace: Duration::from_secs(10),
            restarts: 3,
            linger: Duration::from_secs(15),
        }
    }
}
