//! The findings of `doctor`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No problem.
    #[serde(rename = "ok")]
    Good,
    /// The problem was repaired just now.
    Fixed,
    /// `doctor --fix` can put it right.
    Fixable,
    /// No problem, but a person should know it.
    Warning,
    /// Only a person can repair it.
    Bad,
    /// Unknown, because something that the check needs is bad.
    Unknown,
}

impl Health {
    /// The name for people and for `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Fixed => "fixed",
            Self::Fixable => "fixable",
            Self::Warning => "warning",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// The subject of the check.
    pub what: String,
    /// The result.
    pub health: Health,
    /// The finding, and what to do.
    pub detail: String,
    /// True if the problem is in opencode and not in the store. It decides the exit status and is not printed.
    #[serde(skip)]
    pub opencode: bool,
}
