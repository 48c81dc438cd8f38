//! The guard: the process between kugetsu and opencode that does not leave before the tree below it is gone.
//!
//! It is a child subreaper, so whatever loses its parent below it becomes its own child, and it waits for any child.
//! When the kernel says that it has none (`ECHILD`), nothing is left: no walk over `/proc` has to be believed
//! for that. `/proc` is only asked whom to signal.
//!
//! It begins a session of its own. So the terminal's Ctrl-C and hang-up do not reach it or opencode (kugetsu decides
//! what they mean), opencode and its tools have no terminal to wait on (git's password prompt fails instead of
//! hanging), and the death of kugetsu while opencode is stopped does not make the kernel send SIGHUP to the guard.
//! opencode in turn gets a process group of its own, so that `kill 0` in it does not hit the guard.
//!
//! The guard handles no signal: a SIGTERM or SIGINT sent to it ends it, and then its supervisor sweeps, exactly as
//! for SIGKILL, which nobody can handle. One path serves all. (SIGPIPE is ignored, as in every Rust program.)
//!
//! It has no async runtime and parses no command line: it runs within a few milliseconds.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitOptions, WaitStatus};

use super::cgroup::Cgroup;
use super::launch::GUARD_NAME;
use super::wire::{GUARD_FAILED, Header, KILL, LEFT_BEHIND, Report, TERMINATE};
use super::{TURN_ENV, tree};

/// How long the tree may take to end when the supervisor is gone.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);
/// How long what the program leaves behind may take to end before it is killed.
const SETTLE: Duration = Duration::from_millis(500);
/// How long killing is tried before what is left is reported.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// The pause between two passes of killing, at most.
const KILL_PAUSE: Duration = Duration::from_millis(20);
/// The longest header. `OPENCODE_CONFIG_CONTENT` and the like are kilobytes.
const HEADER_LIMIT: u64 = 64 << 20;

/// The whole of the hidden `guard` command: reads what to do from stdin, runs it, and returns the exit code when
/// nothing of the tree is left. The exit code is the program's, or 128 and the number of the signal that ended it
/// (a program may also exit with such a number: the report on the socket tells the two apart), or 125 when the
/// program could not be started, or 124 when processes are left that could not be killed; these are named on stderr.
pub fn guard_main() -> u8 {
    let mut reports = Reports(std::io::stdin().as_fd().try_clone_to_owned().ok().map(File::from));
    match start() {
        Ok(watch) => {
            reports.send(&Report::Started { pid: watch.child });
            let (status, left) = watch.run();
            let (code, signal) = (
                status.and_then(WaitStatus::exit_status),
                status.and_then(WaitStatus::terminating_signal),
            );
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
                reason: error.to_string(),
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
    /// There is no child left, so there is no descendant left.
    Empty,
}

/// What happens next by itself.
enum Phase {
    Running,
    /// The program was asked to end.
    Terminating {
        until: Instant,
    },
    /// The program has ended; what it left behind was asked to end.
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
    /// Where one could be made, and we are not in it ourselves.
    cgroup: Option<Cgroup>,
    grace: Duration,
    status: Option<WaitStatus>,
    phase: Phase,
    events: Receiver<Event>,
}

fn start() -> std::io::Result<Watch> {
    rename();
    // Refused only to the leader of a process group, which we are when a person starts the guard from a shell.
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

    let mut command = Command::new(&header.program);
    command
        .args(&header.args)
        .current_dir(&header.cwd)
        .envs(header.set_env.iter().map(|(name, value)| (name, value)))
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .process_group(0);
    for name in &header.remove_env {
        command.env_remove(name);
    }
    command.env(TURN_ENV, header.turn.to_string());

    // The threads are there before the program is: from its first moment on somebody listens and waits, and
    // nothing can fail once it runs.
    let (sender, events) = channel();
    let listener = sender.clone();
    thread("listen", move || listen(control, &listener))?;
    // A program that does not read must not keep us from listening. This thread ends with the pipe or with us.
    let (give_stdin, stdin) = channel::<ChildStdin>();
    thread("feed", move || {
        if let Ok(mut stdin) = stdin.recv() {
            let _ = stdin.write_all(&input);
        }
    })?;
    // It must not wait for any child while `spawn` waits for one that could not execute the program.
    let (give_start, started) = channel::<()>();
    thread("reap", move || {
        if started.recv().is_ok() {
            reap(&sender);
        }
    })?;
    let (mut child, cgroup) = match Cgroup::make(header.turn) {
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
    let _ = give_start.send(());
    Ok(Watch {
        child: child.id(),
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
    /// Runs until nothing is left, or until killing was of no use; gives the program's status and what is left.
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
            // Looked at after every event, so that a flood of them does not put it off.
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
        // The reaper says `Empty` before it goes, and the watch ends on it: nothing but the time can end this.
        self.events
            .recv_timeout(wake.saturating_duration_since(Instant::now()))
            .ok()
    }

    fn reaped(&mut self, pid: i32, status: WaitStatus) {
        // Once it has been waited for, its number may come back as a descendant's.
        if u32::try_from(pid) != Ok(self.child) || self.status.is_some() {
            return;
        }
        self.status = Some(status);
        if matches!(self.phase, Phase::Running | Phase::Terminating { .. }) {
            for target in tree::below(std::process::id()) {
                tree::signal(&target, Signal::TERM);
                tree::signal(&target, Signal::CONT);
            }
            #[cfg(not(target_os = "linux"))]
            self.signal_group(Signal::KILL);
            self.phase = Phase::Settling {
                until: Instant::now() + SETTLE,
            };
        }
    }

    fn terminate(&mut self, grace: Duration) {
        let asked = Instant::now().checked_add(grace);
        match &mut self.phase {
            Phase::Running => {
                if let Some(target) = tree::target(self.child) {
                    tree::signal(&target, Signal::TERM);
                    // A stopped process takes SIGTERM only when it goes on.
                    tree::signal(&target, Signal::CONT);
                }
                // A grace period beyond the clock's range becomes a day.
                let until = asked.unwrap_or_else(|| Instant::now() + Duration::from_hours(24));
                self.phase = Phase::Terminating { until };
            }
            Phase::Terminating { until } => *until = asked.map_or(*until, |asked| asked.min(*until)),
            Phase::Settling { .. } | Phase::Killing { .. } => {}
        }
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

    /// Does what is due; gives what is left when there is no more to do.
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

    /// Signals the process group that the program began with. Its number is not reused while the program has not
    /// been waited for.
    fn signal_group(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

/// Where reports go; nowhere if stdin is not a socket or nobody listens any more.
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

/// The guard's supervisor may be gone, so stderr is the last place to say this.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Takes the name that process lists show and `killall` goes by.
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
