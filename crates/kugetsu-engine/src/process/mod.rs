//! Runs opencode so that opencode and everything it starts is dead when the turn is over.
//!
//! opencode's tools call `setsid`, so no process group holds them. A small **guard** ([`guard_main`]) therefore stands
//! between kugetsu and opencode. The guard is our own binary and a child subreaper, to which the kernel hands every
//! orphan below it. The guard exits only when it has no child left, which proves that the whole tree is gone. Its stdin
//! is a socket to its supervisor; when that socket closes for any reason, the guard kills the tree.
//!
//! What cleans up depends on which process dies:
//! - the supervisor, even by `kill -9`: the guard sees the socket close and kills the tree;
//! - the guard, by `kill -9`: the supervisor notices and sweeps by the mark in the environment ([`TURN_ENV`]);
//! - both: the next command finds the turn without a supervisor and calls [`sweep_marked`].
//!
//! The sweep identifies processes by their environment, so it misses a process that cleared its environment and lost
//! its parent. The guard goes by ancestry and does not miss it. Where the system allows it, a cgroup around each
//! guarded program closes this gap in the sweep.
//!
//! Systems other than Linux have neither a subreaper nor `/proc`; there, the guard kills the program's process group.

use std::path::PathBuf;
use std::time::Duration;

pub(crate) mod cgroup;
mod guard;
mod guarded;
mod identity;
mod launch;
mod limits;
#[cfg(target_os = "linux")]
mod procfs;
mod room;
pub mod sandbox;
mod settle;
mod short;
mod sweep;
#[cfg(all(test, target_os = "linux"))]
mod tests;
mod tree;
mod wire;

pub use guard::guard_main;
pub use guarded::Guarded;
pub use identity::enclosing_marks;
#[cfg(test)]
pub(crate) use identity::identity_of;
pub use identity::{Liveness, current, is_alive, terminate};
pub use launch::{Containment, GuardSpec, Sink};
pub(crate) use limits::ProcessLimits;
pub use limits::raise_open_files;
pub(crate) use room::FULL as NO_ROOM;
pub use room::{WAY_OUT, is_full};
pub(crate) use settle::Tree;
pub use short::Output;
#[cfg(test)]
pub(crate) use short::run_to_end;
pub(crate) use short::run_until_cancelled;
pub use sweep::sweep_marked;

/// The first argument that makes our own binary run as a guard. `main` must check for it before it does anything else,
/// and then call [`guard_main`].
pub const GUARD_COMMAND: &str = "guard";

/// The environment variable that marks every process of a turn. Its value is the turn's id.
pub const TURN_ENV: &str = "KUGETSU_TURN";

/// How a guarded program ended. In every case nothing of its tree is left except the processes that [`Guarded::left`]
/// or [`Output::left`] lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// The guard was killed, so it is unknown how the program ended. The tree has been swept.
    GuardLost,
}

impl Exit {
    /// True for exit status 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::GuardLost => f.write_str("its guard process was killed"),
        }
    }
}

/// Errors around a guarded program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// Our own binary could not be started as the guard.
    #[error("cannot start the guard process {guard}: {}", room::cause(source))]
    Guard {
        /// The binary.
        guard: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The guard could not start the program.
    #[error("cannot start {program} in {cwd}: {reason}")]
    Start {
        /// The program.
        program: PathBuf,
        /// The intended working directory.
        cwd: PathBuf,
        /// The system's error.
        reason: String,
        /// True when the program or the working directory does not exist.
        not_found: bool,
    },
    /// The guard ended before it had started the program.
    #[error("the guard process ended before it had started {program}")]
    GuardEnded {
        /// The program.
        program: PathBuf,
    },
    /// A short command took too long and was killed.
    #[error("{program} did not end within {after:?} and was killed{}", hint(.stderr))]
    Deadline {
        /// The program.
        program: PathBuf,
        /// The time limit.
        after: Duration,
        /// The end of the command's stderr output.
        stderr: String,
    },
    /// A short command was cancelled and killed.
    #[error("{program} was cancelled")]
    Cancelled {
        /// The program.
        program: PathBuf,
    },
    /// Some processes survived both TERM and KILL.
    #[error("processes that could not be killed: {}", list(.pids))]
    Unkillable {
        /// Their ids.
        pids: Vec<u32>,
    },
    /// The system would start the program, but not all of what it needs.
    #[error("{program} was not started: {reason}")]
    NoRoom {
        /// The program.
        program: PathBuf,
        /// The cause and a way out.
        reason: String,
    },
    /// Another system call failed.
    #[error("{what}: {}", room::cause(source))]
    System {
        /// The failed action.
        what: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
}

fn hint(stderr: &str) -> String {
    stderr
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .map_or_else(String::new, |line| {
            let line: String = line.chars().filter(|c| !c.is_control()).take(300).collect();
            format!("; it last said: {line}")
        })
}

fn list(pids: &[u32]) -> String {
    pids.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
