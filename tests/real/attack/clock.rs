//! The system's clock goes back or ahead, before and during a turn. libfaketime (Debian: `faketime`) gives kugetsu and
//! opencode another clock than the machine has.

use crate::support::clock::Clock;
use crate::support::kit::{SOON, prompts_of, session_of, with_base};
use kugetsu_testing::{Gate, Output, Reply, Signal, World, on_both_versions};

/// The session has messages of the future: no prompt is sent.
#[track_caller]
fn is_refused(clock: &Clock<'_>, transport: &str) {
    let world = clock.world;
    let requests = world.model.turn_requests().len();
    let refused = clock.run(&[
        "continue",
        "1",
        "what now",
        "--transport",
        transport,
        "--output=json",
    ]);
    refused.expect_status(69);
    assert_eq!(refused.json()["error"]["code"], "clock-behind", "{refused}");
    assert!(refused.stderr().contains("doctor --fix"), "{refused}");
    assert_eq!(
        world.model.turn_requests().len(),
        requests,
        "nothing was paid\n{refused}"
    );
}

/// `doctor --fix` repairs it with its history.
#[track_caller]
fn is_repaired(clock: &Clock<'_>, transport: &str, history: &str) {
    let (world, session) = (clock.world, session_of(clock.world, "1"));
    let found = clock.run(&["doctor"]);
    found.expect_status(1);
    assert!(found.stdout().contains(&session), "{found}");

    clock.run(&["doctor", "--fix"]).expect_status(0);
    let copy = session_of(world, "1");
    assert_ne!(copy, session);
    assert_eq!(
        prompts_of(world, &copy),
        prompts_of(world, &session),
        "the history is kept"
    );
    let (new, old) = (world.session(&copy), world.session(&session));
    // opencode 1.18.33 may have written its own title to the original at the end of the turn.
    assert_eq!(new.title, "github.com/shoko/kugetsu#1");
    assert_eq!((new.directory, new.permission), (old.directory, old.permission));
    clock.run(&["doctor"]).expect_status(0);

    world.model.on("what now", [Reply::text("now this")]);
    let continued = clock.run(&[
        "continue",
        "1",
        "what now",
        "--transport",
        transport,
        "--output=json",
    ]);
    assert_eq!(
        continued.expect_status(0).json()["answer"],
        "now this",
        "{continued}"
    );
    let asked = world
        .model
        .turn_requests_with("what now")
        .pop()
        .expect("a request");
    assert!(
        asked.user_texts().iter().any(|text| text.contains(history)),
        "{:?}",
        asked.user_texts()
    );
    world.wait_nothing_left(SOON);
}

fn in_2039_for_one_turn(world: &World, transport: &str) {
    let clock = Clock::of(world);
    with_base(world);
    world.model.on("in the future", [Reply::text("done there")]);
    clock.set("+4500d");
    clock
        .run(&["start", "1", "in the future", "--transport", transport])
        .expect_status(0);
    clock.set("+0");
    is_refused(&clock, transport);
    is_repaired(&clock, transport, "in the future");
}

/// The turn failed, because of the clock.
#[track_caller]
fn names_the_clock(ended: &Output) {
    let result = ended.json();
    assert_eq!(result["verdict"], "failed", "{ended}");
    assert!(
        result["reason"].as_str().unwrap_or_default().contains("clock"),
        "{ended}"
    );
}

/// opencode is killed while the model thinks, and meanwhile the clock goes back.
fn back_with_a_crash(world: &World, transport: &str, step: &str) {
    let clock = Clock::of(world);
    with_base(world);
    let gate = Gate::new();
    world.model.on(
        "do it",
        vec![Reply::text("never").behind(&gate), Reply::text("done")],
    );
    world
        .model
        .on("Go on where you stopped", [Reply::text("went on")]);
    let turn = clock.start(&["start", "1", "do it", "--transport", transport, "--output=json"]);
    gate.wait_arrived(SOON);
    clock.set(step);
    let opencode = world.opencode_of(turn.pid()).expect("opencode runs");
    world.signal(opencode, Signal::Kill);
    let ended = turn.wait(SOON);
    names_the_clock(&ended);
    assert_eq!(
        world.model.turn_requests().len(),
        1,
        "the model was not asked again\n{ended}"
    );
    is_refused(&clock, transport);
    world.wait_nothing_left(SOON);
}

/// The clock goes back between two steps of a turn, without a crash.
fn back_between_two_steps(world: &World, transport: &str) {
    let clock = Clock::of(world);
    with_base(world);
    let gate = Gate::new();
    world.model.on(
        "do it",
        vec![
            Reply::bash("echo tool").behind(&gate),
            Reply::text("done"),
            Reply::text("done again"),
        ],
    );
    let turn = clock.start(&["start", "1", "do it", "--transport", transport, "--output=json"]);
    gate.wait_arrived(SOON);
    clock.set("-1d");
    gate.open();
    let ended = turn.wait(SOON);
    let (result, requests) = (ended.json(), world.model.turn_requests().len());
    assert!(requests <= 3, "{requests} requests\n{ended}");
    if result["verdict"] == "completed" {
        assert_eq!(result["answer"], "done", "{ended}");
    } else {
        names_the_clock(&ended);
    }
    is_refused(&clock, transport);
    world.wait_nothing_left(SOON);
}

/// The clock goes ahead by a day in a turn, and is set right after it.
fn ahead_during_a_turn(world: &World, transport: &str) {
    let clock = Clock::of(world);
    with_base(world);
    let gate = Gate::new();
    world.model.on(
        "do it",
        vec![Reply::bash("echo tool").behind(&gate), Reply::text("done")],
    );
    let turn = clock.start(&["start", "1", "do it", "--transport", transport, "--output=json"]);
    gate.wait_arrived(SOON);
    clock.set("+1d");
    gate.open();
    let ended = turn.wait(SOON);
    assert_eq!(ended.expect_status(0).json()["answer"], "done", "{ended}");
    clock.set("+0");
    is_refused(&clock, transport);
    is_repaired(&clock, transport, "do it");
}

on_both_versions! {
    fn a_turn_in_2039_hides_no_later_prompt(world: &World) {
        in_2039_for_one_turn(world, "run");
    }

    fn a_month_back_with_a_crash_is_not_paid_for_without_end(world: &World) {
        back_with_a_crash(world, "serve", "-31d");
    }

    fn a_day_back_between_two_steps_is_not_paid_for_without_end(world: &World) {
        back_between_two_steps(world, "run");
    }

    fn a_day_ahead_during_a_turn(world: &World) {
        ahead_during_a_turn(world, "serve");
    }
}
