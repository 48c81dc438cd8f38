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
        let host = address.strip_prefix("ssh://").unwrap_or(address);
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        // A leading dash would be an option of ssh, such as ProxyCommand. Before OpenSSH 9.6, a ProxyCommand of the user's
        // own passed what a shell expands on to a shell (CVE-2023-51385).
        let is_plain = |c: char| c.is_alphanumeric() || "._-:@/[]%+,=".contains(c);
        if host.is_empty()
            || [address, host].iter().any(|part| part.starts_with('-'))
            || !address.chars().all(is_plain)
        {
            return Err(HostError(address.to_owned()));
        }
        Ok(address.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_neither_an_option_nor_something_that_a_shell_expands() {
        let is_one = |name: &str| HostSettings::default().destination(name).is_ok();
        for good in [
            "box",
            "my-box_2.example.org",
            "ada@box",
            "ada+work@box",
            "ssh://ada@box:2222",
            "ssh://[::1]:22",
            "fe80::1%eth0",
            "münchen",
        ] {
            assert!(is_one(good), "{good}");
        }
        for bad in [
            "", "-x", "ada@", "ada@-oX", "ssh://-x", "a b", "a\nb", "$(id)", "`id`", "a|b", "a&b", "a;b",
            "a'b", "a\"b", "a>b", "{a,b}", "~root", "a*", "u$(x)@h", "a\u{1b}b",
        ] {
            assert!(!is_one(bad), "{bad}");
        }
    }
}
