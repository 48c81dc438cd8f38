//! The system's clock is wrong, on the fake opencode.

use crate::support::clock::Clock;
use crate::support::kit::{fake_world, files_below, record_path, run, start};
use crate::support::terminal::Terminal;

#[test]
fn a_clock_that_is_ahead_removes_nothing() {
    let world = fake_world();
    let clock = Clock::of(&world);
    start(&world, "1", "first");
    start(&world, "2", "to be destroyed");
    run(&world, ["destroy", "2", "--yes"]).expect_status(0);
    let logs = || {
        let files = files_below(&record_path(&world, "1").with_extension(""));
        files
            .iter()
            .filter(|path| path.to_string_lossy().contains(".events.jsonl"))
            .count()
    };
    let trashed = || {
        run(&world, ["trash", "list", "--json"]).json()["entries"]
            .as_array()
            .map_or(0, Vec::len)
    };
    assert_eq!((logs(), trashed()), (1, 1));

    clock.set("+4500d");
    clock
        .run(&["start", "3", "in 2039", "--transport", "run"])
        .expect_status(0);
    clock.run(&["destroy", "3", "--yes"]).expect_status(0);
    for _ in 0..2 {
        clock.run(&["start", "4", "in 2039", "--transport", "run"]);
        clock
            .run(&["continue", "1", "in 2039", "--transport", "run"])
            .expect_status(0);
    }
    assert_eq!((logs(), trashed()), (3, 2), "nothing was removed");
}

#[test]
fn a_base_of_the_future_is_not_forked_until_it_is_repaired() {
    let world = fake_world();
    let clock = Clock::of(&world);
    clock.set("-400d");
    for transport in ["run", "auto"] {
        let refused = clock.run(&["start", "1", "hello", "--transport", transport, "--json"]);
        refused.expect_status(69);
        assert!(refused.stderr().contains("clock"), "{refused}");
    }
    clock.run(&["doctor", "--fix"]);
    clock
        .run(&["start", "1", "hello", "--transport", "run"])
        .expect_status(0);
}

#[test]
fn nobody_attaches_to_a_session_of_the_future_until_it_is_repaired() {
    let world = fake_world();
    let clock = Clock::of(&world);
    start(&world, "1", "hello");
    clock.set("-400d");
    let attach = || {
        Terminal::start(
            &world,
            &format!("{}; echo status $?; sleep 600", clock.shell("attach 1")),
        )
    };
    let refused = attach();
    refused.wait_for("status 69");
    let screen = refused.unwrapped();
    assert!(
        screen.contains("clock") && screen.contains("doctor --fix"),
        "{screen}"
    );
    clock.run(&["doctor", "--fix"]).expect_status(0);
    // The fake has no interface for people.
    attach().wait_for("the fake opencode does not know");
}
