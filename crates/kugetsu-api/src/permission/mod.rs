//! Permission rules as opencode stores them, and policies built from them.

mod explain;
mod preset;
mod rule;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use explain::{Explained, Source};
pub use preset::{PresetError, PresetLimits};
pub use rule::{ActionError, RuleError};

/// The action of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The tool call is executed.
    Allow,
    /// The tool call fails, and the model receives the denial.
    Deny,
    /// opencode asks a person; in a headless turn, nobody answers.
    Ask,
}

/// One rule, exactly as an element of opencode's `session.permission` array. Its short form, as typed and printed, is
/// `permission[:pattern]=action`: `edit=deny`, `bash:git push *=deny`.
///
/// opencode expands a leading `~` or `$HOME` only in its configuration, so call [`Rule::expand_home`] before writing a
/// rule into a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Rule {
    /// The permission class, or a wildcard: `bash`, `edit`, `external_directory`, `*`.
    pub permission: String,
    /// The commands or paths that the rule covers, with `*` and `?` as wildcards.
    pub pattern: String,
    /// The action.
    pub action: Action,
}

/// A named set of rules that a policy starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Denies everything that would wait for a person.
    #[default]
    Headless,
    /// Allows reading files of the session's folder, and denies everything else: no edits, commands, subagents, network
    /// tools, skills, and no tools of plugins or MCP servers.
    ReadOnly,
    /// For text of people that nobody knows: allows what a coding turn needs in the session's folder and denies
    /// everything else, sets limits, never asks, never loads what the repository brings for opencode, and requires a
    /// sandbox.
    Stranger,
    /// Allows everything that needs no person.
    Full,
}

/// The permission rules of a session: a preset, followed by the policy's own rules. The last matching rule wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Policy {
    /// The preset.
    pub preset: Preset,
    /// The additional rules, in order.
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

    /// The rules for a turn in which a person or program answers requests. Whatever the preset denies only because
    /// nobody is there becomes `ask`, and questions are allowed. The policy's own rules, and what the preset denies for
    /// other reasons, stay as they are.
    pub fn asking_rules(&self) -> Vec<Rule> {
        if !self.preset.may_ask() {
            return self.rules();
        }
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

impl Rule {
    /// Replaces a leading `~` or `$HOME` of the pattern, as opencode does in its configuration only.
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
