//! The guard: the process between kugetsu and opencode that exits only when the process tree below it is gone.
//!
//! The guard is a child subreaper: any process below it that loses its parent becomes the guard's own child, and the
//! guard waits for all its children. When the kernel reports that there is no child left (`ECHILD`), nothing is left of
//! the tree, so that conclusion does not depend on a walk over `/proc`. The guard reads `/proc` only to decide which
//! processes to signal.
//!
//! The guard starts a session of its own, for three reasons. The terminal's Ctrl-C and hang-up do not reach the guard
//! or opencode, because kugetsu decides what they mean. opencode and its tools have no terminal to wait on, so git's
//! password prompt fails instead of hanging. If kugetsu dies while opencode is stopped, the kernel does not send SIGHUP
//! to the guard. opencode in turn gets its own process group, so that `kill 0` in opencode does not hit the guard.
//!
//! The guard handles no signals. SIGTERM or SIGINT ends the guard, and its supervisor then sweeps exactly as after
//! SIGKILL, which no process can handle. (Like every Rust program, the guard ignores SIGPIPE.)
//!
//! The guard has no async runtime and parses no command line, so it starts within a few milliseconds.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus};

use super::cgroup::Cgroup;
use super::launch::GUARD_NAME;
use super::sandbox::Outside;
use super::wire::{GUARD_FAILED, Header, KILL, LEFT_BEHIND, Report, TERMINATE};
use super::{TURN_ENV, tree};

/// How long the tree may take to end after the supervisor is gone.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);
/// How long processes that the program left behind may take to end before they are killed.
const SETTLE_GRACE: Duration = Duration::from_millis(500);
/// How long the guard keeps killing before it reports what is left.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// The longest pause between two passes of killing.
const KILL_PAUSE: Duration = Duration::from_millis(20);
/// What bubblewrap, like a shell, adds to the number of the signal that ended its program.
const SIGNALLED: i32 = 128;
/// The highest number of a signal.
const LAST_SIGNAL: i32 = 64;
/// The longest header. `OPENCODE_CONFIG_CONTENT` and the like are kilobytes.
const HEADER_LIMIT: u64 = 64 << 20;

/// Runs the hidden `guard` command: reads a header from stdin, runs the program and returns an exit code once nothing
/// of the tree is left.
///
/// The exit code is the program's own, or 128 plus the number of the signal that ended it. (A program may also exit
/// with such a number; the report on the socket distinguishes the two.) It is 125 if the program could not be started,
/// and 124 if some processes could not be killed; stderr then lists them.
pub fn guard_main() -> u8 {
    let mut reports = Reports(std::io::stdin().as_fd().try_clone_to_owned().ok().map(File::from));
    match start() {
        Ok(watch) => {
            reports.send(&Report::Started {
                pid: watch.child,
                port: watch.port,
            });
            let entrance = watch.entrance;
            let (status, left) = watch.run();
            let (code, signal) = match status.and_then(WaitStatus::exit_status) {
                // bubblewrap reports the signal that ended its program as a shell does.
                Some(code) if entrance && (SIGNALLED + 1..=SIGNALLED + LAST_SIGNAL).contains(&code) => {
                    (None, Some(code - SIGNALLED))
                }
                code => (code, status.and_then(WaitStatus::terminating_signal)),
            };
            reports.send(&Report::Ended {
                code,
                signal,
                left: left.clone(),
            });
            if !left.is_empty() {
                complain(&format!(
                    "kugetsu guard: these processes could not be killed: {left:?}"
                ));
                return LEFT_BEHIND;
            }
            let code = code
                .or(signal.map(|signal| 128 + signal))
                .unwrap_or(i32::from(LEFT_BEHIND));
            u8::try_from(code).unwrap_or(LEFT_BEHIND)
        }
        Err(error) => {
            let not_found = error.kind() == std::io::ErrorKind::NotFound;
            reports.send(&Report::Failed {
                reason: super::room::cause(&error),
                not_found,
            });
            GUARD_FAILED
        }
    }
}

enum Event {
    Terminate,
    Kill,
    Closed,
    Reaped(i32, WaitStatus),
    /// The guard has no child left, so the program has no descendant left.
    Empty,
}

/// The current stage of the tree's life, with the deadlines that belong to it.
enum Phase {
    Running,
    /// The program has received a request to end.
    Terminating {
        until: Instant,
    },
    /// The program has ended, and the processes that it left behind have received a request to end.
    Settling {
        until: Instant,
    },
    Killing {
        until: Instant,
        next: Instant,
        passes: u32,
    },
}

struct Watch {
    child: u32,
    /// Where a sandboxed program's server is reached.
    port: Option<u16>,
    /// Whether `child` is not the program but the entrance of its sandbox, which runs two levels above the program.
    entrance: bool,
    /// Present if a cgroup could be created and this process is not in it.
    cgroup: Option<Cgroup>,
    grace: Duration,
    status: Option<WaitStatus>,
    phase: Phase,
    events: Receiver<Event>,
}

fn start() -> std::io::Result<Watch> {
    rename();
    // `setsid` fails only for the leader of a process group, which the guard is when a person starts it from a shell.
    let _ = rustix::process::setsid();
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;

    let mut control = BufReader::new(File::from(std::io::stdin().as_fd().try_clone_to_owned()?));
    let mut line = Vec::new();
    control.by_ref().take(HEADER_LIMIT).read_until(b'\n', &mut line)?;
    let header: Header = serde_json::from_slice(&line)?;
    drop(line);
    let mut input = vec![0; usize::try_from(header.stdin_len).map_err(std::io::Error::other)?];
    control.read_exact(&mut input)?;

    if let Some(limits) = &header.limits {
        limits.apply()?;
    }
    let limits = header
        .sandbox
        .as_ref()
        .map(|sandbox| sandbox.limits)
        .unwrap_or_default();
    let (mut command, outside) = match header.sandbox {
        Some(sandbox) => {
            let (command, outside) = Outside::prepare(sandbox, header.cwd.as_ref())?;
            (command, Some(outside))
        }
        None => {
            let mut command = Command::new(&header.program);
            command.args(&header.args).stdin(if input.is_empty() {
                Stdio::null()
            } else {
                Stdio::piped()
            });
            (command, None)
        }
    };
    command
        .current_dir(&header.cwd)
        .envs(header.set_env.iter().map(|(name, value)| (name, value)))
        .process_group(0);
    for name in &header.remove_env {
        command.env_remove(name);
    }
    command.env(TURN_ENV, header.turn.to_string());

    // The threads start before the program does, so that it is observed from its first moment and nothing can fail once
    // it runs.
    let (sender, events) = channel();
    let listener = sender.clone();
    thread("listen", move || listen(control, &listener))?;
    // A program that does not read its stdin must not block the guard. This thread ends with the pipe or with the
    // guard.
    let (give_stdin, stdin) = channel::<ChildStdin>();
    let (input, sandboxed_input) = match outside {
        Some(_) => (Vec::new(), input),
        None => (input, Vec::new()),
    };
    thread("feed", move || {
        if let Ok(mut stdin) = stdin.recv() {
            let _ = stdin.write_all(&input);
        }
    })?;
    // The reaper must not wait for any child while `spawn` waits for a child that failed to execute the program.
    let (give_start, started) = channel::<()>();
    thread("reap", move || {
        if started.recv().is_ok() {
            reap(&sender);
        }
    })?;
    let cgroup = header
        .cgroup
        .then(|| Cgroup::create(header.turn, &limits))
        .flatten();
    let (mut child, cgroup) = match cgroup {
        None => (command.spawn()?, None),
        Some(cgroup) => {
            let (spawned, outside) = cgroup.start(|| command.spawn());
            if spawned.is_err() {
                cgroup.remove();
            }
            (spawned?, outside.then_some(cgroup))
        }
    };
    if let Some(stdin) = child.stdin.take() {
        let _ = give_stdin.send(stdin);
    }
    let (mut port, mut entrance) = (None, false);
    if let Some(outside) = outside {
        (port, entrance) = (outside.port(), outside.is_entrance());
        if let Err(error) = outside.begin(header.program, header.args, sandboxed_input) {
            // The entrance ends with this guard.
            if let Some(cgroup) = &cgroup {
                cgroup.kill();
                cgroup.remove();
            }
            return Err(error);
        }
    }
    let _ = give_start.send(());
    Ok(Watch {
        child: child.id(),
        port,
        entrance,
        cgroup,
        grace: Duration::from_millis(header.grace_ms),
        status: None,
        phase: Phase::Running,
        events,
    })
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
}

fn listen(mut control: BufReader<File>, events: &Sender<Event>) {
    let mut byte = [0];
    loop {
        let event = match control.read(&mut byte) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => Event::Closed,
            Ok(_) => match byte[0] {
                TERMINATE => Event::Terminate,
                KILL => Event::Kill,
                _ => continue,
            },
        };
        let last = matches!(event, Event::Closed);
        if events.send(event).is_err() || last {
            return;
        }
    }
}

fn reap(events: &Sender<Event>) {
    loop {
        let event = match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => Event::Reaped(pid.as_raw_pid(), status),
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(_) => Event::Empty,
        };
        let last = matches!(event, Event::Empty);
        if events.send(event).is_err() || last {
            return;
        }
    }
}

impl Watch {
    /// Runs until nothing is left or killing has failed. Returns the program's status and the remaining processes.
    fn run(mut self) -> (Option<WaitStatus>, Vec<u32>) {
        loop {
            match self.next() {
                Some(Event::Empty) => {
                    if let Some(cgroup) = &self.cgroup {
                        cgroup.remove();
                    }
                    return (self.status, Vec::new());
                }
                Some(Event::Reaped(pid, status)) => self.reaped(pid, status),
                Some(Event::Terminate) => self.terminate(self.grace),
                Some(Event::Closed) => self.terminate(ORPHAN_GRACE),
                Some(Event::Kill) => self.kill(),
                None => {}
            }
            // Checked after every event, so that a flood of events cannot delay it.
            if let Some(left) = self.clock(Instant::now()) {
                return (self.status, left);
            }
        }
    }

    fn next(&self) -> Option<Event> {
        let wake = match self.phase {
            Phase::Running => return self.events.recv().ok(),
            Phase::Terminating { until } | Phase::Settling { until } => until,
            Phase::Killing { next, .. } => next,
        };
        // The reaper sends `Empty` before it exits and the watch ends on that, so no event is lost here: only the
        // timeout ends this wait.
        self.events
            .recv_timeout(wake.saturating_duration_since(Instant::now()))
            .ok()
    }

    fn reaped(&mut self, pid: i32, status: WaitStatus) {
        // After the program has been reaped, a descendant may reuse its process id.
        if u32::try_from(pid) != Ok(self.child) || self.status.is_some() {
            return;
        }
        self.status = Some(status);
        if cfg!(target_os = "linux") && has_no_child() {
            // This process is the subreaper of everything below the program, so nothing is left, and `Empty` follows.
            return;
        }
        if matches!(self.phase, Phase::Running | Phase::Terminating { .. }) {
            for target in tree::below(std::process::id()) {
                tree::signal(&target, Signal::TERM);
                tree::signal(&target, Signal::CONT);
            }
            #[cfg(not(target_os = "linux"))]
            self.signal_group(Signal::KILL);
            self.phase = Phase::Settling {
                until: Instant::now() + SETTLE_GRACE,
            };
        }
    }

    fn terminate(&mut self, grace: Duration) {
        let deadline = Instant::now().checked_add(grace);
        match &mut self.phase {
            Phase::Running => {
                if let Some(target) = self.program() {
                    tree::signal(&target, Signal::TERM);
                    // A stopped process handles SIGTERM only after it continues.
                    tree::signal(&target, Signal::CONT);
                }
                // A grace period beyond the clock's range becomes one day.
                let until = deadline.unwrap_or_else(|| Instant::now() + Duration::from_hours(24));
                self.phase = Phase::Terminating { until };
            }
            Phase::Terminating { until } => *until = deadline.map_or(*until, |deadline| deadline.min(*until)),
            Phase::Settling { .. } | Phase::Killing { .. } => {}
        }
    }

    /// The program. Behind the entrance of a sandbox, it is the oldest child of the entrance's child.
    fn program(&self) -> Option<tree::Target> {
        if !self.entrance {
            return tree::target(self.child);
        }
        let below = tree::below(self.child);
        let init = below.iter().find(|target| target.parent == self.child)?;
        let inside = below.iter().filter(|target| target.parent == init.pid);
        inside.min_by_key(|target| target.start_ticks).cloned()
    }

    fn kill(&mut self) {
        if !matches!(self.phase, Phase::Killing { .. }) {
            let now = Instant::now();
            self.phase = Phase::Killing {
                until: now + KILL_LIMIT,
                next: now,
                passes: 0,
            };
        }
    }

    /// Does whatever is due. Returns the remaining processes when the guard gives up.
    fn clock(&mut self, now: Instant) -> Option<Vec<u32>> {
        match self.phase {
            Phase::Terminating { until } | Phase::Settling { until } if until <= now => self.kill(),
            _ => {}
        }
        let Phase::Killing { until, next, passes } = self.phase else {
            return None;
        };
        if next > now {
            return None;
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        let left: Vec<u32> = tree::end_all(std::process::id())
            .iter()
            .filter(|target| !target.is_dead())
            .map(|target| target.pid)
            .collect();
        if self.status.is_none() {
            self.signal_group(Signal::KILL);
        }
        if now >= until {
            return Some(left);
        }
        let pause = KILL_PAUSE.min(Duration::from_millis(1 << passes.min(8)));
        self.phase = Phase::Killing {
            until,
            next: Instant::now() + pause,
            passes: passes + 1,
        };
        None
    }

    /// Signals the process group that the program started in. The group's number is not reused before the program has
    /// been reaped.
    fn signal_group(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

/// Whether this process has no child, dead ones included. Takes no child's status.
fn has_no_child() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(
        rustix::process::waitid(WaitId::All, options),
        Err(rustix::io::Errno::CHILD)
    )
}

/// The destination of reports. They are dropped if stdin is not a socket or nobody reads it any more.
struct Reports(Option<File>);

impl Reports {
    fn send(&mut self, report: &Report) {
        let (Some(socket), Ok(mut line)) = (&mut self.0, serde_json::to_vec(report)) else {
            return;
        };
        line.push(b'\n');
        let _ = socket.write_all(&line);
    }
}

/// Writes to stderr, because the supervisor may be gone. The line must hold nothing that another program has written.
#[expect(
    clippy::disallowed_methods,
    reason = "a guard is no part of the command line, and only counts"
)]
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Sets the process name that process lists show and `killall` matches.
fn rename() {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{Mode, OFlags};
        if let Ok(comm) = rustix::fs::open("/proc/self/comm", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        {
            let _ = File::from(comm).write_all(GUARD_NAME.as_bytes());
        }
    }
}
