//! What steers a live turn: the signal file, and who holds what.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The schema of the signal file.
pub const SIGNAL_SCHEMA: u32 = 1;

/// What may be wanted of a live turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// Stop before the next step, keep the place.
    Pause,
    /// Go on after a pause.
    Resume,
    /// End the turn.
    Stop,
}

impl Signal {
    /// The word of the command line and of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop => "stop",
        }
    }
}

/// What the signal file holds. Written by hand, `signal` alone is enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SignalFile {
    /// The schema of the file.
    #[serde(default)]
    pub schema: u32,
    /// The turn that is meant; without it, whichever runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Uuid>,
    /// What is wanted.
    pub signal: Signal,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Timestamp>,
    /// By whom; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Holder>,
}

/// Who holds a lock or a lease; for people, never to decide whether it is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Holder {
    /// The process id.
    pub pid: u32,
    /// The host's name.
    pub host: String,
    /// Since when.
    pub since: Timestamp,
    /// What for, in a few words, such as `continue`.
    pub what: String,
    /// The turn that it is held for, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Uuid>,
}

impl Holder {
    /// How to name whoever holds something in a sentence.
    pub fn show(holder: Option<&Self>) -> String {
        holder.map_or_else(|| "a process that left no name".to_owned(), ToString::to_string)
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
