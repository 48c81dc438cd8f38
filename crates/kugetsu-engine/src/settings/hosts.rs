//! The settings of other hosts: the tables `[hosts.NAME]`.

use serde::{Deserialize, Serialize};

/// A table `[hosts.NAME]` of `config.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSettings {
    /// The destination for `ssh`; if absent, the table's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The kugetsu program on the host; if absent, the one on the `PATH` of the shell that `ssh` starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kugetsu: Option<String>,
    /// `KUGETSU_HOME` on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Arguments of `ssh` that precede the destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<String>,
}

/// The address of a host is not a destination for `ssh`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a destination for ssh; it is a name of ~/.ssh/config, host, user@host or ssh://user@host:port"
)]
pub struct HostError(pub String);

impl HostSettings {
    /// The destination for `ssh` of the host with this name.
    pub fn destination(&self, name: &str) -> Result<String, HostError> {
        let address = self.address.as_deref().unwrap_or(name);
        // A leading dash would be an option of ssh, such as ProxyCommand.
        let wrong = address.is_empty()
            || address.starts_with('-')
            || address.chars().any(|c| c.is_whitespace() || c.is_control());
        if wrong {
            return Err(HostError(address.to_owned()));
        }
        Ok(address.to_owned())
    }
}
