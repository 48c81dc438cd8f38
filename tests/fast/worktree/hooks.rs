//! Hooks around worktrees and turns.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::support::kit::{ISSUE, worktree_of};

use super::*;

#[test]
fn hooks_run_around_a_turn() {
    let world = world();
    let log = world.root().join("hooks");
    let say = |moment: &str| {
        let line = format!(
            "echo \"{moment} $PWD $KUGETSU_REF $KUGETSU_WORKTREE_PATH $KUGETSU_BRANCH $KUGETSU_SESSION $KUGETSU_TURN_ID\" >> {}",
            text(&log)
        );
        format!("hook_{moment} = {line:?}\n")
    };
    let all = ["after_create", "before_turn", "after_turn", "before_remove"]
        .map(say)
        .concat();
    configure(&world, &all);
    let result = start(&world, &["--worktree", "--output", "json"])
        .expect_status(0)
        .json();
    world.run(["continue", "14", "more"]).expect_status(0);
    world.run(["destroy", "14", "-y"]).expect_status(0);
    let path = worktree_of(&world, "14");
    let lines: Vec<Vec<String>> = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect();
    let moments: Vec<_> = lines.iter().map(|line| line[0].as_str()).collect();
    assert_eq!(
        moments,
        [
            "after_create",
            "before_turn",
            "after_turn",
            "before_turn",
            "after_turn",
            "before_remove"
        ]
    );
    for line in &lines {
        assert_eq!(
            line[1..5],
            [text(&path), ISSUE, text(&path), "kugetsu/14"],
            "{line:?}"
        );
    }
    assert_eq!(lines[2][5], result["session"].as_str().unwrap());
    assert_eq!(lines[2][6], result["turn"].as_str().unwrap());
}

#[test]
fn a_hook_that_fails_stops_what_it_guards() {
    let world = world();
    let log = world
        .kugetsu_home()
        .join("sessions/github.com/shoko/kugetsu/14/hooks.log");
    configure(&world, "hook_after_create = \"echo no compiler; exit 3\"");
    let output = start(&world, &["--worktree"]);
    output.expect_status(1);
    for word in [
        "hook_after_create",
        "exit status 3",
        "nothing was sent",
        text(&log),
    ] {
        assert!(output.stderr().contains(word), "{word}\n{output}");
    }
    assert!(fs::read_to_string(&log).unwrap().contains("no compiler"));
    // A log that has grown large makes room for a new one.
    let grow = |path: &Path, line: &str| {
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        file.set_len(5 << 20).unwrap();
        writeln!(file, "\n{line}").unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(48))
            .unwrap();
    };
    grow(&log, "an old line");
    // The hook runs again, because it has not succeeded yet.
    configure(
        &world,
        "hook_after_create = \"touch made\"\nhook_before_turn = \"exit 4\"",
    );
    let output = start(&world, &["--worktree"]);
    output.expect_status(1);
    assert!(output.stderr().contains("hook_before_turn"), "{output}");
    assert!(log.metadata().unwrap().len() < 4096);
    let old = log.with_extension("log.old");
    assert!(
        old.metadata().unwrap().len() > 5 << 20,
        "who still writes to it goes on there"
    );
    // `gc` keeps the newest lines.
    let preview = world.run(["gc", "--dry-run", "--json"]).json();
    assert_eq!(preview["shortened"], json!([old]), "{preview}");
    let shortened = world.run(["gc", "--json"]).json();
    assert!(
        shortened["freed_bytes"].as_u64().unwrap() > 1 << 20,
        "{shortened}"
    );
    assert_eq!(fs::read_to_string(&old).unwrap(), "an old line\n");
    grow(&log, "a newer line");
    world.run(["gc"]).expect_status(0);
    assert_eq!(fs::read_to_string(&old).unwrap(), "a newer line\n");
    assert!(!log.exists());
    assert!(worktree_of(&world, "14").join("made").exists());
    assert_eq!(turn_folders(&world), Vec::<PathBuf>::new());
    assert_eq!(world.sessions().len(), 1, "the base alone");

    configure(
        &world,
        "hook_after_turn = \"exit 5\"\nhook_before_remove = \"exit 6\"",
    );
    let output = start(&world, &["--worktree"]);
    output.expect_status(0);
    assert!(
        output.stderr().contains("hook_after_turn failed (exit status 5)"),
        "{output}"
    );
    fs::remove_file(worktree_of(&world, "14").join("made")).unwrap();
    let output = world.run(["destroy", "14", "-y"]);
    output.expect_status(1);
    assert!(output.stderr().contains("nothing was removed"), "{output}");
    assert!(worktree_of(&world, "14").exists());
    world.run(["continue", "14", "more"]).expect_status(0);
    world.run(["destroy", "14", "-y", "--force"]).expect_status(0);
    assert!(!worktree_of(&world, "14").exists());
}

#[test]
fn a_hook_has_its_time_and_leaves_nothing() {
    let world = world();
    configure(
        &world,
        "hook_timeout = \"1s\"\ngrace = \"1s\"\nhook_before_turn = \"setsid sleep 500 & trap '' TERM; sleep 500\"",
    );
    let output = start(&world, &[]);
    output.expect_status(1);
    assert!(output.stderr().contains("did not end within 1s"), "{output}");
    world.wait_nothing_left(Duration::from_secs(30));
}

#[test]
fn an_interrupt_ends_a_hook() {
    let world = world();
    configure(&world, "hook_before_turn = \"touch began; sleep 500\"");
    let running = world.spawn(["start", "14", "do it"]);
    let began = world.repo().join("began");
    world.wait_until("the hook runs", Duration::from_secs(30), || began.exists());
    running.signal(kugetsu_testing::Signal::Interrupt);
    running.wait(Duration::from_secs(30)).expect_status(130);
    world.wait_nothing_left(Duration::from_secs(30));

    // The same holds after the turn: completed work stays.
    configure(&world, "hook_after_turn = \"touch after; sleep 500\"");
    let running = world.spawn(["start", "14", "do it"]);
    let after = world.repo().join("after");
    world.wait_until("the hook runs", Duration::from_secs(30), || after.exists());
    running.signal(kugetsu_testing::Signal::Interrupt);
    let output = running.wait(Duration::from_secs(30));
    output.expect_status(0);
    assert!(
        output.stderr().contains("hook_after_turn was interrupted"),
        "{output}"
    );
    world.wait_nothing_left(Duration::from_secs(30));
    let shown = world.run(["show", "14", "--json"]).json();
    assert_eq!(shown["last"]["verdict"], "completed", "{shown}");
}

/// The hook may read the session, and the next turn must find what the hook has made.
#[test]
fn the_next_turn_begins_after_the_hook() {
    let world = world();
    configure(
        &world,
        "hook_after_turn = \"touch after; while [ ! -e go ]; do sleep 0.02; done\"",
    );
    let running = world.spawn(["start", "14", "do it"]);
    let after = world.repo().join("after");
    world.wait_until("the hook runs", Duration::from_secs(30), || after.exists());
    let meanwhile = world.run(["continue", "14", "more"]);
    fs::write(world.repo().join("go"), "").unwrap();
    meanwhile.expect_status(75);
    assert!(meanwhile.stderr().contains("in use"), "{meanwhile}");
    running.wait(Duration::from_secs(30)).expect_status(0);
    world.run(["continue", "14", "more"]).expect_status(0);
}
