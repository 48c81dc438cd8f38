//! The shell that a sandboxed opencode runs its commands with.
//!
//! opencode reads the provider's key and writes its database, and the commands of its `bash` tool run as its children. The
//! shell takes both from them: it removes variables from the environment, and restricts itself by Landlock to what
//! [`ToolBounds`] list. A process that Landlock restricts can neither trace nor signal processes outside, nor read their
//! environment or memory from `/proc`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::enter::eprintln_raw;
use super::landlocked::Rules;
use super::{Access, INSIDE, Sandbox};

/// The first argument that makes our own binary a sandboxed tool's shell.
pub(super) const TOOL_COMMAND: &str = "sandbox-tool";

/// The exit status if the command could not be started, as of a shell.
const NOT_STARTED: u8 = 126;

/// The shell that runs the commands.
const SHELL: &str = "/bin/bash";

/// What the commands of a tool may see, as a file that the shell reads.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToolBounds {
    rules: Rules,
    /// Variables that the commands do not get.
    unset: Vec<String>,
    /// The folder for temporary files, if the usual one would show a secret path.
    temporary: Option<PathBuf>,
    /// Whether no command may run without Landlock.
    strict: bool,
}

impl ToolBounds {
    /// The bounds for the tools of a program in this sandbox: its paths without the secret ones.
    /// `own` is a folder that may be written. With `strict`, no command runs if Landlock cannot confine it.
    pub fn of(sandbox: &Sandbox, unset: Vec<String>, own: &Path, strict: bool) -> Self {
        let mut rules = Rules::of(sandbox.mounts.iter().filter(|mount| !mount.secret));
        // Each mount that shows another file has been made, or hides a path that stays hidden.
        let shown = sandbox
            .mounts
            .iter()
            .filter(|mount| mount.source.is_some() && !mount.secret);
        for mount in shown {
            let list = match mount.access {
                Access::Read => &mut rules.read,
                Access::Write => &mut rules.write,
            };
            list.push(mount.path.clone());
        }
        rules.read.extend(super::bubblewrap::system().map(PathBuf::from));
        rules.read.push(INSIDE.into());
        // A rule of Landlock covers everything below its path, also a secret path that was mounted there.
        let shows_secret = |folder: &str| {
            let mut secrets = sandbox.mounts.iter().filter(|mount| mount.secret);
            secrets.any(|mount| mount.path.starts_with(folder))
        };
        let mut temporary = Some(own.to_owned());
        rules.own.push(own.to_owned());
        if sandbox.has_own_network() {
            // bubblewrap made these folders for this program alone.
            for folder in ["/tmp", "/dev/shm", "/dev/pts"]
                .into_iter()
                .filter(|folder| !shows_secret(folder))
            {
                rules.own.push(folder.into());
                if folder == "/tmp" {
                    temporary = None;
                }
            }
        }
        Self {
            rules,
            unset,
            temporary,
            strict,
        }
    }

    /// The text of the shell: a script that begins `sandbox-tool` with the bounds in `file`.
    pub fn script(sandbox: &Sandbox, own: &Path, file: &Path) -> String {
        let own = match sandbox.backend {
            super::Backend::Bubblewrap(_) => Path::new(INSIDE).join("kugetsu"),
            super::Backend::Landlock => own.to_owned(),
        };
        let quote = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        format!(
            "#!/bin/sh\nexec {} {TOOL_COMMAND} {} \"$@\"\n",
            quote(&own),
            quote(file)
        )
    }
}

/// Runs the hidden `sandbox-tool` command with its further arguments: the file of the bounds, and the shell's arguments.
/// Returns only if the shell could not be started.
pub(super) fn tool_main(mut args: impl Iterator<Item = OsString>) -> u8 {
    let run = || -> std::io::Result<std::convert::Infallible> {
        let file = args.next().unwrap_or_default();
        let bounds: ToolBounds = serde_json::from_slice(&std::fs::read(file)?)?;
        // Without Landlock, the sandbox around opencode holds all the same, which is enough for `auto`.
        if !bounds.rules.apply()? && bounds.strict {
            return Err(std::io::Error::other("this kernel has no Landlock"));
        }
        let mut shell = Command::new(SHELL);
        for name in &bounds.unset {
            shell.env_remove(name);
        }
        if let Some(folder) = &bounds.temporary {
            shell.env("TMPDIR", folder);
        }
        Err(shell.args(args).env("SHELL", SHELL).exec())
    };
    let error = match run() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln_raw(&format!("the shell of the sandbox could not be started: {error}"));
    NOT_STARTED
}
