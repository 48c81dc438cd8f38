//! Runs short commands with a deadline through the guard, without async: opencode's `export`, `import` and `db path`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::guarded::wake;
use super::launch::{GuardSpec, ended};
use super::wire::{Inbox, KILL, Report, TERMINATE};
use super::{Exit, ProcessError, sweep};
use crate::cancel::Cancel;

/// The time beyond its grace period that a guard has to kill and report before we give up on it.
const GUARD_SLACK: Duration = Duration::from_secs(20);
/// The interval between checks for cancellation.
const CANCEL_POLL: Duration = Duration::from_millis(20);
/// How long to wait for the rest of the output once the tree is gone. Only an unkillable process keeps it open.
const DRAIN: Duration = Duration::from_secs(2);

/// The result of a short command.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Its stdout, if piped.
    pub stdout: Vec<u8>,
    /// Its stderr, if piped.
    pub stderr: Vec<u8>,
    /// Processes that it left behind and that could not be killed.
    pub left: Vec<u32>,
}

/// Runs a program under a guard until the program and everything below it is gone. The limit is `deadline` plus the
/// grace period. Blocks the thread. Holds piped output in memory: use a file for large output.
pub fn run_to_end(spec: GuardSpec, deadline: Duration) -> Result<Output, ProcessError> {
    run_until_cancelled(spec, deadline, &Cancel::default())
}

/// Like [`run_to_end`], but cancellable: on cancellation, the program and everything below it is killed at once.
pub(crate) fn run_until_cancelled(
    mut spec: GuardSpec,
    deadline: Duration,
    cancel: &Cancel,
) -> Result<Output, ProcessError> {
    let limit = Instant::now() + deadline;
    let header = spec.header()?;
    let (mut command, control) = spec.command()?;
    let mut guard = command.spawn().map_err(|source| spec.guard_error(source))?;
    drop(command);
    let stdout = guard.stdout.take().map(Drain::start);
    let stderr = guard.stderr.take().map(Drain::start);

    let mut line = Line {
        control,
        inbox: Inbox::default(),
        queue: std::collections::VecDeque::new(),
    };
    // If the guard dies while we write, its report is missing; if it does not read, the deadline ends it.
    let _ = line.control.set_write_timeout(Some(left(limit)));
    if line.control.write_all(&header).is_ok() {
        let _ = line.control.write_all(&spec.stdin);
    }
    let mut first = true;
    let mut last = None;
    let mut phase = Phase::Running;
    let mut until = limit;
    loop {
        match line.next(until.min(Instant::now() + CANCEL_POLL)) {
            Next::Report(report) => {
                if std::mem::take(&mut first)
                    && let Err(error) = spec.started(Some(&report))
                {
                    let _ = guard.wait();
                    return Err(error);
                }
                last = ended(&report).or(last);
            }
            Next::Closed => break,
            Next::Late if Instant::now() < until => {
                if cancel.is_set() && matches!(phase, Phase::Running | Phase::Terminating) {
                    line.ask(KILL);
                    (phase, until) = (Phase::Killing, Instant::now() + GUARD_SLACK);
                    wake(Some(guard.id()));
                }
            }
            Next::Late => {
                match phase {
                    Phase::Running => {
                        line.ask(TERMINATE);
                        (phase, until) = (
                            Phase::Terminating,
                            Instant::now() + spec.containment.grace + GUARD_SLACK,
                        );
                    }
                    Phase::Terminating => {
                        line.ask(KILL);
                        (phase, until) = (Phase::Killing, Instant::now() + GUARD_SLACK);
                    }
                    Phase::Killing => {
                        let _ = guard.kill();
                        break;
                    }
                }
                wake(Some(guard.id()));
            }
        }
    }
    let _ = guard.wait();
    let (exit, left_behind) = match last {
        Some(last) => last,
        None => match sweep::sweep_marked(spec.containment.mark) {
            Err(ProcessError::Unkillable { pids }) => (Exit::GuardLost, pids),
            _ => (Exit::GuardLost, Vec::new()),
        },
    };
    let stderr = stderr.map(Drain::finish).unwrap_or_default();
    if !matches!(phase, Phase::Running) && cancel.is_set() {
        return Err(ProcessError::Cancelled {
            program: spec.program,
        });
    }
    if !matches!(phase, Phase::Running) {
        let stderr = String::from_utf8_lossy(&stderr[stderr.len().saturating_sub(4096)..]).into_owned();
        return Err(ProcessError::Deadline {
            program: spec.program,
            after: deadline,
            stderr,
        });
    }
    if first {
        return Err(ProcessError::GuardEnded {
            program: spec.program,
        });
    }
    let stdout = stdout.map(Drain::finish).unwrap_or_default();
    Ok(Output {
        exit,
        stdout,
        stderr,
        left: left_behind,
    })
}

#[derive(Clone, Copy)]
enum Phase {
    Running,
    Terminating,
    Killing,
}

enum Next {
    Report(Report),
    Closed,
    Late,
}

/// Our end of the control socket.
struct Line {
    control: UnixStream,
    inbox: Inbox,
    queue: std::collections::VecDeque<Report>,
}

impl Line {
    fn next(&mut self, until: Instant) -> Next {
        let mut chunk = [0; 4096];
        loop {
            if let Some(report) = self.queue.pop_front() {
                return Next::Report(report);
            }
            if until <= Instant::now() {
                return Next::Late;
            }
            let _ = self.control.set_read_timeout(Some(left(until)));
            match self.control.read(&mut chunk) {
                Ok(0) => return Next::Closed,
                Ok(count) => self.queue.extend(self.inbox.feed(&chunk[..count])),
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock
                    | std::io::ErrorKind::TimedOut
                    | std::io::ErrorKind::Interrupted => {}
                    _ => return Next::Closed,
                },
            }
        }
    }

    fn ask(&mut self, request: u8) {
        let _ = self.control.set_write_timeout(Some(Duration::from_secs(1)));
        let _ = self.control.write_all(&[request]);
    }
}

/// The remaining time, never zero, because the system rejects a timeout of zero.
fn left(until: Instant) -> Duration {
    until
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}

/// Reads an output to its end in a separate thread.
struct Drain {
    bytes: Arc<Mutex<Vec<u8>>>,
    done: Receiver<()>,
}

impl Drain {
    fn start(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (finished, done) = channel();
        let into = Arc::clone(&bytes);
        std::thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            loop {
                match from.read(&mut chunk) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => break,
                    Ok(count) => {
                        into.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .extend_from_slice(&chunk[..count]);
                    }
                }
            }
            let _ = finished.send(());
        });
        Self { bytes, done }
    }

    fn finish(self) -> Vec<u8> {
        let _ = self.done.recv_timeout(DRAIN);
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
