//! Describes the program to run under a guard and starts the guard. [`super::Guarded`] and [`super::short`] share
//! it.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::limits::ProcessLimits;
use super::sandbox::Sandbox;
use super::wire::{Header, Report};
use super::{Exit, GUARD_COMMAND, ProcessError};
use crate::environment::Environment;

/// The guard's name in process lists. It contains neither `kugetsu` nor `opencode`, so that a person's `pkill -9` of
/// either does not kill the guard and leave the tools of a turn behind.
pub(super) const GUARD_NAME: &str = "turn-guard";

/// The destination of a program's output.
#[derive(Debug)]
pub enum Sink {
    /// A pipe to this process.
    Piped,
    /// This file.
    File(File),
    /// Discarded.
    Null,
}

/// How a program and everything that it starts is held together, found again and ended.
#[derive(Clone, Debug)]
pub struct Containment {
    /// Our own binary, which serves as the guard. `/proc/self/exe` stays valid while a new version is installed over
    /// it.
    pub guard_program: PathBuf,
    /// The mark in the environment (`KUGETSU_TURN`) of everything that the program starts: the turn's id, or another id
    /// for processes that must not end with a turn.
    pub mark: Uuid,
    /// All variables that the guard and the program see.
    pub environment: Environment,
    /// How long after a request to end the tree is killed.
    pub grace: Duration,
    /// Whether the program gets a cgroup of its own where one can be made. To enter one takes the kernel about 10 ms, and
    /// only a sweep needs it. So nothing that is over in a moment, and that no later command looks for, should have one.
    pub cgroup: bool,
    /// The umask, priority and resource limits of the guard and the program; `None`: those of this process.
    pub limits: Option<ProcessLimits>,
}

/// A program to run under a guard. It has no `Debug`, because `set_env` may hold secrets. These reach the guard through
/// its stdin and appear in no argument list.
pub struct GuardSpec {
    /// The program: an absolute path, or a name to look up in the child's `PATH`.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its working directory.
    pub cwd: PathBuf,
    /// Variables to set in addition to the environment.
    pub set_env: Vec<(OsString, OsString)>,
    /// Variables to remove from the environment. They take precedence over `set_env`.
    pub remove_env: Vec<OsString>,
    /// The bytes that the program reads from stdin before its end.
    pub stdin: Arc<[u8]>,
    /// What the program sees and reaches; `None`: what its user does. A sandboxed program must get an environment without
    /// secrets in [`Containment::environment`].
    pub sandbox: Option<Sandbox>,
    /// How the program and everything that it starts is contained.
    pub containment: Containment,
    /// The destination of its stdout.
    pub stdout: Sink,
    /// The destination of its stderr.
    pub stderr: Sink,
}

impl GuardSpec {
    /// The first line that the guard reads.
    pub(super) fn header(&self) -> Result<Vec<u8>, ProcessError> {
        let header = Header {
            program: self.program.clone().into_os_string(),
            args: self.args.clone(),
            cwd: self.cwd.clone().into_os_string(),
            set_env: self.set_env.clone(),
            remove_env: self.remove_env.clone(),
            stdin_len: self.stdin.len() as u64,
            grace_ms: u64::try_from(self.containment.grace.as_millis()).unwrap_or(u64::MAX),
            turn: self.containment.mark,
            cgroup: self.containment.cgroup,
            limits: (self.containment.limits.clone()).or_else(ProcessLimits::to_restore),
            sandbox: self.sandbox.clone(),
        };
        let mut line = serde_json::to_vec(&header).map_err(|error| ProcessError::System {
            what: "cannot write the guard's header",
            source: error.into(),
        })?;
        line.push(b'\n');
        Ok(line)
    }

    /// Returns the command that starts the guard, and our end of its control socket. The command holds the other end
    /// and must be dropped once the guard runs; otherwise the guard's death goes unnoticed.
    pub(super) fn command(&mut self) -> Result<(Command, UnixStream), ProcessError> {
        let (ours, theirs) = UnixStream::pair().map_err(|source| ProcessError::System {
            what: "cannot make the guard's control socket",
            source,
        })?;
        let mut command = Command::new(&self.containment.guard_program);
        command
            .env_clear()
            .envs(self.containment.environment.variables())
            .arg0(GUARD_NAME)
            .arg(GUARD_COMMAND)
            .arg(self.containment.mark.to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(stdio(&mut self.stdout))
            .stderr(stdio(&mut self.stderr));
        Ok((command, ours))
    }

    pub(super) fn guard_error(&self, source: std::io::Error) -> ProcessError {
        ProcessError::Guard {
            guard: self.containment.guard_program.clone(),
            source,
        }
    }

    /// Interprets the guard's first report: the program's process id and the port that leads to its server, or the reason
    /// why the program does not run.
    pub(super) fn started(&self, report: Option<&Report>) -> Result<(u32, Option<u16>), ProcessError> {
        match report {
            Some(Report::Started { pid, port }) => Ok((*pid, *port)),
            Some(Report::Failed { reason, not_found }) => Err(ProcessError::Start {
                program: self.program.clone(),
                cwd: self.cwd.clone(),
                reason: reason.clone(),
                not_found: *not_found,
            }),
            _ => Err(ProcessError::GuardEnded {
                program: self.program.clone(),
            }),
        }
    }
}

/// Interprets the guard's last report: how the program ended, and the processes that are left.
pub(super) fn ended(report: &Report) -> Option<(Exit, Vec<u32>)> {
    match report {
        Report::Ended {
            code: Some(code),
            left,
            ..
        } => Some((Exit::Code(*code), left.clone())),
        Report::Ended {
            signal: Some(signal),
            left,
            ..
        } => Some((Exit::Signal(*signal), left.clone())),
        // The program itself could not be killed; the signal is the one that it did not obey.
        Report::Ended { left, .. } => Some((Exit::Signal(9), left.clone())),
        _ => None,
    }
}

fn stdio(sink: &mut Sink) -> Stdio {
    match std::mem::replace(sink, Sink::Null) {
        Sink::Piped => Stdio::piped(),
        Sink::File(file) => file.into(),
        Sink::Null => Stdio::null(),
    }
}
