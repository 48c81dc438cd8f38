//! What `doctor` finds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    #[serde(rename = "ok")]
    Good,
    /// Put right just now.
    Fixed,
    /// `doctor --fix` can put it right.
    Fixable,
    /// Only a person can.
    Bad,
    /// Not known, since something that it needs is bad.
    Unknown,
}

impl Health {
    /// The word for people and for `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Fixed => "fixed",
            Self::Fixable => "fixable",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// What.
    pub what: String,
    /// How it is.
    pub health: Health,
    /// What was found, and what to do.
    pub detail: String,
    /// True where the trouble is opencode's and not the store's; it decides the exit status and is not printed.
    #[serde(skip)]
    pub opencode: bool,
}
