//! The asynchronous (tokio) interface to a guarded program.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use uuid::Uuid;

use super::launch::{GuardSpec, ended};
use super::wire::{Inbox, KILL, Report, TERMINATE};
use super::{Exit, ProcessError, Tree, room, sweep};

/// A program that runs under a guard. Dropping this value closes the guard's control socket: the tree receives a
/// request to end and is killed a second later. Call [`Guarded::wait`] to wait for the end of the tree.
pub struct Guarded {
    /// The program's stdout, if it is piped. It reaches its end only when the whole tree is gone.
    pub stdout: Option<ChildStdout>,
    /// The program's stderr, if it is piped.
    pub stderr: Option<ChildStderr>,
    control: UnixStream,
    inbox: Inbox,
    last: Option<(Exit, Vec<u32>)>,
    closed: bool,
    guard: Child,
    #[cfg(test)]
    guard_pid: u32,
    pid: u32,
    port: Option<u16>,
    turn: Uuid,
    exit: Option<Exit>,
}

impl Guarded {
    /// Starts the guard and, through it, the program. Returns once the program runs. Dropping the future undoes a
    /// partial start.
    pub async fn spawn(mut spec: GuardSpec) -> Result<Self, ProcessError> {
        if let Some(reason) = room::lacking() {
            let program = spec.program.clone();
            return Err(ProcessError::NoRoom { program, reason });
        }
        let header = spec.header()?;
        let (command, control) = spec.command()?;
        let control = control
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(control))
            .map_err(|source| ProcessError::System {
                what: "cannot watch the guard's control socket",
                source,
            })?;
        let mut command = Command::from(command);
        let mut guard = command.spawn().map_err(|source| spec.guard_error(source))?;
        drop(command);
        let mut this = Self {
            stdout: guard.stdout.take(),
            stderr: guard.stderr.take(),
            control,
            inbox: Inbox::default(),
            last: None,
            closed: false,
            #[cfg(test)]
            guard_pid: guard.id().unwrap_or(0),
            guard,
            pid: 0,
            port: None,
            turn: spec.containment.mark,
            exit: None,
        };
        // If the guard dies while we write, its report will be missing.
        if this.control.write_all(&header).await.is_ok() {
            let _ = this.control.write_all(&spec.stdin).await;
        }
        let first = this.report().await;
        match spec.started(first.as_ref()) {
            Ok((pid, port)) => (this.pid, this.port) = (pid, port),
            Err(error) => {
                let _ = this.guard.wait().await;
                return Err(error);
            }
        }
        Ok(this)
    }

    /// Waits until the program and everything below it is gone. Cancelling and calling again is safe.
    pub async fn wait(&mut self) -> Exit {
        if let Some(exit) = self.exit {
            return exit;
        }
        while self.report().await.is_some() {}
        let _ = self.guard.wait().await;
        let exit = if let Some((exit, _)) = &self.last {
            *exit
        } else {
            let turn = self.turn;
            let left = match tokio::task::spawn_blocking(move || sweep::sweep_marked(turn)).await {
                Ok(Err(ProcessError::Unkillable { pids })) => pids,
                _ => Vec::new(),
            };
            self.last = Some((Exit::GuardLost, left));
            Exit::GuardLost
        };
        self.exit = Some(exit);
        exit
    }

    /// Requests the program to end (SIGTERM); the tree is killed after the grace period. Does not wait.
    pub async fn terminate(&mut self) {
        self.ask(TERMINATE).await;
    }

    /// Requests an immediate kill of the whole tree. Does not wait.
    pub async fn kill(&mut self) {
        self.ask(KILL).await;
    }

    /// The port on this machine's loopback that leads to the server of a sandboxed program; `None` if the program's own
    /// port does.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether the guard has ended, and with it the program. Does not wait.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.exit.is_some() || !matches!(self.guard.try_wait(), Ok(None))
    }

    /// The processes of the program, as long as it runs.
    pub(crate) fn tree(&self) -> Option<Tree> {
        let guard = self.guard.id()?;
        Some(Tree {
            guard,
            program: self.pid,
        })
    }

    /// The program's process id.
    #[cfg(test)]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The guard's process id.
    #[cfg(test)]
    pub fn guard_pid(&self) -> u32 {
        self.guard_pid
    }

    /// After [`Guarded::wait`]: the processes of the tree that could not be killed.
    #[cfg(test)]
    pub fn left(&self) -> &[u32] {
        self.last.as_ref().map_or(&[], |(_, left)| left)
    }

    async fn ask(&mut self, request: u8) {
        // If the guard is gone, there is nothing left to end.
        let _ = self.control.write_all(&[request]).await;
        if self.exit.is_none() {
            wake(self.guard.id());
        }
    }

    /// Returns the guard's next report, or `None` once the guard is gone. Cancelling this loses no report.
    async fn report(&mut self) -> Option<Report> {
        let mut chunk = [0; 4096];
        while !self.closed {
            match self.control.read(&mut chunk).await {
                Ok(0) | Err(_) => self.closed = true,
                Ok(count) => {
                    let reports = self.inbox.feed(&chunk[..count]);
                    if let Some(last) = reports.iter().rev().find_map(ended) {
                        self.last = Some(last);
                    }
                    if let Some(first) = reports.into_iter().next() {
                        return Some(first);
                    }
                }
            }
        }
        None
    }
}

/// Continues a guard that someone has stopped.
pub(super) fn wake(guard: Option<u32>) {
    let pid = guard
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
    }
}
