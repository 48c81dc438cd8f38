//! The explanation of a session's permissions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, Preset};

/// The origin of a permission decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The preset of the session's policy.
    Session(Preset),
    /// A rule that was added to the session's policy.
    SessionRule,
    /// The agent: opencode's configuration, or a path that opencode allows its agent.
    Agent,
    /// opencode's default without any configuration.
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
    /// The permission class; `*` for tools that no class names.
    pub permission: String,
    /// The inputs that the line covers; `*` covers everything that no other line of the class covers.
    pub pattern: String,
    /// The decision.
    pub action: Action,
    /// The origin of the decision: `preset NAME`, `session rule`, `agent` or `opencode`.
    pub source: Source,
    /// True if opencode would ask a person.
    pub could_ask: bool,
}
