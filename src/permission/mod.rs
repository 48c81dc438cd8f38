//! Permission rules as opencode keeps them, presets, evaluation, explanation.
//!
//! How opencode decides (measured on 1.3.2 and 1.18.33, which agree): a tool call asks for a class
//! (`bash`, `edit`, ...) and one or more inputs (a command, a path). The agent's rules, which end with the
//! user's configuration, are followed by the rules of the session; the last rule whose class and pattern both
//! match decides, and where none matches a person is asked. A tool whose last rule for the class has the
//! pattern `*` and the action `deny` is not even offered to the model.
//!
//! What the session's rules do not reach, measured: on 1.3.2 a subagent (the `task` tool) runs in a session of
//! its own that inherits nothing of them: it writes files although the session denies `edit`, and when it asks,
//! `opencode run` hangs for ever. On 1.18.33 it inherits the denials and all of `external_directory`.
//! `OPENCODE_PERMISSION` ([`Policy::env_json`]) becomes part of the configuration, and so reaches every agent
//! of that process on both versions. It should therefore be set for every process that runs turns, also where
//! the session row carries the policy already.
//!
//! An `ask` that is rejected ends the turn after that step (`finish` is `tool-calls`); a `deny` is reported to
//! the model, and the turn goes on.

mod env;
mod explain;
mod preset;
mod rule;
mod wildcard;

pub use explain::{CLASSES, Explained, OTHER_TOOLS, Source, explain};
pub use preset::PresetError;
pub use rule::{ActionError, RuleError};

use std::path::Path;

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

/// One rule, exactly as an element of opencode's `session.permission` array. Its short form, as typed and
/// printed, is `permission[:pattern]=action`: `edit=deny`, `bash:git push *=deny`.
///
/// opencode expands a leading `~` or `$HOME` in its configuration and nowhere else, so a rule for a session
/// must have gone through [`Rule::expand_home`].
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
    /// As headless, and nothing is changed: no edits, no commands, no subagents, no tools of MCP servers.
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

impl Policy {
    /// All rules in order: those of the preset, then the policy's own.
    pub fn rules(&self) -> Vec<Rule> {
        let mut rules = self.preset.rules();
        rules.extend_from_slice(&self.rules);
        rules
    }

    /// The rules as the JSON array that `session.permission` holds.
    pub fn to_json(&self) -> String {
        rules_to_json(&self.rules())
    }

    /// The rules as the value of `OPENCODE_PERMISSION`: the object form of `permission` in `opencode.json`,
    /// whose keys are in the order that gives the same decisions as [`Policy::rules`].
    ///
    /// It overrules the user's `permission`, whatever stands there, for every agent of the process; what an agent's own
    /// configuration (`agent.NAME.permission`) says comes after it, so it does not replace the session's rules.
    pub fn env_json(&self) -> String {
        env_json(&self.rules())
    }

    /// The rules for a turn in which somebody, or something, answers: what the preset refuses only because
    /// nobody is there is asked instead, and questions go through. The policy's own rules and what a preset
    /// refuses for its own sake stay as they are.
    pub fn asking_rules(&self) -> Vec<Rule> {
        let mut rules = self.preset.rules();
        for rule in &mut rules {
            match (rule.permission.as_str(), rule.action) {
                ("question", _) => rule.action = Action::Allow,
                ("doom_loop" | "external_directory" | "read", Action::Deny) => rule.action = Action::Ask,
                _ => {}
            }
        }
        rules.extend_from_slice(&self.rules);
        rules
    }
}

/// Rules as the value of `OPENCODE_PERMISSION`; see [`Policy::env_json`].
pub fn env_json(rules: &[Rule]) -> String {
    env::to_object(rules)
}

/// The rules as the JSON array that `session.permission` holds.
pub(crate) fn rules_to_json(rules: &[Rule]) -> String {
    serde_json::to_string(rules).expect("three strings a rule are always JSON")
}

impl Rule {
    /// Replaces a leading `~` or `$HOME` of the pattern, as opencode does in its configuration (and only there).
    pub fn expand_home(&mut self, home: &Path) {
        let rest = match self.pattern.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Some(rest),
            Some(_) => None,
            None => self.pattern.strip_prefix("$HOME"),
        };
        if let Some(rest) = rest {
            self.pattern = format!("{}{rest}", home.display());
        }
    }
}

/// The rule that decides about one input of a class: the last one that matches. `None` means that opencode
/// would ask.
pub fn evaluate<'a>(rules: &'a [Rule], permission: &str, input: &str) -> Option<&'a Rule> {
    rules.iter().rev().find(|rule| {
        wildcard::matches(permission, &rule.permission) && wildcard::matches(input, &rule.pattern)
    })
}

/// opencode's wildcard match: `*` is any run of characters (also `/` and line breaks), `?` is one UTF-16 unit, a
/// trailing ` *` also matches nothing at all (`git *` matches `git`), and `\` counts as `/` on both sides.
pub fn matches(input: &str, pattern: &str) -> bool {
    wildcard::matches(input, pattern)
}
