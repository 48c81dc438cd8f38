//! How a turn ended, and the exit status that says so to a shell.
//!
//! A verdict is a claim about evidence (events, stored messages, how the process went away), never about
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
    /// The model's provider asks to come back later than the turn may wait.
    Quota,
    /// Step after step without progress.
    Looping,
    /// It ended with no work and no error.
    Void,
    /// Ended by a signal or by `kugetsu stop`.
    Aborted,
    /// The supervisor died before it could give a verdict.
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

    /// The word used in records, in `--json` and on the terminal.
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

    /// The same, unless the output has a gap: then a completed turn does not count as a success.
    pub fn exit_status_told(self, whole: bool) -> ExitStatus {
        match self {
            Self::Completed if !whole => ExitStatus::CannotWrite,
            verdict => verdict.exit_status(),
        }
    }

    /// The exit status of a command whose turn ended so. An abort by a signal is reported by the caller as
    /// 130 or 143 instead, since only it knows which signal came.
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

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|verdict| verdict.as_str() == word)
            .ok_or_else(|| format!("`{word}` is not a verdict"))
    }
}
