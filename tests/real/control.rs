//! Pausing, resuming, stopping and detaching on the real opencode, both versions and both transports.

use crate::support::kit::{SOON, status};
use kugetsu_testing::{Gate, Reply, Signal, Stdin, World, on_both_versions, without_mark};
use serde_json::json;

fn wait_for_state(world: &World, state: &str) {
    world.wait_until(&format!("it is {state}"), SOON, || {
        status(world, "14").unwrap_or_default()["state"] == state
    });
}

/// The number of turn requests whose last user message is this prompt. 1.3.2 adds one line feed before stdin.
fn requests_with(world: &World, prompt: &str) -> usize {
    let requests = world.model.turn_requests();
    requests
        .iter()
        .filter(|request| without_mark(&request.last_user_text()).trim_start_matches('\n') == prompt)
        .count()
}

/// A turn is paused while the model thinks, resumed, paused again and stopped.
fn pause_resume_and_stop(world: &World, transport: &str) {
    world.make_base();
    let first = Gate::new();
    world.model.on("think", vec![Reply::text("never").behind(&first)]);
    let turn = world.spawn(["start", "14", "think", "--transport", transport]);
    first.wait_arrived(SOON);
    world.run(["signal", "14", "pause"]).expect_status(0);
    wait_for_state(world, "paused");
    let live = world.run(["show", "14", "--json"]).json()["live"]["turn"].clone();
    let supervisor = turn.pid();
    world.wait_until("only the supervisor is left", SOON, || {
        world.processes().iter().all(|process| process.pid == supervisor)
    });
    assert_eq!(requests_with(world, "think"), 1);

    let second = Gate::new();
    world.model.on(
        "Go on where you stopped",
        vec![Reply::text("and on").behind(&second)],
    );
    world.run(["signal", "14", "resume"]).expect_status(0);
    second.wait_arrived(SOON);
    assert_eq!(status(world, "14").unwrap_or_default()["state"], "running");
    second.open();
    let output = turn.wait(SOON);
    output.expect_status(0);
    assert!(output.stdout().ends_with("and on\n"), "{output}");
    assert_eq!(requests_with(world, "think"), 1, "the prompt is not sent again");
    let record = world.run(["show", "14", "--json"]).json();
    assert_eq!(
        (&record["last"]["turn"], &record["totals"]["turns"]),
        (&live, &json!(1))
    );

    let third = Gate::new();
    world
        .model
        .on("once more", vec![Reply::text("never").behind(&third)]);
    let turn = world.spawn(["continue", "14", "once more", "--transport", transport]);
    third.wait_arrived(SOON);
    world.run(["stop", "14"]).expect_status(0);
    turn.wait(SOON).expect_status(143);
    world.wait_nothing_left(SOON);
}

on_both_versions! {
    fn a_turn_is_paused_resumed_and_stopped_through_serve(world: &World) {
        pause_resume_and_stop(world, "serve");
    }

    fn a_turn_is_paused_resumed_and_stopped_through_run(world: &World) {
        pause_resume_and_stop(world, "run");
    }

    fn a_detached_turn_outlives_its_connection_and_is_not_run_twice(world: &World) {
        world.make_base();
        let gate = Gate::new();
        world.model.on("work", vec![Reply::text("the work is done").behind(&gate)]);
        let id = "01900000-0000-7000-8000-000000000001";
        let mut shell = world.command("/bin/sh");
        shell.args(["-c", "\"$0\" start 14 - --detach --turn-id \"$1\"; sleep 100"]);
        shell.arg(kugetsu_testing::kugetsu_binary());
        shell.arg(id);
        let mut shell = world.start(shell, Stdin::OpenSilent);
        shell.write_stdin(b"work");
        shell.close_stdin();
        shell.wait_for_stdout(id, SOON);
        // The connection drops.
        shell.signal_group(Signal::Hangup);
        shell.signal_group(Signal::Kill);
        shell.wait(SOON);
        gate.wait_arrived(SOON);
        // The client repeats the command and waits; another client stops the turn.
        let again = world.spawn(["start", "14", "work", "--turn-id", id, "--output", "json"]);
        let waiting = world.spawn(["wait", "14"]);
        gate.open();
        let reported = again.wait(SOON).expect_status(0).json();
        assert_eq!((&reported["turn"], &reported["answer"]), (&json!(id), &json!("the work is done")));
        assert_eq!(waiting.wait(SOON).expect_status(0).stdout(), "the work is done\n");
        assert_eq!(requests_with(world, "work"), 1);
        world.wait_nothing_left(SOON);
    }
}
