//! However a turn ends, nothing of its tree is left. Each test starts real processes, finds them in `/proc` by a mark
//! of its own (not the mark that the code under test uses), ends the turn in one way, and checks that `/proc` holds
//! none of them.
#![allow(clippy::disallowed_methods, reason = "tests make their own files")]
#![allow(clippy::unwrap_used, reason = "a test fails so")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::environment::Environment;
use crate::process::{Containment, Exit, GuardSpec, Guarded, Sink};
use kugetsu_testing::kugetsu_binary;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

mod guard;
mod guarded;
mod sandbox;
mod short;
mod supervisor;

const DEADLINE: Duration = Duration::from_mins(1);
const LONG: Duration = Duration::from_hours(1);
/// Makes a re-executed test the supervisor of the given world; the value is `mark turn`.
const ROLE: &str = "KUGETSU_TEST_ROLE";

/// A mark that every process of one test carries, and their turn.
struct World {
    mark: String,
    turn: Uuid,
}

impl World {
    fn new() -> Self {
        // Only digits, so that `sleep` accepts the mark as a fraction of a second.
        Self {
            mark: Uuid::new_v4().as_u128().to_string(),
            turn: Uuid::now_v7(),
        }
    }

    fn spec(&self, script: &str) -> GuardSpec {
        GuardSpec {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), self.script(script).into()],
            cwd: std::env::temp_dir(),
            set_env: vec![("TEST_MARK".into(), self.mark.clone().into())],
            remove_env: Vec::new(),
            stdin: Vec::new().into(),
            sandbox: None,
            containment: Containment {
                guard_program: kugetsu_binary(),
                environment: Environment::new(std::env::vars_os(), "/".into(), kugetsu_binary()),
                mark: self.turn,
                grace: LONG,
                cgroup: true,
                limits: None,
            },
            stdout: Sink::Piped,
            stderr: Sink::Null,
        }
    }

    /// Replaces `SLEEP` with a long sleep that carries the mark in its arguments, so that it is visible without an
    /// environment.
    fn script(&self, script: &str) -> String {
        script.replace("SLEEP", &format!("sleep 1000000.{}", self.mark))
    }

    /// The living processes that carry the mark in their environment or arguments.
    fn found(&self) -> Vec<u32> {
        let holds = |path: PathBuf| {
            std::fs::read(path).is_ok_and(|bytes| {
                bytes
                    .windows(self.mark.len())
                    .any(|part| part == self.mark.as_bytes())
            })
        };
        let role = std::process::id();
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|&pid: &u32| pid != role)
            .filter(|pid| {
                let folder = PathBuf::from(format!("/proc/{pid}"));
                holds(folder.join("environ")) || holds(folder.join("cmdline"))
            })
            .collect()
    }

    fn until_found(&self, count: usize) {
        until(&format!("{count} processes run"), || self.found().len() >= count);
    }

    fn nothing_left(&self) {
        // In the middle of an `execve`, a process shows no mark.
        for _ in 0..3 {
            let found = self.found();
            let names: Vec<_> = found.iter().map(|pid| cmdline(*pid)).collect();
            assert!(found.is_empty(), "left behind: {found:?} {names:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn until_nothing_left(&self) {
        until("nothing is left", || self.found().is_empty());
    }
}

/// Cleans up after a failed test.
impl Drop for World {
    fn drop(&mut self) {
        for pid in self.found() {
            send(pid, Signal::KILL);
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal);
}

fn cmdline(pid: u32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())
        .replace('\0', " ")
}

/// The fields of `/proc/<pid>/stat` from the state on.
fn stat(pid: u32) -> Vec<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

async fn wait(guarded: &mut Guarded) -> Exit {
    tokio::time::timeout(DEADLINE, guarded.wait())
        .await
        .expect("the turn ends")
}

/// Reads stdout until the program reports that it is ready.
async fn ready(guarded: &mut Guarded) {
    let stdout = guarded.stdout.as_mut().unwrap();
    let mut seen = Vec::new();
    let reading = async {
        while !seen.ends_with(b"ready\n") {
            let byte = stdout.read_u8().await.expect("the program says that it is ready");
            seen.push(byte);
        }
    };
    tokio::time::timeout(DEADLINE, reading)
        .await
        .expect("the program gets ready");
}

/// A tree that no process group holds: children in their own sessions, orphans, a child that ignores SIGTERM, one
/// without an environment, and a stopped one. Including the shell, six processes carry the mark.
const WILD: &str = r#"
    setsid SLEEP &
    (setsid sh -c 'trap "" TERM; SLEEP & wait; SLEEP' &)
    (setsid sh -c '(setsid env -i SLEEP &)' &)
    setsid SLEEP & kill -STOP $!
"#;
const WILD_COUNT: usize = 5;

fn wild(then: &str) -> String {
    format!("{WILD}\n{then}")
}
