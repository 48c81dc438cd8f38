//! Whether and how a session's opencode is confined.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Whether the sessions of a base are sandboxed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SandboxMode {
    /// opencode and its tools may do what the user may do.
    #[default]
    Off,
    /// Sandboxed as well as the machine allows; without a sandbox if it has none.
    Auto,
    /// Sandboxed without gaps, or not run at all.
    Required,
}

impl SandboxMode {
    /// Whether this is the default. For serde.
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }

    /// The word in settings and flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Required => "required",
        }
    }
}

impl std::str::FromStr for SandboxMode {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            "required" => Ok(Self::Required),
            _ => Err("expected one of off, auto, required".to_owned()),
        }
    }
}

impl std::fmt::Display for SandboxMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The sandbox of a session, which it keeps for life: its opencode has a database of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionSandbox {
    /// The name of its folder below `sandboxes/`.
    pub home: Uuid,
    /// Whether only a sandbox without gaps will do.
    pub strict: bool,
}

/// The mechanism that confined a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SandboxKind {
    /// Namespaces, made by bubblewrap.
    Bubblewrap,
    /// The kernel's Landlock alone, which leaves gaps.
    Landlock,
}
