//! The rules of each preset, and the reasons for them.

use std::fmt;
use std::str::FromStr;

use super::{Action, Preset, Rule};

/// opencode's default agent may wait for a person (measured on 1.3.2 and 1.18.33): its rules ask for `doom_loop`, for
/// directories outside the project and for reading `.env` files, and they allow the `question` and `plan_enter` tools,
/// which are questions themselves.
///
/// Denying other directories would also deny the folder in which opencode keeps tool output that was too long, which
/// opencode's default rules allow, so a rule allows that folder again.
const HEADLESS: &[(&str, &str, Action)] = &[
    ("question", "*", Action::Deny),
    ("plan_enter", "*", Action::Deny),
    ("plan_exit", "*", Action::Deny),
    ("doom_loop", "*", Action::Deny),
    ("external_directory", "*", Action::Deny),
    ("external_directory", "/tmp/*", Action::Allow),
    ("external_directory", "*/opencode/tool-output/*", Action::Allow),
    ("read", "*.env", Action::Deny),
    ("read", "*.env.*", Action::Deny),
    ("read", "*.env.example", Action::Allow),
];

/// Tools of MCP servers are named `<server>_<tool>`, and nothing shows whether a tool only reads. This rule precedes
/// the headless rules, which then decide about opencode's own classes with an underscore.
const READ_ONLY_BEFORE: &[(&str, &str, Action)] = &[("*_*", "*", Action::Deny)];

/// `edit` is the class of every opencode tool that writes files (`edit`, `write`, `apply_patch`, `multiedit`). `task`
/// is denied because on 1.3.2 a subagent's session inherits none of these rules.
const READ_ONLY_AFTER: &[(&str, &str, Action)] = &[
    ("edit", "*", Action::Deny),
    ("bash", "*", Action::Deny),
    ("task", "*", Action::Deny),
];

const FULL: &[(&str, &str, Action)] = &[
    ("*", "*", Action::Allow),
    ("question", "*", Action::Deny),
    ("plan_enter", "*", Action::Deny),
    ("plan_exit", "*", Action::Deny),
];

impl Preset {
    /// Every preset, the default one first.
    pub const ALL: [Self; 3] = [Self::Headless, Self::ReadOnly, Self::Full];

    /// The name on the command line and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Headless => "headless",
            Self::ReadOnly => "read-only",
            Self::Full => "full",
        }
    }

    /// The preset's rules, in order.
    pub fn rules(self) -> Vec<Rule> {
        let parts: &[&[(&str, &str, Action)]] = match self {
            Self::Headless => &[HEADLESS],
            Self::ReadOnly => &[READ_ONLY_BEFORE, HEADLESS, READ_ONLY_AFTER],
            Self::Full => &[FULL],
        };
        parts
            .iter()
            .copied()
            .flatten()
            .map(|&(permission, pattern, action)| Rule {
                permission: permission.to_owned(),
                pattern: pattern.to_owned(),
                action,
            })
            .collect()
    }
}

/// A name that is not a valid preset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a permission preset: it is `headless`, `read-only` or `full`")]
pub struct PresetError(pub String);

impl FromStr for Preset {
    type Err = PresetError;

    fn from_str(name: &str) -> Result<Self, PresetError> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.as_str() == name)
            .ok_or_else(|| PresetError(name.to_owned()))
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
