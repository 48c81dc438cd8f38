//! The status of a live turn, and stopping, pausing and resuming it.

use crate::in_both_modes;
use std::time::Duration;

use crate::support::kit::{ISSUE, SOON, fake_prompts, run_file, scripted_world, status};
use crate::support::proc::{SIGTERM, has_signal};
use kugetsu_testing::{FakeScript, Signal, Stdin, Step};
use serde_json::json;

use super::*;

in_both_modes! {
    a_live_turn_keeps_its_status_and_leaves_it_behind,
    a_stop_ends_the_turn_and_its_command_exits_as_terminated,
    a_supervisor_that_ignores_the_signal_file_gets_sigterm,
    an_invalid_signal_file_is_removed_and_has_no_effect,
    a_paused_turn_keeps_its_place_and_goes_on_without_its_prompt,
    a_paused_turn_can_be_stopped_and_interrupted,
    an_interrupt_counts_while_opencode_is_being_ended_for_a_pause,
    a_signal_for_a_turn_that_is_just_beginning_is_not_lost,
    a_wait_for_another_commands_turn_can_be_interrupted,
    the_time_that_a_turn_is_paused_is_not_counted,
}

fn a_live_turn_keeps_its_status_and_leaves_it_behind() {
    let world = scripted_world(&hanging());
    let mut turn = hang(&world, &[]);
    let first = status(&world, "14").unwrap();
    assert_eq!(first["schema"], 1);
    assert_eq!(first["ref"], ISSUE);
    assert_eq!(first["pid"], turn.pid());
    assert_eq!(first["state"], "running");
    assert_eq!(first["turn"], record_of(&world)["live"]["turn"]);
    assert_eq!(first["directory"], world.repo().to_str().unwrap());
    for field in [
        "start_ticks",
        "boot_id",
        "host",
        "started",
        "completed_steps",
        "cost_usd",
        "tokens",
    ] {
        assert!(!first[field].is_null(), "{field} in {first}");
    }
    // The heartbeat continues although nothing happens in the turn.
    world.wait_until("another heartbeat", SOON, || {
        status(&world, "14").unwrap()["heartbeat"] != first["heartbeat"]
    });
    assert!(turn.is_alive());
    turn.signal(Signal::Interrupt);
    turn.wait(SOON).expect_status(130);
    let last = status(&world, "14").unwrap();
    assert_eq!(
        (&last["state"], &last["verdict"]),
        (&json!("stopped"), &json!("aborted"))
    );
    world.fake(&FakeScript::steps([Step::Error {
        name: "APIError".into(),
        message: "no".into(),
    }]));
    world
        .run(["continue", "14", "again", "--transport", "run"])
        .expect_status(1);
    let last = status(&world, "14").unwrap();
    assert_eq!(
        (&last["state"], &last["verdict"]),
        (&json!("error"), &json!("failed"))
    );
}

fn a_stop_ends_the_turn_and_its_command_exits_as_terminated() {
    let world = scripted_world(&hanging());
    let turn = hang(&world, &[]);
    let stopped = world.run(["stop", "14", "--json"]);
    let reported = stopped.expect_status(0).json();
    assert_eq!(
        (&reported["verdict"], &reported["forced"]),
        (&json!("aborted"), &json!(false)),
        "{stopped}"
    );
    turn.wait(SOON).expect_status(143);
    assert_eq!(record_of(&world)["last"]["verdict"], "aborted");
    assert!(
        !run_file(&world, "14", ".signal.json").exists(),
        "a signal is taken away"
    );
    world.wait_nothing_left(SOON);
    // Nothing runs any more.
    world.run(["stop", "14"]).expect_status(66);
    world.run(["signal", "14", "pause"]).expect_status(66);
    world.run(["stop", "15"]).expect_status(66);
    // Waiting for a finished turn reports its end.
    world.run(["wait", "14"]).expect_status(143);
    // A signal for this turn does not end a later one.
    std::fs::write(
        run_file(&world, "14", ".signal.json"),
        r#"{"schema":1,"signal":"stop"}"#,
    )
    .unwrap();
    world
        .run(["continue", "14", "again", "--transport", "run"])
        .expect_status(0);
}

fn a_supervisor_that_ignores_the_signal_file_gets_sigterm() {
    let world = scripted_world(&hanging());
    let turn = hang(&world, &[]);
    let supervisor = turn.pid();
    // A stopped supervisor handles nothing, and its signals stay pending.
    assert!(world.signal(supervisor, Signal::Stop));
    let mut stop = world.kugetsu(["stop", "14", "--json"]);
    stop.env("KUGETSU_GRACE", "1s");
    let stop = world.start(stop, Stdin::Null);
    world.wait_until("it was sent SIGTERM", SOON, || {
        has_signal(supervisor, "ShdPnd", SIGTERM)
    });
    // The unread file is gone when the supervisor continues, so only SIGTERM can end it.
    std::fs::remove_file(run_file(&world, "14", ".signal.json")).unwrap();
    assert!(world.signal(supervisor, Signal::Continue));
    let output = stop.wait(SOON);
    assert_eq!(output.expect_status(0).json()["forced"], true, "{output}");
    turn.wait(SOON).expect_status(143);
}

fn an_invalid_signal_file_is_removed_and_has_no_effect() {
    let world = scripted_world(&hanging());
    let mut turn = hang(&world, &[]);
    for text in [
        "{",
        r#"{"schema":1,"signal":"dance"}"#,
        r#"{"schema":9,"signal":"stop"}"#,
        r#"{"schema":1,"signal":"stop","turn":"00000000-0000-7000-8000-000000000000"}"#,
    ] {
        let file = run_file(&world, "14", ".signal.json");
        std::fs::write(&file, text).unwrap();
        world.wait_until("it is taken", SOON, || !file.exists());
    }
    // Enough time for each of the signals to have been handled.
    let seen = status(&world, "14").unwrap()["heartbeat"].clone();
    world.wait_until("another heartbeat", SOON, || {
        status(&world, "14").unwrap()["heartbeat"] != seen
    });
    assert_eq!(state(&world), "running");
    assert!(turn.is_alive());
    // In a file written by hand, `signal` alone is enough.
    std::fs::write(run_file(&world, "14", ".signal.json"), r#"{"signal":"stop"}"#).unwrap();
    turn.wait(SOON).expect_status(143);
}

fn a_paused_turn_keeps_its_place_and_goes_on_without_its_prompt() {
    let world = scripted_world(&hanging());
    let mut turn = hang(&world, &[]);
    let id = record_of(&world)["live"]["turn"].clone();
    world.run(["signal", "14", "pause"]).expect_status(0);
    world.wait_until("it is paused", SOON, || state(&world) == "paused");
    world.wait_until("opencode is gone", SOON, || {
        world
            .processes()
            .iter()
            .all(|process| !process.command.contains("fake-opencode"))
    });
    assert!(turn.is_alive());
    assert_eq!(record_of(&world)["live"]["turn"], id);
    // The paused turn still holds the session.
    world
        .run(["continue", "14", "other", "--transport", "run"])
        .expect_status(75);
    let query = world.run(["query"]).expect_status(0).json();
    assert_eq!(query["live"][0]["state"], "paused");
    assert_eq!(world.run(["show", "14", "--json"]).json()["state"], "paused");
    assert!(world.run(["show", "14"]).stdout().contains("paused      turn "));
    assert!(world.run(["list", "--state", "paused"]).stdout().contains("#14"));
    assert_eq!(
        query["actions"][0]["action"],
        format!("kugetsu signal {ISSUE} resume")
    );
    assert_eq!(query["actions"][0]["why"], "it is paused");
    // A second pause has no effect.
    world.run(["signal", "14", "pause"]).expect_status(0);
    world.wait_until("it is taken", SOON, || {
        !run_file(&world, "14", ".signal.json").exists()
    });
    world.run(["signal", "14", "resume"]).expect_status(0);
    turn.wait_for_stdout("done", SOON);
    let output = turn.wait(SOON);
    output.expect_status(0);
    assert_eq!(record_of(&world)["last"]["turn"], id, "it was one turn");
    let reported = fake_prompts(&world);
    assert_eq!(
        reported.iter().filter(|prompt| *prompt == "hang").count(),
        1,
        "{reported:?}"
    );
    assert_eq!(
        reported.len(),
        3,
        "the base's, the turn's, and one to go on: {reported:?}"
    );
}

fn a_paused_turn_can_be_stopped_and_interrupted() {
    let world = scripted_world(&hanging());
    for (issue, how) in [("14", "stop"), ("14", "interrupt")] {
        let verb = if how == "stop" { "start" } else { "continue" };
        let turn = world.spawn([verb, issue, "hang", "--transport", "run"]);
        // This must be a new status, with a session that the next turn continues.
        world.wait_until("the step has begun", SOON, || {
            status(&world, "14")
                .is_some_and(|status| status["state"] == "running" && status["current_step"] == 1)
        });
        world.run(["signal", issue, "pause"]).expect_status(0);
        world.wait_until("it is paused", SOON, || state(&world) == "paused");
        if how == "stop" {
            world.run(["stop", issue]).expect_status(0);
            turn.wait(SOON).expect_status(143);
        } else {
            turn.signal(Signal::Interrupt);
            turn.wait(SOON).expect_status(130);
        }
        world.wait_nothing_left(SOON);
    }
}

fn an_interrupt_counts_while_opencode_is_being_ended_for_a_pause() {
    let mut script = hanging();
    script.ignore_term = true;
    let world = scripted_world(&script);
    let turn = hang(&world, &["--grace", "3s"]);
    world.run(["signal", "14", "pause"]).expect_status(0);
    world.wait_until("the pause is heard", SOON, || {
        !run_file(&world, "14", ".signal.json").exists()
    });
    assert_eq!(state(&world), "running", "opencode does not heed SIGTERM");
    turn.signal(Signal::Interrupt);
    turn.wait(SOON).expect_status(130);
    assert_eq!(record_of(&world)["last"]["verdict"], "aborted");
    world.wait_nothing_left(SOON);
}

fn a_signal_for_a_turn_that_is_just_beginning_is_not_lost() {
    let world = scripted_world(&hanging());
    let id = "01900000-0000-7000-8000-000000000007";
    let another = "01900000-0000-7000-8000-000000000008";
    for (verb, meant, verdict) in [("start", another, "completed"), ("continue", id, "aborted")] {
        let signal = json!({"schema": 1, "turn": meant, "signal": "stop"});
        let file = run_file(&world, "14", ".signal.json");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, signal.to_string()).unwrap();
        let prompt = if verdict == "aborted" { "hang" } else { "be quick" };
        let mut arguments = vec![verb, "14", prompt, "--transport", "run"];
        if meant == id {
            arguments.extend(["--turn-id", id]);
        }
        world.spawn(arguments).wait(SOON);
        assert_eq!(record_of(&world)["last"]["verdict"], verdict);
        assert!(!file.exists());
    }
}

fn a_wait_for_another_commands_turn_can_be_interrupted() {
    let world = scripted_world(&hanging());
    let id = "01900000-0000-7000-8000-000000000009";
    let mut first = hang(&world, &["--turn-id", id]);
    let second = world.spawn([
        "start",
        "14",
        "hang",
        "--transport",
        "run",
        "--turn-id",
        id,
        "--json",
    ]);
    world.wait_until("it prints the turn", SOON, || {
        second.stdout_so_far().contains("agent_start")
    });
    second.signal(Signal::Interrupt);
    second.wait(SOON).expect_status(130);
    assert!(first.is_alive());
    world.run(["stop", "14"]).expect_status(0);
    first.wait(SOON).expect_status(143);
}

fn the_time_that_a_turn_is_paused_is_not_counted() {
    let world = scripted_world(&hanging());
    let turn = hang(&world, &["--timeout", "8s"]);
    world.run(["signal", "14", "pause"]).expect_status(0);
    world.wait_until("it is paused", SOON, || state(&world) == "paused");
    let paused = std::time::Instant::now();
    world.wait_until("more than the limit has passed", SOON, || {
        paused.elapsed() > Duration::from_secs(9)
    });
    world.run(["signal", "14", "resume"]).expect_status(0);
    turn.wait(SOON).expect_status(0);
}
