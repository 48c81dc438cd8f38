//! The system's clock is wrong, on the fake opencode.

use crate::support::clock::Clock;
use crate::support::kit::{SOON, fake_world, files_below, record_path, run, start};
use crate::support::terminal::Terminal;
use kugetsu_testing::{FakeScript, Step};

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
fn the_end_of_a_turn_tells_how_long_it_took_whatever_the_clock_did() {
    let world = fake_world();
    let clock = Clock::of(&world);
    let (there, on) = (world.root().join("there"), world.root().join("on"));
    world.fake(&FakeScript::default().on(
        "slow",
        [
            Step::Meet(there.clone(), on.clone()),
            Step::Answer("done".to_owned()),
        ],
    ));
    let turn = clock.start(&["start", "1", "slow", "--transport", "run"]);
    world.wait_until("the turn runs", SOON, || there.exists());
    clock.set("+2d");
    std::fs::write(&on, "").unwrap();
    let ended = turn.wait(SOON);
    let said = ended.expect_status(0).stderr();
    let took = said
        .split_once(" completed in ")
        .and_then(|(_, rest)| rest.split_once(':'))
        .map(|(took, _)| took);
    assert!(took.is_some_and(|took| !took.contains('d')), "{said}");
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
