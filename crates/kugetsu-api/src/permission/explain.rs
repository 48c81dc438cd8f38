//! What an explanation of a session's permissions consists of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, Preset};

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The preset of the session's policy.
    Session(Preset),
    /// A rule that was added to the session's policy.
    SessionRule,
    /// The agent: opencode's configuration, or a path that its agent is given.
    Agent,
    /// What opencode does without any configuration.
    Default,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Session(preset) => write!(f, "preset {preset}"),
            Self::SessionRule => f.write_str("session rule"),
            Self::Agent => f.write_str("agent"),
            Self::Default => f.write_str("opencode"),
        }
    }
}

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Preset::ALL
            .into_iter()
            .map(Self::Session)
            .chain([Self::SessionRule, Self::Agent, Self::Default])
            .find(|source| source.to_string() == text)
            .ok_or_else(|| format!("`{text}` is not a source of a permission"))
    }
}

/// One line of an explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explained {
    /// The class; `*` for tools that no class names.
    pub permission: String,
    /// The inputs that it is about; `*` is everything that no other line of the class speaks of.
    pub pattern: String,
    /// What will happen.
    pub action: Action,
    /// Where this comes from: `preset NAME`, `session rule`, `agent` or `opencode`.
    pub source: Source,
    /// True when a person would be asked.
    pub could_ask: bool,
}
