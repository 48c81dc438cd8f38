//! Runs a program that sees and reaches only what is listed.
//!
//! The guard starts the program through one of two mechanisms of the kernel. **bubblewrap** gives it namespaces of its
//! own: a file system that holds the listed paths, no other processes, and a network that has only a loopback. The
//! **Landlock** fallback needs no other program, but hides less: [`Backend::gaps`] lists what it leaves open.
//!
//! A sandboxed program starts in four steps:
//! 1. The guard starts bubblewrap (or, for Landlock, our own binary), with a control socket as standard input.
//! 2. Our own binary begins inside the sandbox as `sandbox-enter`. It opens the listeners of the sandbox's network, and
//!    passes them out over the control socket.
//! 3. The guard passes the program's real standard input in, and serves the listeners from outside (`outside`): a proxy
//!    for the hosts that are listed, and forwards to ports of the host's loopback that are listed.
//! 4. The entrance replaces itself with the program.
//!
//! Tools of the program are confined once more (`sandbox-tool`): the entrance's shell hides the program's own data and
//! secrets from the commands that it runs, if the kernel has Landlock.

mod bubblewrap;
mod enter;
mod landlocked;
mod outside;
mod probe;
mod proxy;
mod syscalls;
mod tool;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(super) use outside::Outside;
pub use probe::{Available, Landlock};
pub(crate) use probe::{HOW_TO_INSTALL, available};
pub use tool::ToolBounds;

use enter::{ENTER_COMMAND, FORWARD_COMMAND};
use tool::TOOL_COMMAND;

/// The folder of our own binary inside bubblewrap's file system.
const INSIDE: &str = "/run/kugetsu";
/// The port of opencode's server on that loopback.
pub const SERVE_PORT: u16 = 4096;
/// The port of the proxy on the loopback of a network namespace. No other program of the host can use the port there.
const PROXY_PORT: u16 = 3128;

/// Runs one of the hidden commands inside a sandbox, if `command` names one. `main` must call it before it does anything
/// else. Returns the exit status; a command that succeeds becomes another program and does not return.
pub fn sandbox_main(command: &OsStr, args: impl Iterator<Item = OsString>) -> Option<u8> {
    match command.to_str()? {
        ENTER_COMMAND => Some(enter::enter_main()),
        FORWARD_COMMAND => Some(enter::forward_main(args)),
        TOOL_COMMAND => Some(tool::tool_main(args)),
        _ => None,
    }
}

/// How many ports of the host's loopback a sandbox can make reachable.
pub const MOST_PORTS: usize = 32;

/// Whether a port of the host's loopback can be made reachable inside. The sandbox has no privilege to listen on a low
/// port, and uses two ports itself.
pub fn can_forward(port: u16) -> bool {
    port >= 1024 && port != PROXY_PORT && port != SERVE_PORT
}

/// What a sandboxed program sees and reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The mechanism.
    pub backend: Backend,
    /// The paths that the program sees, in order: a later one may lie in an earlier one and limit it.
    pub mounts: Vec<Mount>,
    /// What the program may connect to.
    pub network: Network,
    /// What the program and all its children together may use.
    pub limits: Limits,
}

impl Sandbox {
    /// Whether the program has a network of its own, in which every port is free.
    pub fn has_own_network(&self) -> bool {
        matches!(self.backend, Backend::Bubblewrap(_))
    }
}

/// The mechanism of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// Namespaces, made by bubblewrap.
    Bubblewrap(Bubblewrap),
    /// The kernel's Landlock alone.
    Landlock,
}

/// A bubblewrap that works on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bubblewrap {
    /// The program.
    pub program: PathBuf,
    /// Whether it can keep programs inside from making further user namespaces (version 0.8). In one, they would have
    /// privileges over parts of the kernel that ordinary users cannot reach.
    pub disables_userns: bool,
}

impl Backend {
    /// The name in records and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bubblewrap(_) => "bubblewrap",
            Self::Landlock => "landlock",
        }
    }

    /// What the mechanism does not cover, one sentence part each.
    pub(super) fn gaps(&self) -> &'static [&'static str] {
        match self {
            Self::Bubblewrap(_) => &[],
            Self::Landlock => &[
                "a turn can talk to services of this machine through unix sockets, such as that of Docker or of the user's \
                 session, and so can leave the sandbox",
                "TCP is limited to some ports, but not to hosts, and UDP is not restricted",
                "a turn can listen on any port",
                "the names and arguments of all processes of the host are visible",
                "a turn can change git's own files of its worktree (`.git`, `commondir`), packed objects, and where the clone borrows \
                 objects from",
                "the clone's `.git/config` is visible as it is",
            ],
        }
    }
}

/// One path of the sandbox's file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The path inside.
    pub path: PathBuf,
    /// The file or folder that is seen there, if it is not the path itself. Landlock ignores such a mount.
    pub source: Option<PathBuf>,
    /// What the program may do there.
    pub access: Access,
    /// True if the program's tools must not see the path (`sandbox-tool`).
    pub secret: bool,
}

impl Mount {
    /// A path that may be read and whose programs may be run.
    pub fn read(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            source: None,
            access: Access::Read,
            secret: false,
        }
    }

    /// A path that may be read and written.
    pub fn write(path: impl Into<PathBuf>) -> Self {
        Self {
            access: Access::Write,
            ..Self::read(path)
        }
    }

    /// The same path, hidden from tools.
    #[must_use]
    pub fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// The same path with another content.
    #[must_use]
    pub fn showing(self, source: PathBuf) -> Self {
        Self {
            source: Some(source),
            ..self
        }
    }
}

/// What a program may do with a path and everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Read, and run programs.
    Read,
    /// Read and write.
    Write,
}

/// What a sandboxed program may connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Hosts that the proxy connects to.
    pub hosts: Vec<Host>,
    /// Ports of the host's loopback.
    pub loopback: Vec<u16>,
    /// The port on which the program serves HTTP for its supervisor, if it does. [`super::Guarded::port`] says how to
    /// reach it.
    pub serve: Option<u16>,
}

/// A host that the proxy connects to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The name, or an address.
    pub name: String,
    /// The port.
    pub port: u16,
    /// Whether the name may lead into a private network, such as the user's own. An address that is listed may in any
    /// case, and no name may lead to this machine.
    pub private: bool,
}

/// What a program and all its children may use. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
}

/// What the entrance needs to know.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    program: OsString,
    args: Vec<OsString>,
    /// The ports on which the entrance listens inside, one listener each.
    listen: Vec<u16>,
    /// The port of the program that a listener from outside leads to.
    serve: Option<u16>,
    /// The rules for Landlock, if that is the mechanism.
    landlock: Option<landlocked::Rules>,
    /// The limit of the number of processes, for users other than root.
    processes: Option<u64>,
}
