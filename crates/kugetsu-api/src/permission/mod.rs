//! Permission rules as opencode keeps them, and the policies that are made of them.

mod explain;
mod preset;
mod rule;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use explain::{Explained, Source};
pub use preset::PresetError;
pub use rule::{ActionError, RuleError};

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Rule {
    /// The permission class, or a wildcard: `bash`, `edit`, `external_directory`, `*`.
    pub permission: String,
    /// What it applies to: a command, a path, with `*` and `?` as wildcards.
    pub pattern: String,
    /// What happens.
    pub action: Action,
}

/// A named set of rules that a policy begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
