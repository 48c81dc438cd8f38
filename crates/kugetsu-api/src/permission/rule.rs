//! The short form of a rule, `permission[:pattern]=action`.

use std::fmt;
use std::str::FromStr;

use super::{Action, Rule};

/// The longest accepted pattern, in bytes.
const MAX_PATTERN: usize = 4096;
/// The longest accepted class, in bytes.
const MAX_CLASS: usize = 200;

/// Why a text is not a valid rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// There is no `=`.
    #[error(
        "`{0}` is not a valid permission rule: write `permission[:pattern]=action`, for example `bash:git push *=deny`"
    )]
    NoAction(String),
    /// The text after the last `=` is not a valid action.
    #[error("`{action}` in the rule `{rule}` is not an action: it is `allow`, `deny` or `ask`")]
    Action {
        /// The whole text.
        rule: String,
        /// The text in place of the action.
        action: String,
    },
    /// The text before the `:` is not a valid permission class.
    #[error(
        "`{class}` in the rule `{rule}` is not a valid permission class: it is a tool's or class's name such as `bash`, `edit`, \
         `external_directory`, and `*` stands for any characters"
    )]
    Class {
        /// The whole text.
        rule: String,
        /// The text in place of the class.
        class: String,
    },
    /// The pattern is empty, too long or holds a control character.
    #[error(
        "the rule `{rule}` has {what}: leave out `:` for everything, or write one like `bash:git push *=deny`"
    )]
    Pattern {
        /// The whole text, shortened.
        rule: String,
        /// The problem.
        what: &'static str,
    },
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let shown = || {
            text.chars()
                .take(120)
                .collect::<String>()
                .escape_debug()
                .to_string()
        };
        let Some((left, action)) = text.rsplit_once('=') else {
            return Err(RuleError::NoAction(shown()));
        };
        let action = action
            .trim()
            .parse()
            .map_err(|action: ActionError| RuleError::Action {
                rule: shown(),
                action: action.0.escape_debug().to_string(),
            })?;
        let (class, pattern) = left.split_once(':').unwrap_or((left, "*"));
        let class = class.trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '*');
        let begins = class.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*');
        if !begins || class.len() > MAX_CLASS || !class.chars().all(plain) {
            return Err(RuleError::Class {
                rule: shown(),
                class: class
                    .chars()
                    .take(120)
                    .collect::<String>()
                    .escape_debug()
                    .to_string(),
            });
        }
        let wrong = if pattern.is_empty() {
            Some("an empty pattern")
        } else if pattern.len() > MAX_PATTERN {
            Some("a pattern of more than 4096 bytes")
        } else if pattern.chars().any(char::is_control) {
            Some("a control character in its pattern")
        } else {
            None
        };
        if let Some(what) = wrong {
            return Err(RuleError::Pattern { rule: shown(), what });
        }
        Ok(Self {
            permission: class.to_owned(),
            pattern: pattern.to_owned(),
            action,
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pattern == "*" {
            write!(f, "{}={}", self.permission, self.action)
        } else {
            write!(f, "{}:{}={}", self.permission, self.pattern, self.action)
        }
    }
}

impl Action {
    /// The name that opencode uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Ask => "ask",
        }
    }
}

/// A word that is not a valid action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an action: it is `allow`, `deny` or `ask`")]
pub struct ActionError(pub String);

impl FromStr for Action {
    type Err = ActionError;

    fn from_str(word: &str) -> Result<Self, ActionError> {
        [Self::Allow, Self::Deny, Self::Ask]
            .into_iter()
            .find(|action| action.as_str() == word)
            .ok_or_else(|| ActionError(word.chars().take(40).collect()))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
