//! The settings, in `config.toml` or the environment: what holds for longer than one call. Most are the default of a
//! flag; a flag that belongs to its call alone (`--wait`, `--output`, `--answers`) has none.
//!
//! [`declare`](declare.rs) lists every setting once, with its type, default and meaning. Help, `kugetsu config`, checks
//! and the typed values all come from there.

pub(crate) mod change;
mod declare;
mod forges;
mod hosts;
mod load;
mod values;

pub use change::{check_key, template};
pub use declare::{Origins, SETTINGS, Settings};
pub use forges::ForgeSettings;
pub use hosts::{HostError, HostSettings};
pub(crate) use load::read_text;
pub use load::{Place, SettingsError};
pub use values::{
    DaemonSetting, HostPort, OnAskSetting, RepoWeight, WorktreeSetting, is_allowed, parse_model,
};

use crate::turn::Limits;
use kugetsu_api::permission::Policy;

/// What is known of a setting apart from its value.
#[derive(Debug)]
pub struct SettingKey {
    /// The name in `config.toml`; in the environment `KUGETSU_` and the name in capitals.
    pub name: &'static str,
    /// The value where none is given, as it would be typed.
    pub default: &'static str,
    /// The meaning.
    pub help: &'static str,
}

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// No one set it.
    #[default]
    Default,
    /// `config.toml`.
    File,
    /// This environment variable.
    Environment(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("config.toml"),
            Self::Environment(name) => f.write_str(name),
        }
    }
}

impl Settings {
    /// What a turn may take.
    pub fn limits(&self) -> Limits {
        Limits {
            timeout: self.timeout,
            stall: self.stall_timeout,
            idle_steps: self.max_steps_without_progress.get(),
            cost_usd: self.max_cost,
            tokens: self.max_tokens,
            steps: self.max_steps,
            quota_wait: self.max_quota_wait,
            grace: self.grace,
            restarts: self.max_restarts,
            ..Limits::default()
        }
    }

    /// Whether the terminal's bell rings at the end of a turn.
    pub fn notify_by_bell(&self) -> bool {
        self.notify.as_deref() == Some("bell")
    }

    /// The policy of new bases.
    pub fn policy(&self) -> Policy {
        Policy {
            preset: self.preset,
            rules: self.rules.clone(),
        }
    }
}
