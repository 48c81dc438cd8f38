//! Permission rules as opencode keeps them, presets, evaluation, explanation.

use serde::{Deserialize, Serialize};

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The tool call goes through.
    Allow,
    /// The tool call fails and the model is told so.
    Deny,
    /// A person is asked; nobody answers in a headless turn.
    Ask,
}

/// One rule, exactly as an element of opencode's `session.permission` array.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// The permission class, or a wildcard: `bash`, `edit`, `external_directory`, `*`.
    pub permission: String,
    /// What it applies to: a command, a path, with `*` and `?` as wildcards.
    pub pattern: String,
    /// What happens.
    pub action: Action,
}

/// A named set of rules that a policy begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Nothing waits for a person.
    #[default]
    Headless,
    /// As headless, and nothing is changed.
    ReadOnly,
    /// Everything is allowed that needs no person.
    Full,
}

/// The permission rules that a session must carry: a preset, then rules of its own. The last match wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Where it begins.
    pub preset: Preset,
    /// What was added, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}
