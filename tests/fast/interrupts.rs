//! Ctrl-C while git or the disk hangs: the command ends at every step, git is ended, and the next command completes the
//! work.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::kit::{SOON, record, run, status, stays};
use kugetsu_testing::{FakeScript, Opencode, Output, Running, ServeMode, Signal, Stdin, Step, World};
use serde_json::json;

/// A `git` that counts its calls and hangs at the call `$HANG_AT`; all other calls run the real one. It hangs in a
/// child, like a git whose hook hangs.
const GIT: &str = r#"#!/bin/sh
calls=$(($(cat "$CALLS" 2>/dev/null || echo 0) + 1))
echo $calls > "$CALLS.new" && mv "$CALLS.new" "$CALLS"
if [ "$calls" = "$HANG_AT" ]; then
    sleep 100000
fi
PATH="${PATH#*:}" exec git "$@"
"#;

/// The number of interrupted commands that run at once.
const AT_ONCE: u32 = 4;

struct Slow {
    world: World,
}

impl Slow {
    fn new() -> Self {
        let world = World::new(Opencode::Fake);
        world.fake(&FakeScript {
            serve: ServeMode::Sessions,
            ..FakeScript::default()
        });
        fs::create_dir_all(world.kugetsu_home()).unwrap();
        fs::write(world.kugetsu_home().join("config.toml"), "transport = \"run\"\n").unwrap();
        run(&world, ["init"]).expect_status(0);
        let bin = world.root().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("git"), GIT).unwrap();
        fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
        Self { world }
    }

    /// The file that counts the calls of one command, because commands may run at once.
    fn calls(&self, hang_at: u32) -> PathBuf {
        self.world.root().join(format!("git-calls-{hang_at}"))
    }

    fn counted(&self, hang_at: u32) -> u32 {
        let text = fs::read_to_string(self.calls(hang_at)).unwrap_or_default();
        text.trim().parse().unwrap_or_default()
    }

    fn command(&self, arguments: &[&str], hang_at: u32) -> Command {
        let _ = fs::remove_file(self.calls(hang_at));
        let mut command = self.world.kugetsu(arguments);
        let path = std::env::var("PATH").unwrap();
        command
            .env(
                "PATH",
                format!("{}:{path}", self.world.root().join("bin").display()),
            )
            .env("CALLS", self.calls(hang_at))
            .env("HANG_AT", hang_at.to_string());
        command
    }

    /// The number of git calls of a command in which no call hangs.
    fn count_calls(&self, arguments: &[&str], status: i32) -> u32 {
        let done = self
            .world
            .start(self.command(arguments, 0), Stdin::Null)
            .wait(SOON);
        done.expect_status(status);
        self.counted(0)
    }

    /// Runs a command whose git hangs at a call, then sends SIGINT. Checks that the command ends with 130; or with 0, if
    /// git hangs after the turn. Returns whether that is so.
    fn interrupt_turn(&self, arguments: &[&str], hang_at: u32) -> bool {
        let ended = self.interrupted(arguments, hang_at);
        if ended.code() != 0 {
            assert_eq!(ended.code(), 130, "git call {hang_at}\n{ended}");
            return false;
        }
        assert_eq!(ended.stdout(), "done\n", "git call {hang_at}\n{ended}");
        let shown = run(&self.world, ["show", arguments[1], "--json"]).json();
        assert_eq!(
            (&shown["state"], &shown["last"]["changes"]),
            (&"completed".into(), &serde_json::Value::Null),
            "git call {hang_at}"
        );
        true
    }

    /// Runs a command whose git hangs at a call, then sends SIGINT. Checks that the command ends with 130.
    fn interrupt(&self, arguments: &[&str], hang_at: u32) {
        let ended = self.interrupted(arguments, hang_at);
        assert_eq!(ended.code(), 130, "git call {hang_at} of {arguments:?}\n{ended}");
    }

    fn interrupted(&self, arguments: &[&str], hang_at: u32) -> Output {
        let running = self.world.start(self.command(arguments, hang_at), Stdin::Null);
        let what = format!("git call {hang_at} of {arguments:?}");
        self.world
            .wait_until(&what, SOON, || self.counted(hang_at) == hang_at);
        running.signal(Signal::Interrupt);
        running.wait(SOON)
    }
}

#[test]
fn every_git_of_a_start_with_a_worktree_can_be_interrupted() {
    let slow = Slow::new();
    let calls = slow.count_calls(&["start", "100", "hi", "--worktree"], 0);
    assert!(calls > 5, "{calls} calls of git");
    // The commands mostly wait, so several run at once.
    std::thread::scope(|scope| {
        for first in 1..=AT_ONCE {
            let slow = &slow;
            scope.spawn(move || {
                for call in (first..=calls).step_by(AT_ONCE as usize) {
                    let issue = call.to_string();
                    let arguments = ["start", &issue, "hi", "--worktree"];
                    let over = slow.interrupt_turn(&arguments, call);
                    assert_eq!(over, call == calls, "only the last call comes after the turn");
                    if !over {
                        run(&slow.world, arguments).expect_status(0);
                    }
                    let worktrees = slow.world.repo().join(".worktrees/github.com/shoko/kugetsu");
                    assert!(worktrees.join(&issue).join(".git").exists(), "call {call}");
                }
            });
        }
    });
    slow.world.wait_nothing_left(SOON);
    let checked = run(&slow.world, ["doctor", "--json"]);
    assert_eq!(checked.json()["exit_status"], 0, "{checked}");
}

#[test]
fn every_git_of_a_continue_whose_worktree_is_gone_can_be_interrupted() {
    let slow = Slow::new();
    run(&slow.world, ["start", "14", "hi", "--worktree"]).expect_status(0);
    let worktree = slow.world.repo().join(".worktrees/github.com/shoko/kugetsu/14");
    let arguments = ["continue", "14", "more"];
    fs::remove_dir_all(&worktree).unwrap();
    let calls = slow.count_calls(&arguments, 0);
    assert!(calls > 1, "{calls} calls of git");
    for call in 1..=calls {
        fs::remove_dir_all(&worktree).unwrap();
        let over = slow.interrupt_turn(&arguments, call);
        assert_eq!(over, call == calls, "only the last call comes after the turn");
        slow.world.wait_nothing_left(SOON);
        run(&slow.world, arguments).expect_status(0);
        assert!(worktree.join(".git").exists(), "call {call}");
    }
}

#[test]
fn every_git_of_a_rebase_can_be_interrupted() {
    let slow = Slow::new();
    run(&slow.world, ["start", "14", "hi", "--worktree"]).expect_status(0);
    let repo = slow.world.repo();
    let arguments = ["signal", "14", "rebase"];
    let advance = |name: &str| {
        fs::write(repo.join(name), "more\n").unwrap();
        slow.world.git(&repo, ["add", name]);
        slow.world.git(&repo, ["commit", "--quiet", "--message", name]);
    };
    advance("first");
    let calls = slow.count_calls(&arguments, 0);
    assert!(calls > 3, "{calls} calls of git");
    for call in 1..=calls {
        advance(&format!("call-{call}"));
        slow.interrupt(&arguments, call);
        slow.world.wait_nothing_left(SOON);
        run(&slow.world, arguments).expect_status(0);
    }
}

#[test]
fn a_git_of_a_destroy_can_be_interrupted() {
    let slow = Slow::new();
    let start = |issue: &str| run(&slow.world, ["start", issue, "hi", "--worktree"]);
    start("100").expect_status(0);
    let calls = slow.count_calls(&["destroy", "100", "-y"], 0);
    assert!(calls > 3, "{calls} calls of git");
    // `destroy` blocks, so the signal itself ends it, at whichever call.
    for call in [1, calls / 2, calls] {
        let issue = call.to_string();
        start(&issue).expect_status(0);
        let arguments = ["destroy", &issue, "-y"];
        slow.interrupt(&arguments, call);
        slow.world.wait_nothing_left(SOON);
        // The last git may come after the record was moved to the trash.
        let again = run(&slow.world, arguments);
        assert!([0, 66].contains(&again.code()), "call {call}\n{again}");
        assert_eq!(run(&slow.world, ["show", &issue]).code(), 66, "call {call}");
    }
}

/// The points of a write at which a slow disk makes the write wait: before the file is synced, before its folder is
/// synced, and after an append.
const WAITS: [&str; 4] = ["folder_made", "temp_written", "renamed", "append_written"];

/// Runs a command whose write hangs at the given pass of this point, then sends SIGINT. Returns whether there was such
/// a pass; without one, the command must have succeeded.
fn interrupt_on_a_slow_disk(world: &World, arguments: &[&str], point: &str, pass: usize) -> bool {
    let what = format!("pass {pass} of {point} in {arguments:?}");
    let hangs = world.root().join(format!("hangs-{point}-{pass}"));
    let mut command = world.kugetsu(arguments);
    command.env(
        "KUGETSU_CRASH_AT",
        format!("stall:{point}:{pass}:{}", hangs.display()),
    );
    let mut running = world.start(command, Stdin::Null);
    world.wait_until(&what, SOON, || hangs.exists() || !running.is_alive());
    if !hangs.exists() {
        let ended = running.wait(SOON);
        assert_eq!(ended.code(), 0, "{what}\n{ended}");
        return false;
    }
    running.signal(Signal::Interrupt);
    let ended = running.wait(SOON);
    assert_eq!(ended.code(), 130, "{what}\n{ended}");
    true
}

#[test]
fn every_write_of_a_start_with_a_worktree_can_be_interrupted() {
    let slow = Slow::new();
    let world = &slow.world;
    std::thread::scope(|scope| {
        for (number, point) in WAITS.into_iter().enumerate() {
            scope.spawn(move || {
                for pass in 1.. {
                    let issue = format!("{}{pass}", number + 1);
                    let arguments = ["start", &issue, "hi", "--worktree"];
                    if !interrupt_on_a_slow_disk(world, &arguments, point, pass) {
                        assert!(pass > 1, "{point} is never passed");
                        return;
                    }
                    // If the prompt has reached the session, `start` refuses and `continue` works.
                    let again = run(world, arguments);
                    let again = match again.code() {
                        64 => run(world, ["continue", &issue, "hi"]),
                        _ => again,
                    };
                    again.expect_status(0);
                }
            });
        }
    });
    world.wait_nothing_left(SOON);
    let checked = run(world, ["doctor", "--json"]);
    assert_eq!(checked.json()["exit_status"], 0, "{checked}");
}

/// A filter of the user hangs during the rebase.
#[test]
fn an_interrupted_rebase_is_undone() {
    let slow = Slow::new();
    let world = &slow.world;
    run(world, ["start", "14", "hi", "--worktree"]).expect_status(0);
    let repo = world.repo();
    let worktree = repo.join(".worktrees/github.com/shoko/kugetsu/14");
    for (folder, name) in [(&worktree, "theirs"), (&repo, "ours")] {
        fs::write(folder.join(name), "more\n").unwrap();
        world.git(folder, ["add", name]);
        world.git(folder, ["commit", "--quiet", "--message", name]);
    }
    let head = || world.git(&worktree, ["rev-parse", "HEAD"]).stdout();
    let before = head();
    let (attributes, hangs) = (repo.join(".git/info/attributes"), world.root().join("hangs"));
    fs::create_dir_all(attributes.parent().unwrap()).unwrap();
    fs::write(attributes, "ours filter=slow\n").unwrap();
    let filter = format!(
        "[ -e {0} ] || {{ touch {0}; sleep 100000; }}; cat",
        hangs.display()
    );
    let mut command = world.kugetsu(["signal", "14", "rebase"]);
    command
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "filter.slow.smudge")
        .env("GIT_CONFIG_VALUE_0", filter);
    let running = world.start(command, Stdin::Null);
    world.wait_until("the rebase hangs", SOON, || hangs.exists());
    running.signal(Signal::Interrupt);
    let ended = running.wait(SOON);
    assert_eq!(ended.code(), 130, "{ended}");
    world.wait_nothing_left(SOON);
    assert_eq!(head(), before);
    let branch = world.git(&worktree, ["symbolic-ref", "--short", "HEAD"]).stdout();
    assert_eq!(branch.trim(), "kugetsu/14");
    run(world, ["signal", "14", "rebase"]).expect_status(0);
}

/// The prompt was sent, so a program that reads the result must not send it again.
#[test]
fn an_interrupted_turn_whose_end_cannot_be_recorded_says_so() {
    let world = World::new(Opencode::Fake);
    world.fake(&FakeScript {
        serve: ServeMode::Sessions,
        ..FakeScript::default().on("hang", [Step::step_start(), Step::Hang])
    });
    run(&world, ["init"]).expect_status(0);
    let start = ["start", "14", "hello", "--transport", "run"];
    run(&world, start).expect_status(0);
    let hangs = world.root().join("hangs");
    let words = ["continue", "14", "hang", "--transport", "run", "--output", "json"];
    let mut command = world.kugetsu(words);
    command.env(
        "KUGETSU_CRASH_AT",
        format!("stall:append_written:1:{}", hangs.display()),
    );
    let running = world.start(command, Stdin::Null);
    world.wait_until("the turn runs", SOON, || {
        status(&world, "14").is_some_and(|status| status["state"] == "running")
    });
    running.signal(Signal::Interrupt);
    let ended = running.wait(SOON);
    assert!(hangs.exists(), "the turn's line was never written\n{ended}");
    assert_eq!(ended.code(), 130, "{ended}");
    let error = &ended.json()["error"];
    assert_eq!(error["code"], "turn-unrecorded", "{ended}");
    assert_eq!(error["retryable"], false, "{ended}");
    world.wait_nothing_left(SOON);
    run(&world, ["continue", "14", "more", "--transport", "run"]).expect_status(0);
    assert_eq!(
        run(&world, ["show", "14", "--json"]).json()["last"]["verdict"],
        "completed"
    );
}

/// A turn that hangs and stops, with its thread for disks, when its end is recorded, until the file is removed.
fn turn_that_stalls_at_its_end(world: &World) -> (Running, PathBuf) {
    world.fake(&FakeScript {
        serve: ServeMode::Sessions,
        ..FakeScript::default().on("hang", [Step::step_start(), Step::Hang])
    });
    run(world, ["init"]).expect_status(0);
    let recording = world.root().join("recording");
    let mut command = world.kugetsu(["start", "14", "hang", "--transport", "run"]);
    command.env(
        "KUGETSU_CRASH_AT",
        format!("stall:append_written:1:{}", recording.display()),
    );
    let running = world.start(command, Stdin::Null);
    world.wait_until("the turn runs", SOON, || {
        status(world, "14").is_some_and(|status| status["state"] == "running")
    });
    (running, recording)
}

/// Such a turn after two signals, the second one a while after the first.
fn turn_signalled_twice_at_its_end(world: &World) -> (Running, PathBuf) {
    let (mut running, recording) = turn_that_stalls_at_its_end(world);
    running.signal(Signal::Terminate);
    world.wait_until("the turn is being recorded", SOON, || recording.exists());
    // Sooner, it would be the same signal.
    stays(Duration::from_millis(200), || running.is_alive());
    running.signal(Signal::Terminate);
    (running, recording)
}

#[track_caller]
fn ended_in_order(world: &World, running: Running) {
    let ended = running.wait(SOON);
    assert_eq!(ended.code(), 143, "{ended}");
    let last = record(world, "14").expect("a record")["last"].clone();
    assert_eq!(
        (&last["verdict"], &last["reason"]),
        (&json!("aborted"), &json!("terminated"))
    );
    world.wait_nothing_left(SOON);
}

/// `timeout` signals its program and then its process group, so one SIGTERM comes twice.
#[test]
fn a_signal_that_comes_twice_in_one_moment_counts_once() {
    let world = World::new(Opencode::Fake);
    let (running, recording) = turn_that_stalls_at_its_end(&world);
    for _ in 0..5 {
        running.signal(Signal::Terminate);
        std::thread::sleep(Duration::from_millis(10));
    }
    world.wait_until("the turn is being recorded", SOON, || recording.exists());
    fs::remove_file(&recording).unwrap();
    // Two signals would have ended the turn by force, and three the process.
    ended_in_order(&world, running);
}

#[test]
fn a_second_signal_while_the_end_is_recorded_loses_nothing() {
    let world = World::new(Opencode::Fake);
    let (mut running, recording) = turn_signalled_twice_at_its_end(&world);
    stays(Duration::from_millis(100), || running.is_alive());
    fs::remove_file(&recording).unwrap();
    ended_in_order(&world, running);
}

/// Something that hangs is not waited for after a second signal.
#[test]
fn a_second_signal_ends_a_recording_that_hangs() {
    let world = World::new(Opencode::Fake);
    let (running, recording) = turn_signalled_twice_at_its_end(&world);
    let ended = running.wait(SOON);
    assert_eq!(ended.code(), 143, "{ended}");
    assert!(
        recording.exists()
            && ended
                .stderr()
                .contains("while the end of the turn was being recorded"),
        "{ended}"
    );
}

/// An opencode that never answers, not even which version it is.
#[test]
fn an_interrupt_ends_the_probes_of_opencode() {
    let world = World::new(Opencode::Fake);
    let (program, asked) = (world.root().join("slow-opencode"), world.root().join("asked"));
    fs::write(
        &program,
        format!("#!/bin/sh\ntouch {}\nsleep 100000\n", asked.display()),
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = world.kugetsu(["init"]);
    command.env("KUGETSU_OPENCODE", &program);
    let running = world.start(command, Stdin::Null);
    world.wait_until("opencode is asked", SOON, || asked.exists());
    running.signal(Signal::Interrupt);
    let ended = running.wait(SOON);
    assert_eq!(ended.code(), 130, "{ended}");
    world.wait_nothing_left(SOON);
}
