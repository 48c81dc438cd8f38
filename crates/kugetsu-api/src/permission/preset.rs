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

/// Everything is denied, then what only reads is allowed. A tool that these rules do not name (of a plugin, of an MCP
/// server, of a later opencode), the network tools, `skill` and `task` stay denied. `list` and `todoread` exist on 1.3.2
/// only. The headless rules follow.
///
/// A lone `*` is also what hides a tool from the model: opencode does not offer a tool whose last rule denies `*`.
const READ_ONLY: &[(&str, &str, Action)] = &[
    ("*", "*", Action::Deny),
    ("read", "*", Action::Allow),
    ("glob", "*", Action::Allow),
    ("grep", "*", Action::Allow),
    ("list", "*", Action::Allow),
    ("todowrite", "*", Action::Allow),
    ("todoread", "*", Action::Allow),
];

/// What a coding turn needs in its own folder, and nothing else: no other folder (not even `/tmp`), no network tool, no
/// tool that these rules do not name. `edit` is the class of every opencode tool that writes files (`edit`, `write`,
/// `apply_patch`, `multiedit`). What `bash` does can be limited by a sandbox only ([`Preset::requires_sandbox`]).
const STRANGER: &[(&str, &str, Action)] = &[
    ("*", "*", Action::Deny),
    ("read", "*", Action::Allow),
    ("glob", "*", Action::Allow),
    ("grep", "*", Action::Allow),
    ("list", "*", Action::Allow),
    ("edit", "*", Action::Allow),
    ("bash", "*", Action::Allow),
    ("todowrite", "*", Action::Allow),
    ("todoread", "*", Action::Allow),
    ("external_directory", "*/opencode/tool-output/*", Action::Allow),
    ("read", "*.env", Action::Deny),
    ("read", "*.env.*", Action::Deny),
    ("read", "*.env.example", Action::Allow),
];

const FULL: &[(&str, &str, Action)] = &[
    ("*", "*", Action::Allow),
    ("question", "*", Action::Deny),
    ("plan_enter", "*", Action::Deny),
    ("plan_exit", "*", Action::Deny),
];

impl Preset {
    /// Every preset, the default one first.
    pub const ALL: [Self; 4] = [Self::Headless, Self::ReadOnly, Self::Stranger, Self::Full];

    /// The name on the command line and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Headless => "headless",
            Self::ReadOnly => "read-only",
            Self::Stranger => "stranger",
            Self::Full => "full",
        }
    }

    /// The preset's rules, in order.
    pub fn rules(self) -> Vec<Rule> {
        let parts: &[&[(&str, &str, Action)]] = match self {
            Self::Headless => &[HEADLESS],
            Self::ReadOnly => &[READ_ONLY, HEADLESS],
            Self::Stranger => &[STRANGER],
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

/// The limits of a preset's turns, unless a setting or an option sets others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PresetLimits {
    /// The cost of a turn, in US dollars.
    pub cost_usd: f64,
    /// The tokens of a turn.
    pub tokens: u64,
    /// The steps of a turn: requests to the model.
    pub steps: u64,
}

impl Preset {
    /// Whether a turn may run only in a sandbox, because nobody knows who wrote its prompt.
    pub fn requires_sandbox(self) -> bool {
        self == Self::Stranger
    }

    /// Whether a repository may be trusted: what it brings for opencode is never loaded with the preset for strangers,
    /// who may have written it.
    pub fn may_trust_repo(self) -> bool {
        self != Self::Stranger
    }

    /// Whether a request of opencode may be put to a person or program. With the preset for strangers each one is
    /// refused, because the words of a request may be a stranger's.
    pub fn may_ask(self) -> bool {
        self != Self::Stranger
    }

    /// The limits that the preset sets.
    pub fn limits(self) -> Option<PresetLimits> {
        (self == Self::Stranger).then_some(PresetLimits {
            cost_usd: 2.0,
            tokens: 2_000_000,
            steps: 100,
        })
    }
}

/// A name that is not a valid preset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a permission preset: it is `headless`, `read-only`, `stranger` or `full`")]
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
