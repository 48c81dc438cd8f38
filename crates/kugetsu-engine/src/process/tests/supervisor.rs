//! A killed supervisor, and the sweep after it. The test re-executes itself as the supervisor.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use crate::process::{Guarded, Liveness, identity_of, is_alive, sweep_marked};
use rustix::process::Signal;
use uuid::Uuid;

use super::*;

/// Runs this test again as another process with `mark` and `turn` in its environment. Returns the process and the line
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
    while !line.starts_with("reported:") {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "the supervisor reports");
    }
    // The supervisor keeps writing and must not get a broken pipe.
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    (supervisor, line["reported:".len()..].trim_end().to_owned())
}

/// The world that this process supervises, if this process is the supervisor.
fn role() -> Option<std::mem::ManuallyDrop<World>> {
    let role = std::env::var(ROLE).ok()?;
    let (mark, turn) = role.split_once(' ')?;
    // The test that started us cleans up.
    Some(std::mem::ManuallyDrop::new(World {
        mark: mark.into(),
        turn: turn.parse().unwrap(),
    }))
}

fn report(what: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\nreported:{what}").unwrap();
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
        report(&format!("{} {}", guarded.guard_pid(), guarded.pid()));
        guarded.wait().await;
        panic!("the turn ended by itself");
    })
}

/// The process ids of the guard and the program, as the supervisor reported them.
fn pids(reported: &str) -> (u32, u32) {
    let (guard, program) = reported.split_once(' ').unwrap();
    (guard.parse().unwrap(), program.parse().unwrap())
}

#[test]
fn a_supervisor_killed_by_sigkill_leaves_nothing() {
    if let Some(world) = role() {
        supervise(&world, &wild("trap '' TERM; SLEEP; SLEEP"));
    }
    let world = World::new();
    let (mut supervisor, reported) = as_supervisor(
        "process::tests::supervisor::a_supervisor_killed_by_sigkill_leaves_nothing",
        &world,
        &[],
    );
    let guard = identity_of(pids(&reported).0).unwrap();
    // The supervisor itself also carries the mark.
    world.until_found(WILD_COUNT + 2);
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    world.until_nothing_left();
    until("the guard is gone", || is_alive(&guard) == Liveness::Dead);
}

/// When a process group loses its last tie to its session while a member is stopped, the kernel sends SIGHUP to the
/// group. A guard in the program's group, or in the supervisor's session, would die of that and leave the tree.
#[test]
fn a_supervisor_killed_while_the_program_is_stopped_leaves_nothing() {
    if let Some(world) = role() {
        supervise(
            &world,
            "trap '' TERM HUP; (trap '' HUP; setsid SLEEP &); kill -STOP $$; SLEEP; SLEEP",
        );
    }
    let world = World::new();
    let (mut supervisor, reported) = as_supervisor(
        "process::tests::supervisor::a_supervisor_killed_while_the_program_is_stopped_leaves_nothing",
        &world,
        &[],
    );
    let (_, program) = pids(&reported);
    world.until_found(3);
    until("the program is stopped", || stat(program)[0] == "T");
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    world.until_nothing_left();
}

#[test]
fn a_later_sweep_ends_the_tree_of_a_supervisor_and_guard_killed_together() {
    if let Some(world) = role() {
        supervise(
            &world,
            // A shell may execute its last command in its own place, so a command follows the sleep.
            "setsid SLEEP & (setsid sh -c 'trap \"\" TERM; SLEEP; SLEEP' &) ; SLEEP; :",
        );
    }
    let world = World::new();
    let name =
        "process::tests::supervisor::a_later_sweep_ends_the_tree_of_a_supervisor_and_guard_killed_together";
    let (mut supervisor, reported) = as_supervisor(name, &world, &[]);
    // A shell that is still forking briefly has extra processes, and a process in the middle of an `execve` is
    // invisible. The tree is complete when all three sleeps are visible.
    until("the tree stands", || {
        let found = world.found();
        found
            .iter()
            .filter(|pid| cmdline(**pid).starts_with("sleep "))
            .count()
            == 3
    });
    // A stopped guard cannot react to its supervisor's death before its own.
    send(pids(&reported).0, Signal::STOP);
    until("the guard is stopped", || stat(pids(&reported).0)[0] == "T");
    supervisor.kill().unwrap();
    send(pids(&reported).0, Signal::KILL);
    supervisor.wait().unwrap();
    until("both are gone", || identity_of(pids(&reported).0).is_none());
    assert_eq!(sweep_marked(Uuid::now_v7()).unwrap(), 0, "another turn's");
    let left: Vec<_> = world.found().iter().map(|pid| cmdline(*pid)).collect();
    assert_eq!(left.len(), 5, "the tree lives on without a guard: {left:?}");
    assert_eq!(sweep_marked(world.turn).unwrap(), 5);
    world.nothing_left();
    assert_eq!(sweep_marked(world.turn).unwrap(), 0);
}

/// A process that cleared its environment and lost its parent: neither the mark nor ancestry leads to it.
#[test]
fn a_process_that_no_sweep_finds_dies_with_its_cgroup() {
    const NAME: &str = "process::tests::supervisor::a_process_that_no_sweep_finds_dies_with_its_cgroup";
    if let Some(world) = role() {
        supervise(&world, "(setsid env -i sleep 987654 &) ; SLEEP");
    }
    let world = World::new();
    let (mut supervisor, reported) = as_supervisor(NAME, &world, &[]);
    let cgroup = || {
        let found = Command::new("find")
            .args(["/sys/fs/cgroup", "-type", "d", "-name"])
            .arg(format!("kugetsu-{}-*", world.turn))
            .output()
            .unwrap();
        String::from_utf8(found.stdout).unwrap().trim().to_owned()
    };
    let (guard, program) = pids(&reported);
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
        // An ordinary login has no cgroup for a turn. Root and `systemd-run --user` do.
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
fn a_sweep_spares_its_caller_even_when_marked() {
    if let Some(world) = role() {
        report(&format!("swept {}", sweep_marked(world.turn).unwrap()));
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
    let (mut sweeper, reported) = as_supervisor(
        "process::tests::supervisor::a_sweep_spares_its_caller_even_when_marked",
        &world,
        &mark,
    );
    assert_eq!(reported, "swept 1");
    assert!(sweeper.wait().unwrap().success());
    assert_eq!(beside.wait().unwrap().signal(), Some(9));
}

/// In the middle of an `execve`, a process has neither arguments nor an environment and looks unmarked.
#[test]
fn a_process_that_keeps_executing_itself_is_found_by_the_sweep() {
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
        // `spawn` returns a moment before the child has its own memory and environment.
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
