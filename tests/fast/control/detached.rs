//! Turns that outlive their command, and repeated requests for the same turn.

use crate::in_both_modes;
use std::path::PathBuf;

use crate::support::kit::{ISSUE, REPO, SOON, fake_prompts, make_default, run_file, scripted_world, status};
use kugetsu_testing::{Output, Signal, Stdin, Step};
use serde_json::json;

use super::*;

in_both_modes! {
    a_detached_turn_is_recorded_followed_waited_for_and_found,
    a_detached_turn_outlives_the_session_that_began_it,
    the_command_reports_why_a_detached_turn_cannot_begin,
    a_prompt_reaches_a_detached_turn_byte_for_byte_and_no_process_list,
    a_turn_of_the_same_id_is_not_run_twice,
    two_retries_at_once_run_one_turn,
    a_dead_supervisors_turn_is_lost_for_waiters_and_repeated_requests,
}

fn a_detached_turn_is_recorded_followed_waited_for_and_found() {
    let world = scripted_world(&hanging().on("slow", [Step::Pause(1500), Step::Answer("the answer".into())]));
    let id = detached(&world, &["start", "14", "slow", "--transport", "run", "--detach"]);
    assert_eq!(record_of(&world)["live"]["turn"], id.as_str());
    let supervisor = record_of(&world)["live"]["supervisor"]["pid"].as_u64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
    let session: u64 = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(session, supervisor, "it leads a session of its own");
    for fd in [0, 1] {
        let target = std::fs::read_link(format!("/proc/{supervisor}/fd/{fd}")).unwrap();
        assert_eq!(target, PathBuf::from("/dev/null"));
    }
    let followed = world.run(["logs", "14", "-f"]);
    assert_eq!(followed.expect_status(0).stdout(), "the answer\n");
    let waited = world.run(["wait", "14", "--output", "json"]);
    let reported = waited.expect_status(0).json();
    assert_eq!(
        (&reported["turn"], &reported["answer"]),
        (&json!(id), &json!("the answer")),
        "{waited}"
    );
    assert_eq!(
        (&reported["verdict"], &reported["exit_status"]),
        (&json!("completed"), &json!(0))
    );
    let waited = world.run(["wait", "14"]);
    assert_eq!(waited.expect_status(0).stdout(), "the answer\n");
    let log = world
        .kugetsu_home()
        .join("sessions")
        .join(REPO)
        .join("14/supervisor.log");
    assert!(std::fs::read_to_string(log).unwrap().contains("completed"));

    let id = detached(
        &world,
        &["continue", "14", "hang", "--transport", "run", "--detach"],
    );
    let shown = world.run(["show", "14"]);
    assert!(shown.stdout().contains(&id[28..]), "{shown}");
    // A wait that times out does not end the turn.
    let expired = world.run(["wait", "14", "--timeout", "300ms"]);
    assert!(
        expired
            .expect_status(75)
            .stderr()
            .contains("still runs after 0.3s"),
        "{expired}"
    );
    let waiting = world.spawn(["wait", "14", "--output", "json"]);
    world.run(["stop", "14"]).expect_status(0);
    let waited = waiting.wait(SOON);
    assert_eq!(waited.expect_status(143).json()["verdict"], "aborted");
    world.wait_nothing_left(SOON);
}

fn a_detached_turn_outlives_the_session_that_began_it() {
    let world = scripted_world(&hanging());
    // When a connection drops, the whole process session is killed.
    let mut shell = world.command("/bin/sh");
    shell.args(["-c", "\"$0\" start 14 hang --transport run --detach; sleep 100"]);
    shell.arg(kugetsu_testing::kugetsu_binary());
    let mut shell = world.start(shell, Stdin::OpenSilent);
    shell.wait_for_stdout("\n", SOON);
    world.wait_until("the step has begun", SOON, || {
        status(&world, "14").is_some_and(|status| status["current_step"] == 1)
    });
    shell.signal_group(Signal::Hangup);
    shell.signal_group(Signal::Kill);
    shell.wait(SOON);
    let supervisor = status(&world, "14").unwrap()["pid"].as_u64().unwrap();
    // Even a direct hang-up signal does not end the turn.
    let hangup = world.finish(
        {
            let mut kill = world.command("kill");
            kill.args(["-HUP", &supervisor.to_string()]);
            kill
        },
        Stdin::Null,
    );
    hangup.expect_status(0);
    let seen = status(&world, "14").unwrap()["heartbeat"].clone();
    world.wait_until("it lives on", SOON, || {
        status(&world, "14").unwrap()["heartbeat"] != seen
    });
    assert_eq!(state(&world), "running");
    world.run(["stop", "14"]).expect_status(0);
    world.wait_nothing_left(SOON);
}

fn the_command_reports_why_a_detached_turn_cannot_begin() {
    let world = scripted_world(&hanging());
    make_default(&world);
    let refused = |arguments: &[&str], status: i32| -> Output {
        let output = world.run(arguments);
        output.expect_status(status);
        assert_eq!(output.stdout(), "", "{output}");
        output
    };
    refused(&["continue", "14", "hi", "--detach"], 66);
    refused(&["start", "not/a", "hi", "--detach"], 64);
    refused(
        &[
            "start",
            "codeberg.org/a/b#1",
            "--transport",
            "serve",
            "hi",
            "--detach",
        ],
        69,
    );
    let turn = hang(&world, &[]);
    let held = refused(&["continue", "14", "hi", "--detach"], 75);
    assert!(
        held.stderr().contains(&format!("process {}", turn.pid())),
        "{held}"
    );
    let held = world.run(["continue", "14", "hi", "--detach", "--json"]);
    assert_eq!(held.expect_status(75).json()["exit_status"], 75);
    turn.signal(Signal::Terminate);
    turn.wait(SOON).expect_status(143);
    refused(&["start", "14", "hi", "--detach"], 64);
    world.wait_nothing_left(SOON);
}

fn a_prompt_reaches_a_detached_turn_byte_for_byte_and_no_process_list() {
    let world = scripted_world(&hanging());
    let prompt = "-- hang \"a\" 'b' $(c)\n\u{1f980} secret-word";
    let output = world.run_with(
        ["start", "14", "-", "--detach", "--transport", "run"],
        Stdin::text(prompt),
    );
    output.expect_status(0);
    world.wait_until("the step has begun", SOON, || {
        status(&world, "14").is_some_and(|status| status["current_step"] == 1)
    });
    assert_eq!(fake_prompts(&world).last().unwrap(), prompt);
    let seen: Vec<_> = world
        .processes()
        .into_iter()
        .map(|process| process.command)
        .collect();
    assert!(!seen.is_empty());
    assert!(
        seen.iter().all(|command| !command.contains("secret-word")),
        "{seen:?}"
    );
    world.run(["stop", "14"]).expect_status(0);
}

fn a_turn_of_the_same_id_is_not_run_twice() {
    let world = scripted_world(&hanging().on("slow", [Step::Pause(1500), Step::Answer("once".into())]));
    let id = "01900000-0000-7000-8000-000000000001";
    let start = [
        "start",
        "14",
        "slow",
        "--transport",
        "run",
        "--turn-id",
        id,
        "--output",
        "json",
    ];
    let first = world.spawn(start);
    world.wait_until("it is recorded", SOON, || {
        run_file(&world, "14", ".status.json").exists()
    });
    // The repeated command waits while the turn runs, and reports its result afterwards.
    let second = world.run(start);
    let first = first.wait(SOON);
    let third = world.run(start);
    for output in [&first, &second, &third] {
        let reported = output.expect_status(0).json();
        assert_eq!(
            (&reported["turn"], &reported["answer"]),
            (&json!(id), &json!("once")),
            "{output}"
        );
    }
    assert_eq!(
        detached(&world, &["start", "14", "slow", "--detach", "--turn-id", id]),
        id
    );
    assert_eq!(
        fake_prompts(&world)
            .iter()
            .filter(|prompt| *prompt == "slow")
            .count(),
        1
    );
    assert_eq!(record_of(&world)["totals"]["turns"], 1);
    // Another id means another turn, and `start` refuses that.
    world
        .run([
            "start",
            "14",
            "slow",
            "--turn-id",
            "01900000-0000-7000-8000-000000000002",
        ])
        .expect_status(64);
    world
        .run(["start", "14", "slow", "--turn-id", "nonsense"])
        .expect_status(64);
    // Older turns are found too.
    world
        .run(["continue", "14", "more", "--transport", "run"])
        .expect_status(0);
    assert_eq!(world.run(start).expect_status(0).json()["answer"], "once");
    assert_eq!(record_of(&world)["totals"]["turns"], 2);
}

fn two_retries_at_once_run_one_turn() {
    let world = scripted_world(&hanging().on("slow", [Step::Pause(500), Step::Answer("once".into())]));
    let id = "01900000-0000-7000-8000-000000000003";
    let start = ["start", "14", "slow", "--transport", "run", "--turn-id", id];
    let running: Vec<_> = (0..4).map(|_| world.spawn(start)).collect();
    for command in running {
        let output = command.wait(SOON);
        assert_eq!(output.expect_status(0).stdout(), "once\n", "{output}");
    }
    assert_eq!(
        fake_prompts(&world)
            .iter()
            .filter(|prompt| *prompt == "slow")
            .count(),
        1
    );
}

fn a_dead_supervisors_turn_is_lost_for_waiters_and_repeated_requests() {
    let world = scripted_world(&hanging());
    let id = "01900000-0000-7000-8000-000000000004";
    let turn = hang(&world, &["--turn-id", id]);
    let waiting = world.spawn(["wait", "14", "--output", "json"]);
    turn.kill9();
    let waited = waiting.wait(SOON);
    assert_eq!(waited.expect_status(1).json()["verdict"], "lost", "{waited}");
    let query = world.run(["query"]).expect_status(0).json();
    assert_eq!(query["sessions"]["lost"], 1);
    assert_eq!(query["live"][0]["stale"], true);
    let action = &query["actions"][0];
    assert_eq!(
        (&action["state"], &action["action"]),
        (
            &json!("lost"),
            &json!(format!("kugetsu continue {ISSUE} \"go on\""))
        )
    );
    assert!(action["why"].as_str().unwrap().contains("died"), "{action}");
    world.run(["stop", "14"]).expect_status(66);
    world.run(["signal", "14", "stop"]).expect_status(66);
    let again = world.run([
        "start",
        "14",
        "hang",
        "--transport",
        "run",
        "--turn-id",
        id,
        "--output",
        "json",
    ]);
    assert_eq!(again.expect_status(1).json()["verdict"], "lost", "{again}");
    assert_eq!(
        fake_prompts(&world)
            .iter()
            .filter(|prompt| *prompt == "hang")
            .count(),
        1
    );
}
