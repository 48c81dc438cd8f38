//! The folders of warm opencode servers, below `run/servers/`: whom each server serves now, and what it tells the
//! session and its tools. Nothing in them matters after a reboot.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::encoding::encode;
use super::{Store, StoreError, layout};
use crate::fsx;
use crate::process::TURN_ENV;

/// The folder of the servers, below `run/`.
const SERVERS: &str = "servers";
/// The file that names the turn which a server serves.
const TURN: &str = "turn.json";
/// The variables of the turn's tools, for a shell to read.
const VARIABLES: &str = "turn.sh";
/// The text about the session, for the model.
const CONTEXT: &str = "context.md";
/// opencode's working directory. It stays empty.
const WORK: &str = "work";
/// The folder of the shell that opencode runs its tools with.
const SHELL: &str = "shell";
const MAX_TURN: u64 = 1 << 20;

/// The turn that a warm server serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServedTurn {
    pub(crate) turn: Uuid,
}

/// The folder of a warm server.
#[derive(Clone, Debug)]
pub(crate) struct ServerFolder {
    home: PathBuf,
    path: PathBuf,
    /// The shell of the caller, which the folder's own shell becomes.
    real_shell: PathBuf,
}

impl ServerFolder {
    pub(crate) fn context(&self) -> PathBuf {
        self.path.join(CONTEXT)
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.path.join(WORK)
    }

    /// The shell that opencode must run its tools with. It has the name of the caller's shell, because opencode goes by
    /// the name.
    pub(crate) fn shell(&self) -> PathBuf {
        let name = self.real_shell.file_name().unwrap_or("sh".as_ref());
        self.path.join(SHELL).join(name)
    }

    /// The shell gives a tool the variables of the turn, keeps the server's password from it, and becomes the caller's
    /// shell. Without variables it ends.
    fn shell_text(&self) -> String {
        let real = quoted(&self.real_shell.to_string_lossy());
        let variables = quoted(&self.path.join(VARIABLES).to_string_lossy());
        format!(
            "#!/bin/sh\n. {variables} || exit 126\nunset OPENCODE_SERVER_PASSWORD\nSHELL={real}\nexport SHELL\nexec {real} \"$@\"\n"
        )
    }

    /// Makes the folder of a new server.
    pub(crate) fn make(&self) -> Result<(), StoreError> {
        fsx::create_dir_all_volatile(&self.home, &self.work())?;
        fsx::create_dir_all_volatile(&self.home, &self.path.join(SHELL))?;
        fsx::write_atomic_volatile(&self.shell(), self.shell_text().as_bytes())?;
        fsx::make_executable(&self.shell())?;
        Ok(fsx::write_atomic_volatile(&self.context(), b"")?)
    }

    /// Makes the server one of this turn, with these variables for its tools and this text for the model.
    pub(crate) fn lend(
        &self,
        turn: &ServedTurn,
        variables: &[(String, String)],
        context: &str,
    ) -> Result<(), StoreError> {
        let mut shell = format!("export {TURN_ENV}={}\n", turn.turn);
        for (name, value) in variables {
            shell.push_str(&format!("export {name}={}\n", quoted(value)));
        }
        fsx::write_atomic_volatile(&self.context(), context.as_bytes())?;
        fsx::write_atomic_volatile(&self.path.join(VARIABLES), shell.as_bytes())?;
        let path = self.path.join(TURN);
        Ok(fsx::write_atomic_volatile(&path, &encode(turn, &path)?)?)
    }

    /// Makes the server one of no turn.
    pub(crate) fn give_back(&self) -> Result<(), StoreError> {
        fsx::write_atomic_volatile(&self.context(), b"")?;
        for name in [VARIABLES, TURN] {
            let path = self.path.join(name);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::Io {
                        action: "remove",
                        path,
                        source,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether nothing but kugetsu has written into the folder.
    pub(crate) fn is_untouched(&self) -> bool {
        let has_only = |folder: &Path, expected: &[&OsStr]| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries
                .map(|entry| entry.file_name())
                .all(|name| expected.contains(&name.as_os_str()))
        };
        let shell = self.shell();
        let own = fsx::read_bounded(&shell, MAX_TURN);
        own.is_ok_and(|own| own == self.shell_text().as_bytes())
            && has_only(
                &self.path,
                &[CONTEXT, SHELL, TURN, VARIABLES, WORK].map(OsStr::new),
            )
            && has_only(&self.path.join(SHELL), &[shell.file_name().unwrap_or_default()])
            && has_only(&self.work(), &[])
    }
}

impl Store {
    fn servers(&self) -> PathBuf {
        self.home().join(layout::RUN).join(SERVERS)
    }

    /// The folder of a warm server whose tools use this shell.
    pub(crate) fn server_folder(&self, server: Uuid, real_shell: PathBuf) -> ServerFolder {
        ServerFolder {
            home: self.home().to_owned(),
            path: self.servers().join(server.to_string()),
            real_shell,
        }
    }

    /// Removes the folder of a warm server that has ended.
    pub(crate) fn forget_server(&self, server: Uuid) {
        let _ = std::fs::remove_dir_all(self.servers().join(server.to_string()));
    }

    /// The turn that a warm server serves.
    pub(crate) fn served_turn(&self, server: Uuid) -> Option<ServedTurn> {
        let path = self.servers().join(server.to_string()).join(TURN);
        serde_json::from_slice(&fsx::read_bounded(&path, MAX_TURN).ok()?).ok()
    }

    /// Whether this is the mark of a warm server.
    pub(crate) fn is_server(&self, mark: Uuid) -> bool {
        self.servers().join(mark.to_string()).is_dir()
    }

    /// The warm servers that serve a turn, or did when their owner died.
    pub(crate) fn servers_of(&self, turn: Uuid) -> Vec<Uuid> {
        let serves = |server: &Uuid| {
            self.served_turn(*server)
                .is_some_and(|served| served.turn == turn)
        };
        self.server_ids().into_iter().filter(serves).collect()
    }

    /// Every warm server with a folder.
    pub(crate) fn server_ids(&self) -> Vec<Uuid> {
        let entries = std::fs::read_dir(self.servers());
        let names = entries.into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }
}

/// A word for a shell that stands for this text.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
