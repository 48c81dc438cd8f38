//! Control of a live turn: the signal file, and the holder of a lock.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The schema of the signal file.
pub const SIGNAL_SCHEMA: u32 = 1;

/// A signal to a live turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// Stop before the next step and keep the place.
    Pause,
    /// Continue after a pause.
    Resume,
    /// End the turn.
    Stop,
}

impl Signal {
    /// The name on the command line and in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop => "stop",
        }
    }
}

/// The content of the signal file. In a file written by hand, `signal` alone is enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SignalFile {
    /// The schema of the file.
    #[serde(default)]
    pub schema: u32,
    /// The turn that the signal is for; if absent, any live turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Uuid>,
    /// The signal.
    pub signal: Signal,
    /// When it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Timestamp>,
    /// The sender, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Holder>,
}

/// The holder of a lock or a lease. For people only; it never decides whether the lock is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Holder {
    /// The process id.
    pub pid: u32,
    /// The host's name.
    pub host: String,
    /// When the holder took the lock.
    pub since: Timestamp,
    /// The purpose in a few words, such as `continue`.
    pub what: String,
    /// The turn that it is held for, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Uuid>,
}

impl Holder {
    /// A phrase that names the holder.
    pub fn show(holder: Option<&Self>) -> String {
        holder.map_or_else(|| "an unknown process".to_owned(), ToString::to_string)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self.since.strftime("%Y-%m-%d %H:%M:%S UTC");
        write!(f, "process {} on {} since {since}", self.pid, self.host)?;
        if !self.what.is_empty() {
            write!(f, " ({})", self.what)?;
        }
        Ok(())
    }
}
