//! Whatever ends a turn, nothing of its tree is left. Every test starts real processes, sees them in `/proc` by a
//! mark of its own (not the one that the code under test goes by), ends the turn in one way, and sees `/proc` empty
//! of them.
#![allow(clippy::disallowed_methods, reason = "tests make their own files")]
#![allow(clippy::unwrap_used, reason = "a test fails so")]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::environment::Environment;
use crate::process::{
    Containment, Exit, GuardSpec, Guarded, Liveness, ProcessError, Sink, current, identity_of, is_alive,
    run_to_end, sweep_marked,
};
use kugetsu_testing::kugetsu_binary;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_mins(1);
const LONG: Duration = Duration::from_hours(1);
/// Tells a re-executed test that it is the supervisor, and of which world: `mark turn`.
const ROLE: &str = "KUGETSU_TEST_ROLE";

/// A mark that every process of one test carries, and the turn they are of.
struct World {
    mark: String,
    turn: Uuid,
}

impl World {
    fn new() -> Self {
        // Digits only, so that `sleep` takes it as a fraction of a second.
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
            containment: Containment {
                guard_program: kugetsu_binary(),
                environment: Environment::new(std::env::vars_os(), "/".into(), kugetsu_binary()),
                mark: self.turn,
                grace: LONG,
            },
            stdout: Sink::Piped,
            stderr: Sink::Null,
        }
    }

    /// `SLEEP` sleeps for long and carries the mark in its arguments, so it is seen also without an environment.
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
        // In the middle of an `execve` a process cannot be seen to be one of ours.
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

/// Whatever a failed test leaves must not stay.
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

/// Reads stdout until the program says that it is ready.
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

/// A tree that no process group holds: children in sessions of their own, orphans, one deaf to SIGTERM, one
/// without an environment, and one that is stopped. Six processes carry the mark, with the shell itself.
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

#[tokio::test]
async fn an_exit_status_comes_through_and_so_does_the_output() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("echo out; exit 7")).await.unwrap();
    let mut out = String::new();
    guarded
        .stdout
        .as_mut()
        .unwrap()
        .read_to_string(&mut out)
        .await
        .unwrap();
    assert_eq!(out, "out\n");
    assert_eq!(wait(&mut guarded).await, Exit::Code(7));
    assert_eq!(wait(&mut guarded).await, Exit::Code(7), "asked again");
    assert!(guarded.left().is_empty());
}

#[tokio::test]
async fn a_signal_is_told_from_an_exit_status_of_the_same_number() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("kill -USR1 $$")).await.unwrap();
    assert_eq!(wait(&mut guarded).await, Exit::Signal(10));
    let mut guarded = Guarded::spawn(world.spec("exit 138")).await.unwrap();
    assert_eq!(wait(&mut guarded).await, Exit::Code(138));
}

#[tokio::test]
async fn what_the_program_leaves_behind_dies_when_it_exits() {
    let world = World::new();
    let mut spec = world.spec(&wild("echo ready; read go; exit 3"));
    spec.stdin = b"go\n".to_vec().into();
    // The program ends by itself as soon as everything of it runs.
    spec.args[1] = world
        .script(&wild("while ! test -e \"$GO\"; do :; done; exit 3"))
        .into();
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    spec.set_env.push(("GO".into(), go.clone().into()));
    let mut guarded = Guarded::spawn(spec).await.unwrap();
    world.until_found(WILD_COUNT + 1);
    std::fs::write(go, "").unwrap();
    assert_eq!(wait(&mut guarded).await, Exit::Code(3));
    world.nothing_left();
}

#[tokio::test]
async fn a_request_to_end_is_obeyed_within_the_grace_period() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("trap 'exit 5' TERM; SLEEP & echo ready; wait; wait"))
        .await
        .unwrap();
    ready(&mut guarded).await;
    guarded.terminate().await;
    assert_eq!(wait(&mut guarded).await, Exit::Code(5));
    world.nothing_left();
}

#[tokio::test]
async fn a_program_deaf_to_sigterm_is_killed_after_the_grace_period() {
    let world = World::new();
    let mut spec = world.spec(&wild("trap '' TERM; echo ready; SLEEP; SLEEP; SLEEP"));
    spec.containment.grace = Duration::from_millis(100);
    let mut guarded = Guarded::spawn(spec).await.unwrap();
    ready(&mut guarded).await;
    world.until_found(WILD_COUNT + 2);
    guarded.terminate().await;
    assert_eq!(wait(&mut guarded).await, Exit::Signal(9));
    world.nothing_left();
}

#[tokio::test]
async fn a_kill_takes_the_whole_tree() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec(&wild("SLEEP"))).await.unwrap();
    world.until_found(WILD_COUNT + 1);
    guarded.kill().await;
    assert_eq!(wait(&mut guarded).await, Exit::Signal(9));
    world.nothing_left();
}

#[tokio::test]
async fn a_kill_overtakes_a_long_grace_period() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("trap '' TERM; echo ready; SLEEP; SLEEP; SLEEP"))
        .await
        .unwrap();
    ready(&mut guarded).await;
    guarded.terminate().await;
    guarded.kill().await;
    assert_eq!(wait(&mut guarded).await, Exit::Signal(9));
    world.nothing_left();
}

#[tokio::test]
async fn dropping_it_ends_the_tree() {
    let world = World::new();
    let guarded = Guarded::spawn(world.spec(&wild("trap '' TERM; SLEEP; SLEEP")))
        .await
        .unwrap();
    world.until_found(WILD_COUNT + 1);
    drop(guarded);
    world.until_nothing_left();
}

#[tokio::test]
async fn a_stopped_program_is_ended_by_a_request_and_by_a_kill() {
    for kill in [false, true] {
        let world = World::new();
        let mut guarded = Guarded::spawn(world.spec("SLEEP & echo ready; kill -STOP $$; wait"))
            .await
            .unwrap();
        ready(&mut guarded).await;
        until("it is stopped", || stat(guarded.pid())[0] == "T");
        if kill {
            guarded.kill().await;
            assert_eq!(wait(&mut guarded).await, Exit::Signal(9));
        } else {
            guarded.terminate().await;
            assert_eq!(wait(&mut guarded).await, Exit::Signal(15));
        }
        world.nothing_left();
    }
}

#[tokio::test]
async fn a_stopped_guard_still_takes_a_kill() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("SLEEP")).await.unwrap();
    world.until_found(1);
    send(guarded.guard_pid(), Signal::STOP);
    until("the guard is stopped", || stat(guarded.guard_pid())[0] == "T");
    guarded.kill().await;
    assert_eq!(wait(&mut guarded).await, Exit::Signal(9));
    world.nothing_left();
}

#[tokio::test]
async fn a_killed_guard_is_noticed_and_its_tree_is_swept() {
    for signal in [Signal::KILL, Signal::TERM] {
        let world = World::new();
        // Without an environment and without a parent the sweep could not know a process: none of that here.
        let script = "setsid SLEEP & (setsid sh -c 'trap \"\" TERM; SLEEP; SLEEP' &) ; echo ready; SLEEP";
        let mut guarded = Guarded::spawn(world.spec(script)).await.unwrap();
        ready(&mut guarded).await;
        world.until_found(5);
        send(guarded.guard_pid(), signal);
        assert_eq!(wait(&mut guarded).await, Exit::GuardLost);
        world.nothing_left();
    }
}

#[tokio::test]
async fn a_program_that_signals_its_own_group_does_not_hit_the_guard() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("(setsid SLEEP &); kill -KILL 0"))
        .await
        .unwrap();
    assert_eq!(wait(&mut guarded).await, Exit::Signal(9));
    world.nothing_left();
}

#[tokio::test]
async fn the_program_has_neither_our_session_nor_the_guards_group() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("SLEEP")).await.unwrap();
    let (ours, guard, program) = (
        stat(std::process::id()),
        stat(guarded.guard_pid()),
        stat(guarded.pid()),
    );
    assert_eq!(
        guard[3],
        guarded.guard_pid().to_string(),
        "the guard leads a session of its own"
    );
    assert_ne!(program[3], ours[3], "session");
    assert_ne!(program[2], guard[2], "group");
    assert_eq!(program[4], "0", "no terminal");
    guarded.kill().await;
    wait(&mut guarded).await;
}

#[tokio::test]
async fn a_prompt_that_is_never_read_keeps_nobody_waiting() {
    for kill in [false, true] {
        let world = World::new();
        let mut spec = world.spec("echo ready; SLEEP");
        spec.stdin = vec![b'x'; 10 << 20].into();
        let mut guarded = Guarded::spawn(spec).await.unwrap();
        ready(&mut guarded).await;
        world.until_found(2);
        if kill {
            guarded.kill().await;
        } else {
            guarded.terminate().await;
        }
        let exit = wait(&mut guarded).await;
        assert_eq!(exit, Exit::Signal(if kill { 9 } else { 15 }));
        world.nothing_left();
    }
}

#[tokio::test]
async fn a_prompt_arrives_byte_for_byte_and_ends() {
    let world = World::new();
    let prompt: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let mut spec = world.spec("");
    (spec.program, spec.args) = ("cat".into(), Vec::new());
    spec.stdin = prompt.clone().into();
    let mut guarded = Guarded::spawn(spec).await.unwrap();
    let mut out = Vec::new();
    guarded
        .stdout
        .as_mut()
        .unwrap()
        .read_to_end(&mut out)
        .await
        .unwrap();
    assert!(out == prompt, "{} bytes came back of {}", out.len(), prompt.len());
    assert_eq!(wait(&mut guarded).await, Exit::Code(0));
}

#[tokio::test]
async fn what_forks_in_a_loop_is_caught() {
    let sweepers = [
        // One parent, ever more orphans.
        "echo ready; while :; do (setsid sleep 1000 &); done",
        // No process lives long: each starts the next and ends; in one group, and each in a session of its own.
        r#"export B='exec sh -c "$C"' C='sh -c "$B" &'; sh -c "$B" & echo ready; SLEEP"#,
        r#"export C='setsid sh -c "$C" &'; sh -c "$C" & echo ready; SLEEP"#,
        r#"export C='setsid sh -c "$C" &'; for n in 1 2 3 4 5 6 7 8; do sh -c "$C" & done; echo ready; SLEEP"#,
    ];
    for script in sweepers {
        let world = World::new();
        let mut guarded = Guarded::spawn(world.spec(script)).await.unwrap();
        ready(&mut guarded).await;
        world.until_found(2);
        guarded.kill().await;
        assert_eq!(wait(&mut guarded).await, Exit::Signal(9), "{script}");
        assert_eq!(guarded.left(), [] as [u32; 0], "{script}");
        world.nothing_left();
    }
}

#[tokio::test]
async fn waiting_can_be_given_up_and_taken_up_again() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("echo ready; SLEEP")).await.unwrap();
    for _ in 0..20 {
        let given_up = tokio::time::timeout(Duration::from_millis(1), guarded.wait()).await;
        assert!(given_up.is_err());
    }
    guarded.terminate().await;
    let exit = loop {
        if let Ok(exit) = tokio::time::timeout(Duration::from_micros(100), guarded.wait()).await {
            break exit;
        }
    };
    assert_eq!(exit, Exit::Signal(15));
    world.nothing_left();
}

#[tokio::test]
async fn the_environment_is_the_one_asked_for_and_secrets_are_in_no_argument_list() {
    let world = World::new();
    let secret = Uuid::new_v4().to_string();
    let odd = OsString::from_vec(b"a\xff\nb".to_vec());
    let mut spec = world.spec(
        "printf '%s,%s,%s,%s,' \"$SECRET\" \"${GONE-unset}\" \"$KUGETSU_TURN\" \"$ODD\"; echo ready; SLEEP",
    );
    spec.set_env.push(("SECRET".into(), secret.clone().into()));
    spec.set_env.push(("GONE".into(), "here".into()));
    spec.set_env.push(("ODD".into(), odd));
    spec.remove_env.push("GONE".into());
    let mut guarded = Guarded::spawn(spec).await.unwrap();
    let expected = [
        secret.as_bytes(),
        b",unset,",
        world.turn.to_string().as_bytes(),
        b",a\xff\nb,",
    ]
    .concat();
    let mut out = vec![0; expected.len()];
    guarded
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut out)
        .await
        .unwrap();
    assert_eq!(out, expected);
    for pid in [guarded.pid(), guarded.guard_pid()] {
        assert!(!cmdline(pid).contains(&secret));
    }
    let guard_environment = std::fs::read(format!("/proc/{}/environ", guarded.guard_pid())).unwrap();
    assert!(!String::from_utf8_lossy(&guard_environment).contains(&secret));
    guarded.kill().await;
    wait(&mut guarded).await;
}

#[tokio::test]
async fn a_guard_does_not_show_under_the_names_that_people_kill() {
    let world = World::new();
    let mut guarded = Guarded::spawn(world.spec("SLEEP")).await.unwrap();
    let name = std::fs::read_to_string(format!("/proc/{}/comm", guarded.guard_pid())).unwrap();
    for shown in [name, cmdline(guarded.guard_pid())] {
        assert!(
            !shown.contains("kugetsu") && !shown.contains("opencode"),
            "{shown}"
        );
    }
    guarded.kill().await;
    wait(&mut guarded).await;
}

#[tokio::test]
async fn what_cannot_be_started_is_an_error_that_says_why() {
    let world = World::new();
    let mut spec = world.spec("");
    spec.program = "/nowhere/opencode".into();
    let Err(error) = Guarded::spawn(spec).await else {
        panic!("started")
    };
    assert!(
        matches!(error, ProcessError::Start { not_found: true, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("/nowhere/opencode"), "{error}");

    let mut spec = world.spec("");
    spec.cwd = "/nowhere".into();
    let Err(error) = Guarded::spawn(spec).await else {
        panic!("started")
    };
    assert!(
        matches!(error, ProcessError::Start { not_found: true, .. }),
        "{error}"
    );

    let mut spec = world.spec("");
    spec.program = std::env::temp_dir();
    let Err(error) = Guarded::spawn(spec).await else {
        panic!("started")
    };
    assert!(
        matches!(error, ProcessError::Start { not_found: false, .. }),
        "{error}"
    );

    let mut spec = world.spec("");
    spec.containment.guard_program = "/nowhere/kugetsu".into();
    let Err(error) = Guarded::spawn(spec).await else {
        panic!("started")
    };
    assert!(matches!(error, ProcessError::Guard { .. }), "{error}");

    let mut spec = world.spec("");
    spec.containment.guard_program = "/bin/true".into();
    let Err(error) = Guarded::spawn(spec).await else {
        panic!("started")
    };
    assert!(matches!(error, ProcessError::GuardEnded { .. }), "{error}");
}

/// Runs this very test again as another process, `mark` and `turn` in its environment, and gives it and the line
/// that it prints.
fn as_supervisor(test: &str, world: &World, set_env: &[(&str, String)]) -> (std::process::Child, String) {
    let mut supervisor = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROLE, format!("{} {}", world.mark, world.turn))
        .envs(set_env.iter().map(|(name, value)| (name, value)))
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(supervisor.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("said:") {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "the supervisor speaks");
    }
    // It goes on writing, and must be able to.
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    (supervisor, line["said:".len()..].trim_end().to_owned())
}

/// The world that this process is the supervisor of, if it is one.
fn role() -> Option<std::mem::ManuallyDrop<World>> {
    let role = std::env::var(ROLE).ok()?;
    let (mark, turn) = role.split_once(' ')?;
    // The test that started us cleans up.
    Some(std::mem::ManuallyDrop::new(World {
        mark: mark.into(),
        turn: turn.parse().unwrap(),
    }))
}

fn say(what: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\nsaid:{what}").unwrap();
    out.flush().unwrap();
}

/// Supervises until it is killed.
fn supervise(world: &World, script: &str) -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut guarded = Guarded::spawn(world.spec(script)).await.unwrap();
        say(&format!("{} {}", guarded.guard_pid(), guarded.pid()));
        guarded.wait().await;
        panic!("the turn ended by itself");
    })
}

/// The guard's and the program's process id, as the supervisor said them.
fn pids(said: &str) -> (u32, u32) {
    let (guard, program) = said.split_once(' ').unwrap();
    (guard.parse().unwrap(), program.parse().unwrap())
}

#[test]
fn a_supervisor_killed_by_sigkill_leaves_nothing() {
    if let Some(world) = role() {
        supervise(&world, &wild("trap '' TERM; SLEEP; SLEEP"));
    }
    let world = World::new();
    let (mut supervisor, said) = as_supervisor(
        "process::tests::a_supervisor_killed_by_sigkill_leaves_nothing",
        &world,
        &[],
    );
    let guard = identity_of(pids(&said).0).unwrap();
    // The supervisor itself carries the mark in its environment.
    world.until_found(WILD_COUNT + 2);
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    world.until_nothing_left();
    until("the guard is gone", || is_alive(&guard) == Liveness::Dead);
}

/// When a process group loses its last tie to its session while a member is stopped, the kernel sends SIGHUP to it.
/// A guard in the program's group, or in the supervisor's session, would die of that and leave the tree.
#[test]
fn a_supervisor_killed_while_the_program_is_stopped_leaves_nothing() {
    if let Some(world) = role() {
        supervise(
            &world,
            "trap '' TERM HUP; (trap '' HUP; setsid SLEEP &); kill -STOP $$; SLEEP; SLEEP",
        );
    }
    let world = World::new();
    let (mut supervisor, said) = as_supervisor(
        "process::tests::a_supervisor_killed_while_the_program_is_stopped_leaves_nothing",
        &world,
        &[],
    );
    let (_, program) = pids(&said);
    world.until_found(3);
    until("the program is stopped", || stat(program)[0] == "T");
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    world.until_nothing_left();
}

#[test]
fn a_supervisor_and_a_guard_killed_together_leave_what_a_later_sweep_ends() {
    if let Some(world) = role() {
        supervise(
            &world,
            // A shell may execute its last command in its own place; this one has another to come.
            "setsid SLEEP & (setsid sh -c 'trap \"\" TERM; SLEEP; SLEEP' &) ; SLEEP; :",
        );
    }
    let world = World::new();
    let name = "process::tests::a_supervisor_and_a_guard_killed_together_leave_what_a_later_sweep_ends";
    let (mut supervisor, said) = as_supervisor(name, &world, &[]);
    // A shell that still forks has more processes for a moment than it will have, and one in the middle of an `execve`
    // is not seen: the tree stands when all three of its sleeps are what they are.
    until("the tree stands", || {
        let found = world.found();
        found
            .iter()
            .filter(|pid| cmdline(**pid).starts_with("sleep "))
            .count()
            == 3
    });
    // A guard that is stopped cannot act on its supervisor's death before its own.
    send(pids(&said).0, Signal::STOP);
    until("the guard is stopped", || stat(pids(&said).0)[0] == "T");
    supervisor.kill().unwrap();
    send(pids(&said).0, Signal::KILL);
    supervisor.wait().unwrap();
    until("both are gone", || identity_of(pids(&said).0).is_none());
    assert_eq!(sweep_marked(Uuid::now_v7()).unwrap(), 0, "another turn's");
    let left: Vec<_> = world.found().iter().map(|pid| cmdline(*pid)).collect();
    assert_eq!(left.len(), 5, "the tree lives on without a guard: {left:?}");
    assert_eq!(sweep_marked(world.turn).unwrap(), 5);
    world.nothing_left();
    assert_eq!(sweep_marked(world.turn).unwrap(), 0);
}

/// A process that cleared its environment and whose parent is gone: neither the mark nor ancestry leads to it.
#[test]
fn what_no_sweep_could_find_dies_with_its_cgroup() {
    const NAME: &str = "process::tests::what_no_sweep_could_find_dies_with_its_cgroup";
    if let Some(world) = role() {
        supervise(&world, "(setsid env -i sleep 987654 &) ; SLEEP");
    }
    let world = World::new();
    let (mut supervisor, said) = as_supervisor(NAME, &world, &[]);
    let cgroup = || {
        let found = Command::new("find")
            .args(["/sys/fs/cgroup", "-type", "d", "-name"])
            .arg(format!("kugetsu-{}-*", world.turn))
            .output()
            .unwrap();
        String::from_utf8(found.stdout).unwrap().trim().to_owned()
    };
    let (guard, program) = pids(&said);
    let folder = cgroup();
    if folder.is_empty() {
        let own = std::fs::read_to_string(format!("/proc/{program}/cgroup")).unwrap();
        let made = Command::new("sh")
            .args([
                "-c",
                "own=$(sed -n s/^0:://p /proc/self/cgroup); \
            mount=$(awk '/ - cgroup2 /{print $5; exit}' /proc/self/mountinfo); \
            mkdir \"$mount$own/kugetsu-probe\" && rmdir \"$mount$own/kugetsu-probe\"",
            ])
            .output()
            .unwrap();
        assert!(
            !made.status.success(),
            "a cgroup could have been made here: {made:?}"
        );
        // An ordinary login: a turn goes without. As root and below `systemd-run --user` there is one.
        assert!(!own.contains("kugetsu-"), "{own}");
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
        return world.until_nothing_left();
    }
    let inside = || std::fs::read_to_string(format!("{folder}/cgroup.procs")).unwrap_or_default();
    let lonely = || {
        let inside = inside();
        let mut pids = inside.lines().map(|pid| pid.parse().unwrap());
        pids.find(|pid| cmdline(*pid).contains("987654") && stat(*pid)[1] == guard.to_string())
    };
    until("it has lost its parent", || lonely().is_some());
    assert!(
        !inside().lines().any(|pid| pid == guard.to_string()),
        "the guard came out"
    );
    send(guard, Signal::STOP);
    until("the guard is stopped", || stat(guard)[0] == "T");
    supervisor.kill().unwrap();
    send(guard, Signal::KILL);
    supervisor.wait().unwrap();
    until("both are gone", || identity_of(guard).is_none());
    sweep_marked(world.turn).unwrap();
    world.nothing_left();
    assert_eq!((inside(), cgroup()), (String::new(), String::new()));
}

#[test]
fn a_sweep_of_all_spares_who_asks_for_it_even_when_marked() {
    if let Some(world) = role() {
        say(&format!("swept {}", sweep_marked(world.turn).unwrap()));
        return;
    }
    let world = World::new();
    let mark = [
        ("KUGETSU_TURN", world.turn.to_string()),
        ("TEST_MARK", world.mark.clone()),
    ];
    let mut beside = Command::new("sleep")
        .arg("1000")
        .envs(mark.clone())
        .spawn()
        .unwrap();
    let (mut sweeper, said) = as_supervisor(
        "process::tests::a_sweep_of_all_spares_who_asks_for_it_even_when_marked",
        &world,
        &mark,
    );
    assert_eq!(said, "swept 1");
    assert!(sweeper.wait().unwrap().success());
    assert_eq!(beside.wait().unwrap().signal(), Some(9));
}

/// In the middle of an `execve` a process has neither arguments nor an environment: it looks like one without a mark.
#[test]
fn what_executes_itself_again_and_again_is_found_by_the_sweep() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("again");
    std::fs::write(&script, "exec /bin/sh \"$0\"\n").unwrap();
    for round in 0..200 {
        let world = World::new();
        let mut restless = Command::new("/bin/sh")
            .arg(&script)
            .env("KUGETSU_TURN", world.turn.to_string())
            .env("TEST_MARK", &world.mark)
            .spawn()
            .unwrap();
        // `spawn` returns a moment before the child has a memory of its own, and with it an environment.
        world.until_found(1);
        assert_eq!(sweep_marked(world.turn).unwrap(), 1, "round {round}");
        assert_eq!(restless.wait().unwrap().signal(), Some(9));
    }
}

#[test]
fn a_mark_behind_a_long_environment_is_found_by_the_sweep() {
    let world = World::new();
    let mut sleep = Command::new("/bin/sleep")
        .arg(format!("1000000.{}", world.mark))
        .env_clear()
        .env("A_LONG_ONE", "x".repeat(100_000))
        .env("KUGETSU_TURN", world.turn.to_string())
        .spawn()
        .unwrap();
    until("it sleeps", || cmdline(sleep.id()).starts_with("/bin/sleep"));
    assert_eq!(sweep_marked(world.turn).unwrap(), 1);
    assert_eq!(sleep.wait().unwrap().signal(), Some(9));
}

/// The header that [`GuardSpec`] makes, by hand: for a guard without our supervisor.
fn header(world: &World, script: &str, stdin_len: usize) -> String {
    let os = |text: &str| format!("{{\"Unix\":{:?}}}", text.as_bytes());
    let mark = os(&world.mark);
    let (sh, c, script, cwd, name) = (
        os("/bin/sh"),
        os("-c"),
        os(&world.script(script)),
        os("/"),
        os("TEST_MARK"),
    );
    format!(
        "{{\"program\":{sh},\"args\":[{c},{script}],\"cwd\":{cwd},\"set_env\":[[{name},{mark}]],\"remove_env\":[],\
         \"stdin_len\":{stdin_len},\"grace_ms\":3600000,\"turn\":\"{}\"}}\n",
        world.turn
    )
}

fn bare_guard() -> std::process::Child {
    Command::new(kugetsu_binary())
        .arg("guard")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn the_guards_exit_code_alone_says_how_the_program_ended() {
    for (script, code) in [("exit 7", 7), ("kill -KILL $$", 137)] {
        let world = World::new();
        let mut guard = bare_guard();
        let mut control = guard.stdin.take().unwrap();
        control.write_all(header(&world, script, 0).as_bytes()).unwrap();
        assert_eq!(guard.wait().unwrap().code(), Some(code), "{script}");
    }
}

#[test]
fn the_end_of_a_plain_pipe_ends_the_tree_too() {
    let world = World::new();
    let mut guard = bare_guard();
    let mut control = guard.stdin.take().unwrap();
    control
        .write_all(header(&world, &wild("SLEEP"), 0).as_bytes())
        .unwrap();
    world.until_found(WILD_COUNT + 1);
    drop(control);
    assert_eq!(guard.wait().unwrap().code(), Some(128 + 15));
    world.nothing_left();
}

#[test]
fn a_guard_that_is_told_nonsense_or_half_a_prompt_starts_nothing() {
    let world = World::new();
    let half = header(&world, "SLEEP", 1000);
    for input in [
        &b""[..],
        b"\n",
        b"{}\n",
        b"\xff\xfe\x00",
        half.as_bytes(),
        &half.as_bytes()[..40],
    ] {
        let mut guard = bare_guard();
        guard.stdin.take().unwrap().write_all(input).unwrap();
        assert_eq!(
            guard.wait().unwrap().code(),
            Some(125),
            "{:?}",
            String::from_utf8_lossy(input)
        );
        world.nothing_left();
    }
}

#[test]
fn a_short_command_gives_its_output() {
    let world = World::new();
    let mut spec = world.spec("cat; echo wrong >&2; head -c 5000000 /dev/zero; exit 4");
    spec.stdin = b"prompt".to_vec().into();
    spec.stderr = Sink::Piped;
    let output = run_to_end(spec, LONG).unwrap();
    assert_eq!(output.exit, Exit::Code(4));
    assert_eq!(output.stdout.len(), 5_000_006);
    assert_eq!(&output.stdout[..6], b"prompt");
    assert_eq!(output.stderr, b"wrong\n");
    assert!(output.left.is_empty());
}

#[test]
fn a_short_command_can_write_to_a_file() {
    let world = World::new();
    let mut spec = world.spec("echo out");
    let mut file = tempfile::tempfile().unwrap();
    spec.stdout = Sink::File(file.try_clone().unwrap());
    assert!(run_to_end(spec, LONG).unwrap().stdout.is_empty());
    let mut out = String::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_string(&mut out).unwrap();
    assert_eq!(out, "out\n");
}

#[test]
fn a_short_command_that_takes_too_long_is_killed_with_all_it_started() {
    let world = World::new();
    let mut spec = world.spec(&wild("trap '' TERM; echo the reason >&2; SLEEP; SLEEP; SLEEP"));
    spec.containment.grace = Duration::from_millis(50);
    spec.stderr = Sink::Piped;
    let error = run_to_end(spec, Duration::from_millis(500)).unwrap_err();
    assert!(matches!(error, ProcessError::Deadline { .. }), "{error}");
    assert!(error.to_string().contains("the reason"), "{error}");
    world.nothing_left();
}

#[test]
fn a_short_command_that_cannot_be_started_says_why() {
    let world = World::new();
    let mut spec = world.spec("");
    spec.program = "/nowhere/opencode".into();
    let error = run_to_end(spec, LONG).unwrap_err();
    assert!(
        matches!(error, ProcessError::Start { not_found: true, .. }),
        "{error}"
    );
    let mut spec = world.spec("");
    spec.containment.guard_program = "/bin/true".into();
    let error = run_to_end(spec, LONG).unwrap_err();
    assert!(matches!(error, ProcessError::GuardEnded { .. }), "{error}");
}

#[test]
fn a_short_command_whose_guard_is_killed_is_swept() {
    let world = World::new();
    // The guard is the parent of the shell.
    let spec = world.spec("(setsid SLEEP &); kill -KILL $PPID; SLEEP");
    match run_to_end(spec, LONG) {
        Ok(output) => assert_eq!(output.exit, Exit::GuardLost),
        // It was killed before it could say that the program runs.
        Err(error) => assert!(matches!(error, ProcessError::GuardEnded { .. }), "{error}"),
    }
    world.nothing_left();
}

#[test]
fn an_identity_is_of_one_process_of_one_boot_of_one_host() {
    let own = current();
    assert_eq!(identity_of(own.pid), Some(own.clone()));
    assert_eq!(is_alive(&own), Liveness::Alive);
    let mut other = own.clone();
    other.start_ticks += 1;
    assert_eq!(is_alive(&other), Liveness::Dead, "the number was reused");
    let mut other = own.clone();
    other.boot_id = Uuid::new_v4().to_string();
    assert_eq!(is_alive(&other), Liveness::Dead, "another boot");
    let mut other = own.clone();
    other.host.push('x');
    assert_eq!(is_alive(&other), Liveness::Unknown, "another host");
    assert_eq!(identity_of(u32::MAX), None);
}

#[test]
fn a_stopped_process_is_alive_and_a_zombie_is_dead() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let identity = identity_of(child.id()).unwrap();
    send(child.id(), Signal::STOP);
    until("it is stopped", || stat(child.id())[0] == "T");
    assert_eq!(is_alive(&identity), Liveness::Alive);
    send(child.id(), Signal::KILL);
    until("it is a zombie", || stat(child.id())[0] == "Z");
    assert!(Path::new(&format!("/proc/{}", child.id())).exists());
    assert_eq!(is_alive(&identity), Liveness::Dead);
    assert_eq!(identity_of(child.id()), None);
    child.wait().unwrap();
    assert_eq!(is_alive(&identity), Liveness::Dead);
}
