//! Two commands on one issue: refusing, waiting, and giving up a wait.

use crate::in_both_modes;
use crate::support::kit::{self, SOON, fake_world, hold_lease, record, run, scripted_world, session_of};
use crate::support::proc::{SIGINT, has_signal};
use kugetsu_testing::{FakeScript, Running, Signal, Step, World};

/// A turn that hangs in opencode until it is killed.
fn held(world: &World, arguments: &[&str]) -> Running {
    let held = world.spawn(arguments.iter().copied());
    world.wait_until("the turn is in opencode", SOON, || {
        world
            .fake_calls()
            .iter()
            .any(|call| call.prompt.as_deref() == Some("hang"))
    });
    held
}

fn world() -> World {
    scripted_world(&FakeScript::default().on("hang", [Step::Hang]))
}

in_both_modes! {
    the_holder_of_a_lease_is_named,
    a_wait_ends_with_the_turn_before_or_with_a_signal,
    logs_that_follow_a_turn_wait_for_its_beginning,
    two_starts_of_one_issue_make_one_session,
    starts_of_different_issues_get_different_sessions,
    who_asks_for_a_turn_by_its_id_waits_for_turns_alone,
}

fn the_holder_of_a_lease_is_named() {
    let world = world();
    let mut first = held(&world, &["start", "1", "hang", "--transport", "run"]);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for arguments in [
        &["continue", "1", "hi", "--transport", "run"][..],
        &["permit", "1", "bash:rm *=deny"],
        &["destroy", "1", "-y"],
        &["continue", "1", "hi", "--wait=10ms"],
    ] {
        let refused = run(&world, arguments.iter().copied());
        refused.expect_status(75);
        let words = [
            format!("process {} ", first.pid()),
            host.clone(),
            " since 20".into(),
            "(start)".into(),
        ];
        for word in words {
            assert!(refused.stderr().contains(&word), "{word}\n{refused}");
        }
    }
    let shown = run(&world, ["show", "1"]);
    assert!(shown.stdout().contains("running"), "{shown}");
    assert!(first.is_alive());
    first.signal(Signal::Interrupt);
    first.wait(SOON).expect_status(130);
    world.wait_nothing_left(SOON);
    run(&world, ["continue", "1", "hi", "--transport", "run"]).expect_status(0);
}

fn a_wait_ends_with_the_turn_before_or_with_a_signal() {
    let world = world();
    run(&world, ["start", "1", "hello", "--transport", "run"]).expect_status(0);
    let first = held(&world, &["continue", "1", "hang", "--transport", "run"]);
    let mut impatient = world.spawn(["continue", "1", "not this", "--wait", "--transport", "run"]);
    let patient = world.spawn(["continue", "1", "but this", "--wait", "--transport", "run"]);
    // Before the process catches signals, a signal would end it like any program.
    world.wait_until("it listens to signals", SOON, || {
        has_signal(impatient.pid(), "SigCgt", SIGINT)
    });
    assert!(impatient.is_alive());
    impatient.signal(Signal::Interrupt);
    impatient.wait(SOON).expect_status(130);
    first.signal(Signal::Terminate);
    first.wait(SOON).expect_status(143);
    patient.wait(SOON).expect_status(0);
    let prompts = kit::prompts_of(&world, &session_of(&world, "1"));
    assert_eq!(prompts, ["the base", "hello", "hang", "but this"]);
    assert_eq!(record(&world, "1").unwrap()["totals"]["turns"], 3);
}

fn logs_that_follow_a_turn_wait_for_its_beginning() {
    let world = world();
    run(&world, ["start", "1", "hi", "--transport", "run"]).expect_status(0);
    // The turn is on record, and it writes into opencode's database before its stream begins.
    let locked = world.lock_database();
    let turn = kit::start_in(
        &world,
        &[("KUGETSU_DATABASE_TIMEOUT", "3m")],
        &["continue", "1", "again", "--transport", "run"],
    );
    world.wait_until("the turn is on record", SOON, || {
        record(&world, "1").is_some_and(|record| record["live"].is_object())
    });
    let mut followers = [
        world.spawn(["logs", "1", "-f"]),
        world.spawn(["logs", "1", "-f", "--raw"]),
    ];
    // Without -f, there is nothing to print yet. By the time a later `logs` has ended, the earlier ones have read the
    // file.
    run(&world, ["logs", "1"]).expect_status(66);
    run(&world, ["logs", "1", "--raw"]).expect_status(66);
    for one in &mut followers {
        assert!(one.is_alive(), "it gave up: {}", one.stderr_so_far());
    }
    drop(locked);
    turn.wait(SOON).expect_status(0);
    let [text, raw] = followers.map(|one| one.wait(SOON));
    assert_eq!(text.expect_status(0).stdout(), "done\n");
    assert!(raw.expect_status(0).stdout().contains("step_finish"), "{raw}");
    world.wait_nothing_left(SOON);
}

fn two_starts_of_one_issue_make_one_session() {
    let world = fake_world();
    let all: Vec<_> = (0..6)
        .map(|_| world.spawn(["start", "1", "hello", "--transport", "run"]))
        .collect();
    let codes: Vec<i32> = all.into_iter().map(|start| start.wait(SOON).code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| [0, 64, 75].contains(code)), "{codes:?}");
    assert_eq!(world.sessions().len(), 2, "the base and one fork");
}

fn starts_of_different_issues_get_different_sessions() {
    let world = fake_world();
    let numbers = ["1", "2", "3", "4", "5", "6"];
    let all: Vec<_> = numbers
        .iter()
        .map(|number| world.spawn(["start", number, "the same words", "--transport", "run"]))
        .collect();
    for start in all {
        start.wait(SOON).expect_status(0);
    }
    let sessions: std::collections::BTreeSet<_> =
        numbers.iter().map(|number| session_of(&world, number)).collect();
    assert_eq!(sessions.len(), numbers.len(), "{sessions:?}");
    assert_eq!(world.sessions().len(), 1 + numbers.len());
    let index = std::fs::read_to_string(world.kugetsu_home().join("index.json")).unwrap();
    assert!(
        numbers
            .iter()
            .all(|number| index.contains(&format!("#{number}\""))),
        "{index}"
    );
}

fn who_asks_for_a_turn_by_its_id_waits_for_turns_alone() {
    let world = world();
    run(&world, ["start", "1", "hello", "--transport", "run"]).expect_status(0);
    let _lease = hold_lease(&world, "1", "attach");
    let id = "01900000-0000-7000-8000-000000000005";
    // Ended after a minute, which is how long the command waits for a turn that is about to begin.
    let refused = world.run(["continue", "1", "hi", "--turn-id", id]);
    assert!(
        refused.expect_status(75).stderr().contains("(attach)"),
        "{refused}"
    );
}
