//! The places of turns that may run at once: those of commands and those of tasks.

use kugetsu_testing::{Signal, World};

use super::{has_got, status, submit, wait_for_state, world_with};
use crate::support::kit::{SOON, run};

fn running(world: &World) -> u64 {
    status(world)["running"].as_u64().unwrap()
}

#[test]
fn no_more_turns_run_than_may() {
    let world = world_with(&["--max-concurrent", "1"]);
    let first = world.spawn(["start", "1", "hang", "--transport", "run"]);
    world.wait_until("the turn runs", SOON, || has_got(&world, "hang"));
    assert_eq!(running(&world), 1);
    let mut second = world.spawn(["start", "2", "second", "--transport", "run"]);
    let gives_up = world.spawn(["start", "3", "third", "--transport", "run"]);
    let task = submit(&world, &["4", "a task"]);
    world.wait_until("they wait", SOON, || status(&world)["waiting"] == 2);
    assert_eq!(
        (
            running(&world),
            has_got(&world, "second"),
            has_got(&world, "a task")
        ),
        (1, false, false)
    );
    // A command that gives up waits no longer.
    gives_up.signal(Signal::Interrupt);
    gives_up.wait(SOON).expect_status(130);
    world.wait_until("one has left", SOON, || status(&world)["waiting"] == 1);
    assert!(second.is_alive());
    // The daemon does not count what does without it.
    run(
        &world,
        ["start", "5", "without it", "--transport", "run", "--no-daemon"],
    )
    .expect_status(0);
    run(&world, ["stop", "1"]).expect_status(0);
    first.wait(SOON);
    second.wait(SOON).expect_status(0);
    wait_for_state(&world, &task, "ended");
    assert!(!has_got(&world, "third"));
    world.wait_until("all places are free", SOON, || running(&world) == 0);
}

#[test]
fn a_command_that_is_killed_frees_its_place() {
    let world = world_with(&["--max-concurrent", "1"]);
    let killed = world.spawn(["start", "1", "hang", "--transport", "run"]);
    world.wait_until("the turn runs", SOON, || has_got(&world, "hang"));
    killed.signal(Signal::Kill);
    run(&world, ["start", "2", "next", "--transport", "run"]).expect_status(0);
    world.wait_until("the place is free", SOON, || running(&world) == 0);
}

#[test]
fn a_daemon_that_hangs_keeps_no_turn_from_running() {
    let world = world_with(&[]);
    let daemon = world.daemon().unwrap();
    assert!(world.signal(daemon, Signal::Stop));
    let turn = run(&world, ["start", "1", "hello", "--transport", "run"]);
    assert!(world.signal(daemon, Signal::Continue));
    turn.expect_status(0);
    assert!(turn.stderr().contains("no daemon is used"), "{turn}");
}

#[test]
fn a_tool_has_no_say_over_the_daemon() {
    use kugetsu_testing::{FakeScript, Step};
    let world = world_with(&[]);
    let words = "kugetsu submit 2 'more work' --json; kugetsu task cancel 0; kugetsu task retry 0; \
                 kugetsu daemon stop; kugetsu daemon token create mine";
    world.fake(&FakeScript::default().on(
        "use it",
        [Step::Shell(words.to_owned()), Step::Answer("done".to_owned())],
    ));
    let mut command = world.kugetsu(["start", "1", "use it", "--transport", "run"]);
    command.env("PATH", crate::support::kit::path_with_kugetsu());
    let turn = world.start(command, kugetsu_testing::Stdin::Null).wait(SOON);
    turn.expect_status(0);
    assert_eq!(status(&world)["queue"]["queued"], 0);
    assert_eq!(
        run(&world, ["task", "list", "--json"]).json()["tasks"],
        serde_json::json!([])
    );
    assert!(!world.kugetsu_home().join("tokens.json").exists());
}
