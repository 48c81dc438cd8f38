//! Permission rules as opencode stores them: presets, evaluation and explanation.
//!
//! opencode's decision (measured on 1.3.2 and 1.18.33, which agree): a tool call asks for a class (`bash`, `edit`, ...)
//! and one or more inputs (a command, a path). The agent's rules, which end with the user's configuration, are followed
//! by the rules of the session. The last rule whose class and pattern both match decides; if none matches, opencode
//! asks a person. opencode does not even offer the model a tool whose last rule for the class has the pattern `*` and
//! the action `deny`.
//!
//! The session's rules do not reach everything (measured). On 1.3.2, a subagent (the `task` tool) runs in a session of
//! its own that inherits none of them: it writes files although the session denies `edit`, and when it asks, `opencode
//! run` hangs for ever. On 1.18.33, a subagent inherits the denials and all of `external_directory`.
//! `OPENCODE_PERMISSION` ([`env_json`]) becomes part of the configuration and so reaches every agent of the process on
//! both versions. Set it for every process that runs turns, even if the session row already carries the policy.
//!
//! A rejected `ask` ends the turn after that step (`finish` is `tool-calls`). A `deny` is reported to the model, and
//! the turn goes on.

mod env;
mod explain;
#[cfg(test)]
mod tests;
mod wildcard;

pub(crate) use wildcard::matches;

pub use explain::{CLASSES, Explained, OTHER_TOOLS, Source, explain};
pub use kugetsu_api::permission::{Action, ActionError, Policy, Preset, PresetError, Rule, RuleError};

/// The rules as the value of `OPENCODE_PERMISSION`: the object form of `permission` in `opencode.json`, with its keys
/// in the order that gives the same decisions as the list.
///
/// It overrules the user's `permission` for every agent of the process. An agent's own configuration
/// (`agent.NAME.permission`) comes after it, so this value does not replace the session's rules.
pub fn env_json(rules: &[Rule]) -> String {
    env::to_object(rules)
}

/// The rules as the JSON array in `session.permission`.
pub fn rules_to_json(rules: &[Rule]) -> String {
    serde_json::to_string(rules).expect("three strings a rule are always JSON")
}

/// The rule that decides about one input of a class: the last matching one. `None` means that opencode would ask.
pub fn evaluate<'a>(rules: &'a [Rule], permission: &str, input: &str) -> Option<&'a Rule> {
    rules
        .iter()
        .rev()
        .find(|rule| matches(permission, &rule.permission) && matches(input, &rule.pattern))
}
