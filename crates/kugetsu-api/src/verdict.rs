//! How a turn ended, and the exit status that represents it in a shell.
//!
//! A verdict is a claim about evidence: events, stored messages and how the process ended. It never depends on
//! opencode's exit status alone, which is 0 after an API error on 1.3.2.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exit::ExitStatus;

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The model finished its answer and opencode stored it.
    Completed,
    /// An error event, a crash, or a limit of cost or output.
    Failed,
    /// The limit for the whole turn was reached.
    Timeout,
    /// No progress of any kind for the stall limit.
    Stalled,
    /// A person must answer something before the turn can go on.
    Blocked,
    /// The model's provider asked for a longer wait than the turn allows.
    Quota,
    /// Step after step without progress.
    Looping,
    /// The turn ended with no work and no error.
    Void,
    /// A signal or `kugetsu stop` ended the turn.
    Aborted,
    /// The supervisor died before it could record a verdict.
    Lost,
}

impl Verdict {
    /// Every verdict, in the order in which the documents list them.
    pub const ALL: [Self; 10] = [
        Self::Completed,
        Self::Failed,
        Self::Timeout,
        Self::Stalled,
        Self::Blocked,
        Self::Quota,
        Self::Looping,
        Self::Void,
        Self::Aborted,
        Self::Lost,
    ];

    /// The name in records, in `--json` and on the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::Blocked => "blocked",
            Self::Quota => "quota",
            Self::Looping => "looping",
            Self::Void => "void",
            Self::Aborted => "aborted",
            Self::Lost => "lost",
        }
    }

    /// The exit status of the verdict, except that a completed turn whose output has a gap does not count as a success.
    pub fn exit_status_of_output(self, whole: bool) -> ExitStatus {
        match self {
            Self::Completed if !whole => ExitStatus::CannotWrite,
            verdict => verdict.exit_status(),
        }
    }

    /// The exit status of a command whose turn ended with this verdict. After an abort by a signal, the caller uses 130
    /// or 143 instead, because only the caller knows the signal.
    pub fn exit_status(self) -> ExitStatus {
        match self {
            Self::Completed => ExitStatus::Ok,
            Self::Blocked => ExitStatus::Blocked,
            Self::Quota => ExitStatus::TryAgain,
            Self::Aborted => ExitStatus::Interrupted,
            Self::Failed | Self::Timeout | Self::Stalled | Self::Looping | Self::Void | Self::Lost => {
                ExitStatus::Failed
            }
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Verdict {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|verdict| verdict.as_str() == name)
            .ok_or_else(|| format!("`{name}` is not a verdict"))
    }
}
