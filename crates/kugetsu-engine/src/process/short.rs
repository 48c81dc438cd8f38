//! Short commands with a deadline, through the same guard, without async: opencode's `export`, `import`, `db path`.

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

/// How long a guard may take to kill and to report after the grace period, before it is killed itself.
const GUARD_SLACK: Duration = Duration::from_secs(20);
/// How long a cancelled command has to end by itself, such as git, which then removes its locks.
const CANCEL_GRACE: Duration = Duration::from_millis(200);
/// How long a cancelled command may go unnoticed.
const CANCEL_INTERVAL: Duration = Duration::from_millis(20);
/// How long to wait for the end of an output after the process tree is gone. Only a process that could not be killed
/// keeps the pipe open.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// The longest stdout that is accepted. The longest one that callers parse is git's list of untracked files: a million
/// names of 100 bytes each take 100 MB.
const STDOUT_LIMIT: usize = 128 << 20;
/// How much of the end of stderr is kept. Callers search only its last lines.
const STDERR_TAIL: usize = 64 << 10;

/// What a short command did.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to stdout, where that was piped.
    pub stdout: Vec<u8>,
    /// The last 64 KiB of what it wrote to stderr, where that was piped.
    pub stderr: Vec<u8>,
    /// Processes that it left behind and that could not be killed.
    #[cfg_attr(
        not(any(test, feature = "internals")),
        expect(dead_code, reason = "tests read it")
    )]
    pub left: Vec<u32>,
}

/// Runs a program under a guard until it and everything below it is gone, at most for `deadline` and then the grace
/// period. Blocks the thread. Piped output is held in memory, and more than 128 MiB on stdout is an error, so that no
/// caller parses a part of it: give a file where it may be larger.
#[cfg(test)]
pub(crate) fn run_to_end(spec: GuardSpec, deadline: Duration) -> Result<Output, ProcessError> {
    run_until_cancelled(spec, deadline, &Cancel::default())
}

/// [`run_to_end`] that can be cancelled: then the program is asked to end, and it and everything below it is killed
/// [`CANCEL_GRACE`] later.
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
    let stdout = guard.stdout.take();
    let stderr = guard.stderr.take();
    let drains = Drain::maybe(stdout, Keep::UpTo(STDOUT_LIMIT))
        .and_then(|stdout| Ok((stdout, Drain::maybe(stderr, Keep::Tail(STDERR_TAIL))?)));
    let (stdout, stderr) = match drains {
        Ok(drains) => drains,
        Err(source) => {
            // The guard has not been told what to start, and ends with its socket.
            drop(control);
            let _ = guard.wait();
            let what = "cannot start a thread that reads its output";
            return Err(ProcessError::System { what, source });
        }
    };

    let mut socket = ControlSocket {
        control,
        inbox: Inbox::default(),
        queue: std::collections::VecDeque::new(),
    };
    // A write that fails needs no handling: a dead guard sends no report, and a guard that does not read runs into the
    // deadline.
    let _ = socket.control.set_write_timeout(Some(left(limit)));
    if socket.control.write_all(&header).is_ok() {
        let _ = socket.control.write_all(&spec.stdin);
    }
    let mut first = true;
    let mut last = None;
    let mut phase = Phase::Running;
    let mut until = limit;
    let mut cancelled = false;
    loop {
        match socket.next(until.min(Instant::now() + CANCEL_INTERVAL)) {
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
                if !cancelled && cancel.is_set() && matches!(phase, Phase::Running | Phase::Terminating) {
                    cancelled = true;
                    socket.ask(TERMINATE);
                    (phase, until) = (Phase::Terminating, until.min(Instant::now() + CANCEL_GRACE));
                    wake(Some(guard.id()));
                }
            }
            Next::Late => {
                match phase {
                    Phase::Running => {
                        socket.ask(TERMINATE);
                        (phase, until) = (
                            Phase::Terminating,
                            Instant::now() + spec.containment.grace + GUARD_SLACK,
                        );
                    }
                    Phase::Terminating => {
                        socket.ask(KILL);
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
    let stderr = stderr.map(Drain::finish).unwrap_or_default().bytes;
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
    if let Some(problem) = stdout.problem {
        return Err(ProcessError::System {
            what: "cannot use the output of a command",
            source: std::io::Error::other(format!("{}: {problem}", spec.program.display())),
        });
    }
    Ok(Output {
        exit,
        stdout: stdout.bytes,
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

/// The supervisor's end of the guard's control socket.
struct ControlSocket {
    control: UnixStream,
    inbox: Inbox,
    queue: std::collections::VecDeque<Report>,
}

impl ControlSocket {
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

/// The time left, never zero: the system refuses a timeout of zero.
fn left(until: Instant) -> Duration {
    until
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}

/// Which part of an output is kept. All of it is read, so that the program never waits for its reader.
#[derive(Clone, Copy)]
enum Keep {
    /// All of it; a longer output is a problem.
    UpTo(usize),
    /// Its last bytes.
    Tail(usize),
}

/// What was read of an output.
#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    /// Why `bytes` is not what it should be.
    problem: Option<String>,
}

impl Collected {
    fn add(&mut self, chunk: &[u8], keep: Keep) {
        if self.problem.is_some() {
            return;
        }
        self.bytes.extend_from_slice(chunk);
        match keep {
            Keep::UpTo(limit) if self.bytes.len() > limit => {
                self.bytes = Vec::new();
                self.problem = Some(format!("it wrote more than {} MiB to stdout", limit >> 20));
            }
            // Cutting at twice the limit moves each byte once at most.
            Keep::Tail(limit) if self.bytes.len() > 2 * limit => self.cut_to(limit),
            Keep::UpTo(_) | Keep::Tail(_) => {}
        }
    }

    fn cut_to(&mut self, limit: usize) {
        self.bytes.drain(..self.bytes.len().saturating_sub(limit));
    }
}

/// Reads an output to its end in a thread of its own.
struct Drain {
    collected: Arc<Mutex<Collected>>,
    keep: Keep,
    done: Receiver<()>,
}

impl Drain {
    fn maybe(from: Option<impl Read + Send + 'static>, keep: Keep) -> std::io::Result<Option<Self>> {
        from.map(|from| Self::start(from, keep)).transpose()
    }

    fn start(mut from: impl Read + Send + 'static, keep: Keep) -> std::io::Result<Self> {
        let collected = Arc::new(Mutex::new(Collected::default()));
        let (finished, done) = channel();
        let into = Arc::clone(&collected);
        std::thread::Builder::new().spawn(move || {
            let lock = || into.lock().unwrap_or_else(PoisonError::into_inner);
            let mut chunk = vec![0; 64 << 10];
            loop {
                match from.read(&mut chunk) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Ok(0) => break,
                    Ok(count) => lock().add(&chunk[..count], keep),
                    Err(error) => {
                        lock().problem = Some(format!("its output could not be read: {error}"));
                        break;
                    }
                }
            }
            let _ = finished.send(());
        })?;
        Ok(Self {
            collected,
            keep,
            done,
        })
    }

    fn finish(self) -> Collected {
        let _ = self.done.recv_timeout(DRAIN_LIMIT);
        let mut collected =
            std::mem::take(&mut *self.collected.lock().unwrap_or_else(PoisonError::into_inner));
        if let Keep::Tail(limit) = self.keep {
            collected.cut_to(limit);
        }
        collected
    }
}
