//! Running opencode so that it, and everything it starts, is dead when the turn is over.
//!
//! opencode's tool children call `setsid`, so no process group holds them. Between kugetsu and opencode
//! therefore stands a small **guard** ([`guard_main`]): our own binary, a child subreaper, to which every
//! orphan below it is handed by the kernel. It leaves only when it has no child left, which is the kernel's own
//! word that the whole tree is gone. Its stdin is a socket to its supervisor, and the end of that socket,
//! however it comes about, is the order to kill.
//!
//! What holds, by who dies:
//! - the supervisor, even by `kill -9`: the guard sees the socket end and kills the tree;
//! - the guard by `kill -9`: the supervisor sees it and sweeps by the mark in the environment ([`TURN_ENV`]);
//! - both: the next command calls [`sweep_marked`] for the turn it finds without a supervisor.
//!
//! The sweep knows its processes by their environment, so it misses one that cleared it and whose parent is gone
//! as well; the guard, which goes by ancestry, does not. A cgroup around each guarded program, where one can be made,
//! closes that.
//!
//! Without Linux there is neither a subreaper nor `/proc`: what is killed is the process group of the program.

use std::path::PathBuf;
use std::time::Duration;

mod cgroup;
mod guard;
mod guarded;
mod identity;
mod launch;
#[cfg(target_os = "linux")]
mod procfs;
mod short;
mod sweep;
#[cfg(all(test, target_os = "linux"))]
mod tests;
mod tree;
mod wire;

pub use guard::guard_main;
pub use guarded::Guarded;
pub use identity::{Liveness, current, identity_of, is_alive, terminate};
pub use launch::{Containment, GuardSpec, Sink};
pub(crate) use short::run_until_cancelled;
pub use short::{Output, run_to_end};
pub use sweep::sweep_marked;

/// The word after the program's name that makes our own binary a guard. `main` must look for it before it does
/// anything else and then call [`guard_main`].
pub const GUARD_COMMAND: &str = "guard";

/// The environment variable that marks every process of a turn; its value is the turn's id.
pub const TURN_ENV: &str = "KUGETSU_TURN";

/// How a guarded program ended. In every case nothing of its tree is left, except what
/// [`Guarded::left`] or [`Output::left`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself with this exit status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// The guard was killed, so how the program ended is not known. The tree has been swept.
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

/// What can go wrong around a guarded program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// Our own binary could not be started as the guard.
    #[error("cannot start the guard process {guard}: {source}")]
    Guard {
        /// The binary.
        guard: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The guard could not start the program.
    #[error("cannot start {program} in {cwd}: {reason}")]
    Start {
        /// The program.
        program: PathBuf,
        /// The working directory it was to have.
        cwd: PathBuf,
        /// What the system said.
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
        /// How long it had.
        after: Duration,
        /// The end of what it had written to stderr.
        stderr: String,
    },
    /// Somebody cancelled a short command, and it was killed.
    #[error("{program} was cancelled")]
    Cancelled {
        /// The program.
        program: PathBuf,
    },
    /// Processes that neither TERM nor KILL ended.
    #[error("processes that could not be killed: {}", list(.pids))]
    Unkillable {
        /// Their ids.
        pids: Vec<u32>,
    },
    /// The system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
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
