//! The other host: its address, its kugetsu program, and the `ssh` command that runs it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

use kugetsu_engine::settings::{HostError, HostSettings};

use super::{TETHER_COMMAND, quote, quote_path};

/// A host on which commands can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The name that the user gave.
    pub name: String,
    address: String,
    settings: HostSettings,
}

impl Host {
    /// The host with this name and its settings.
    pub fn new(name: &str, settings: Option<&HostSettings>) -> Result<Self, HostError> {
        let settings = settings.cloned().unwrap_or_default();
        let address = settings.destination(name)?;
        Ok(Self {
            name: name.to_owned(),
            address,
            settings,
        })
    }

    /// The command for the other host's shell: kugetsu with these arguments.
    pub fn remote_command(&self, arguments: &[OsString]) -> OsString {
        let mut command = OsString::from("exec ");
        if let Some(home) = &self.settings.home {
            command.push("env KUGETSU_HOME=");
            command.push(quote_path(home));
            command.push(" ");
        }
        command.push(quote_path(self.settings.kugetsu.as_deref().unwrap_or("kugetsu")));
        for argument in arguments {
            command.push(" ");
            command.push(quote(argument));
        }
        command
    }

    /// The command that starts a tether on the host. `ask` decides whether ssh may prompt for passwords on the
    /// terminal.
    ///
    /// ssh starts with signals ignored and keeps them ignored. A terminal sends Ctrl-C to ssh too, but Ctrl-C must
    /// reach the remote command, and ssh has to return the output that follows.
    pub fn tether(&self, ask: bool) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            "trap '' INT QUIT HUP TERM; exec \"$@\"",
            "kugetsu-ssh",
            "ssh",
        ]);
        self.arguments(&mut command, ask);
        command.arg("-T").arg("--").arg(&self.address);
        command.arg(self.remote_command(&[TETHER_COMMAND.into()]));
        command
    }

    /// The command that runs kugetsu on the host in this terminal.
    pub fn on_terminal(&self, arguments: &[OsString]) -> Command {
        let mut command = Command::new("ssh");
        self.arguments(&mut command, true);
        command.arg("-t").arg("--").arg(&self.address);
        command.arg(self.remote_command(arguments));
        command
    }

    fn arguments(&self, command: &mut Command, ask: bool) {
        // If an option is given twice, ssh uses the first one, so the user's options take precedence.
        command.args(self.settings.ssh.iter().map(OsStr::new));
        for option in [
            "ConnectTimeout=20",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=3",
        ] {
            command.arg("-o").arg(option);
        }
        if !ask {
            command.args(["-o", "BatchMode=yes"]);
        }
    }

    /// The path of kugetsu on the other host, for messages.
    pub fn program(&self) -> PathBuf {
        self.settings.kugetsu.as_deref().unwrap_or("kugetsu").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_name_address_program_home_and_options() {
        let settings = HostSettings {
            address: Some("me@box.example.org".into()),
            kugetsu: Some("~/bin/kugetsu".into()),
            home: Some("/srv/it's here".into()),
            ssh: vec!["-p".into(), "2222".into()],
        };
        let host = Host::new("box", Some(&settings)).unwrap();
        let command = host.tether(false);
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(words[3..6], ["ssh", "-p", "2222"]);
        assert!(words.contains(&"BatchMode=yes"));
        let at = words.iter().position(|word| *word == "--").unwrap();
        assert_eq!(
            words[at + 1..],
            [
                "me@box.example.org",
                "exec env KUGETSU_HOME='/srv/it'\"'\"'s here' \"$HOME\"/bin/kugetsu tether"
            ]
        );
    }

    #[test]
    fn an_option_is_no_destination() {
        for name in ["-oProxyCommand=touch /tmp/x", "", "a b", "a\nb"] {
            assert!(Host::new(name, None).is_err(), "{name:?}");
        }
        assert!(Host::new("ssh://me@box:22", None).is_ok());
    }
}
