//! Turns that run elsewhere: steered by files, waited for, stopped, detached, asked for twice, asked about.
//!

//! On the fake opencode; `real/control.rs` has what only the real one can show.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use kugetsu_testing::{FakeScript, Opencode, Output, Running, ServeMode, Signal, Stdin, Step, World, usage};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);
const REF: &str = "github.com/shoko/kugetsu#14";
const FOLDER: &str = "github.com/shoko/kugetsu";

/// A world on the fake opencode with an adopted base.
fn world(script: &FakeScript) -> World {
    let world = World::new(Opencode::Fake);
    world
        .finish(
            world.opencode_command(["run", "--format", "json"]),
            Stdin::text("base"),
        )
        .expect_status(0);
    let base = world.sessions()[0].id.clone();
    world.run(["init", "--adopt", base.as_str()]).expect_status(0);
    world.fake(script);
    world
}

fn hanging() -> FakeScript {
    FakeScript::default().on(
        "hang",
        [
            Step::Event {
                kind: "step_start".into(),
                part: json!({"type": "step-start"}),
            },
            Step::Hang,
        ],
    )
}

fn run_file(world: &World, ending: &str) -> PathBuf {
    world
        .kugetsu_home()
        .join("run")
        .join(FOLDER)
        .join(format!("14{ending}"))
}

fn status(world: &World) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(run_file(world, ".status.json")).ok()?).ok()
}

fn state(world: &World) -> String {
    status(world).map_or_else(String::new, |status| {
        status["state"].as_str().unwrap_or_default().to_owned()
    })
}

fn record(world: &World) -> Value {
    let file = world.kugetsu_home().join("sessions").join(FOLDER).join("14.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn prompts(world: &World) -> Vec<String> {
    world
        .fake_calls()
        .into_iter()
        .filter_map(|call| call.prompt)
        .collect()
}

/// A turn that hangs in opencode until it is ended, with its step begun.
fn hang(world: &World, arguments: &[&str]) -> Running {
    let words = ["start", "14", "hang", "--transport", "run"];
    let running = world.spawn(words.iter().chain(arguments));
    world.wait_until("the step has begun", SOON, || {
        status(world).is_some_and(|status| status["current_step"] == 1)
    });
    running
}

fn detached(world: &World, arguments: &[&str]) -> String {
    let output = world.run(arguments);
    output.expect_status(0);
    let id = output.stdout().trim().to_owned();
    assert_eq!(id.len(), 36, "the id alone\n{output}");
    id
}

#[test]
fn a_live_turn_keeps_its_status_and_leaves_it_behind() {
    let world = world(&hanging());
    let mut turn = hang(&world, &[]);
    let first = status(&world).unwrap();
    assert_eq!(first["schema"], 1);
    assert_eq!(first["ref"], REF);
    assert_eq!(first["pid"], turn.pid());
    assert_eq!(first["state"], "running");
    assert_eq!(first["turn"], record(&world)["live"]["turn"]);
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
    // Nothing happens in the turn, and it gives signs of life all the same.
    world.wait_until("another heartbeat", SOON, || {
        status(&world).unwrap()["heartbeat"] != first["heartbeat"]
    });
    assert!(turn.is_alive());
    turn.signal(Signal::Interrupt);
    turn.wait(SOON).expect_status(130);
    let last = status(&world).unwrap();
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
    let last = status(&world).unwrap();
    assert_eq!(
        (&last["state"], &last["verdict"]),
        (&json!("error"), &json!("failed"))
    );
}

#[test]
fn a_stop_ends_the_turn_and_the_command_that_runs_it_says_terminated() {
    let world = world(&hanging());
    let turn = hang(&world, &[]);
    let stopped = world.run(["stop", "14", "--json"]);
    let told = stopped.expect_status(0).json();
    assert_eq!(
        (&told["verdict"], &told["forced"]),
        (&json!("aborted"), &json!(false)),
        "{stopped}"
    );
    turn.wait(SOON).expect_status(143);
    assert_eq!(record(&world)["last"]["verdict"], "aborted");
    assert!(
        !run_file(&world, ".signal.json").exists(),
        "a signal is taken away"
    );
    world.wait_nothing_left(SOON);
    // Nothing runs any more.
    world.run(["stop", "14"]).expect_status(66);
    world.run(["signal", "14", "pause"]).expect_status(66);
    world.run(["stop", "15"]).expect_status(66);
    // Waiting for a turn that is over tells how it ended.
    world.run(["wait", "14"]).expect_status(143);
    // A later turn is not ended by what was meant for this one.
    std::fs::write(
        run_file(&world, ".signal.json"),
        r#"{"schema":1,"signal":"stop"}"#,
    )
    .unwrap();
    world
        .run(["continue", "14", "again", "--transport", "run"])
        .expect_status(0);
}

#[test]
fn a_supervisor_that_heeds_no_file_gets_sigterm() {
    let world = world(&hanging());
    let turn = hang(&world, &[]);
    // Where its signal file should be is something that cannot be taken away.
    let signal = run_file(&world, ".signal.json");
    let key = run_file(&world, "");
    std::fs::create_dir_all(key.parent().unwrap()).unwrap();
    let mut stop = world.kugetsu(["stop", "14", "--json"]);
    stop.env("KUGETSU_GRACE", "1s");
    let running = world.start(stop, Stdin::Null);
    // Taken away before the supervisor sees it, as often as it comes.
    let stealing = std::time::Instant::now();
    let mut running = running;
    while running.is_alive() && stealing.elapsed() < SOON {
        let _ = std::fs::remove_file(&signal);
    }
    let output = running.wait(SOON);
    assert_eq!(output.expect_status(0).json()["forced"], true, "{output}");
    turn.wait(SOON).expect_status(143);
}

#[test]
fn what_is_no_signal_is_taken_away_and_does_nothing() {
    let world = world(&hanging());
    let mut turn = hang(&world, &[]);
    for text in [
        "{",
        r#"{"schema":1,"signal":"dance"}"#,
        r#"{"schema":9,"signal":"stop"}"#,
        r#"{"schema":1,"signal":"stop","turn":"00000000-0000-7000-8000-000000000000"}"#,
    ] {
        let file = run_file(&world, ".signal.json");
        std::fs::write(&file, text).unwrap();
        world.wait_until("it is taken", SOON, || !file.exists());
    }
    // Long enough for each of them to have been heeded.
    let seen = status(&world).unwrap()["heartbeat"].clone();
    world.wait_until("another heartbeat", SOON, || {
        status(&world).unwrap()["heartbeat"] != seen
    });
    assert_eq!(state(&world), "running");
    assert!(turn.is_alive());
    // By hand, the word alone is enough.
    std::fs::write(run_file(&world, ".signal.json"), r#"{"signal":"stop"}"#).unwrap();
    turn.wait(SOON).expect_status(143);
}

#[test]
fn a_paused_turn_keeps_its_place_and_goes_on_without_its_prompt() {
    let world = world(&hanging());
    let mut turn = hang(&world, &[]);
    let id = record(&world)["live"]["turn"].clone();
    world.run(["signal", "14", "pause"]).expect_status(0);
    world.wait_until("it is paused", SOON, || state(&world) == "paused");
    world.wait_until("opencode is gone", SOON, || {
        world
            .processes()
            .iter()
            .all(|process| !process.command.contains("fake-opencode"))
    });
    assert!(turn.is_alive());
    assert_eq!(record(&world)["live"]["turn"], id);
    // The session is still the paused turn's.
    world
        .run(["continue", "14", "other", "--transport", "run"])
        .expect_status(75);
    let query = world.run(["query"]).expect_status(0).json();
    assert_eq!(query["live"][0]["state"], "paused");
    assert_eq!(
        query["actions"][0]["action"],
        format!("kugetsu signal {REF} resume")
    );
    assert_eq!(query["actions"][0]["why"], "it is paused");
    // A second pause is none.
    world.run(["signal", "14", "pause"]).expect_status(0);
    world.wait_until("it is taken", SOON, || !run_file(&world, ".signal.json").exists());
    world.run(["signal", "14", "resume"]).expect_status(0);
    turn.wait_for_stdout("done", SOON);
    let output = turn.wait(SOON);
    output.expect_status(0);
    assert_eq!(record(&world)["last"]["turn"], id, "it was one turn");
    let told = prompts(&world);
    assert_eq!(
        told.iter().filter(|prompt| *prompt == "hang").count(),
        1,
        "{told:?}"
    );
    assert_eq!(
        told.len(),
        3,
        "the base's, the turn's, and one to go on: {told:?}"
    );
}

#[test]
fn a_paused_turn_can_be_stopped_and_interrupted() {
    let world = world(&hanging());
    for (issue, how) in [("14", "stop"), ("14", "interrupt")] {
        let verb = if how == "stop" { "start" } else { "continue" };
        let turn = world.spawn([verb, issue, "hang", "--transport", "run"]);
        // Not what the turn before left behind, and with a session that the next one goes on with.
        world.wait_until("the step has begun", SOON, || {
            status(&world).is_some_and(|status| status["state"] == "running" && status["current_step"] == 1)
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

#[test]
fn an_interrupt_counts_while_opencode_is_being_ended_for_a_pause() {
    let mut script = hanging();
    script.ignore_term = true;
    let world = world(&script);
    let turn = hang(&world, &["--grace", "3s"]);
    world.run(["signal", "14", "pause"]).expect_status(0);
    world.wait_until("the pause is heard", SOON, || {
        !run_file(&world, ".signal.json").exists()
    });
    assert_eq!(state(&world), "running", "opencode does not heed SIGTERM");
    turn.signal(Signal::Interrupt);
    turn.wait(SOON).expect_status(130);
    assert_eq!(record(&world)["last"]["verdict"], "aborted");
    world.wait_nothing_left(SOON);
}

#[test]
fn a_signal_for_a_turn_that_is_just_beginning_is_not_lost() {
    let world = world(&hanging());
    let id = "01900000-0000-7000-8000-000000000007";
    let another = "01900000-0000-7000-8000-000000000008";
    for (verb, meant, verdict) in [("start", another, "completed"), ("continue", id, "aborted")] {
        let signal = json!({"schema": 1, "turn": meant, "signal": "stop"});
        let file = run_file(&world, ".signal.json");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, signal.to_string()).unwrap();
        let prompt = if verdict == "aborted" { "hang" } else { "be quick" };
        let mut arguments = vec![verb, "14", prompt, "--transport", "run"];
        if meant == id {
            arguments.extend(["--turn-id", id]);
        }
        world.spawn(arguments).wait(SOON);
        assert_eq!(record(&world)["last"]["verdict"], verdict);
        assert!(!file.exists());
    }
}

#[test]
fn whoever_waits_for_another_commands_turn_can_be_interrupted() {
    let world = world(&hanging());
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

#[test]
fn the_time_that_a_turn_is_paused_is_not_counted() {
    let world = world(&hanging());
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

#[test]
fn a_detached_turn_is_recorded_followed_waited_for_and_found() {
    let world = world(&hanging().on("slow", [Step::Pause(1500), Step::Answer("the answer".into())]));
    let id = detached(&world, &["start", "14", "slow", "--transport", "run", "--detach"]);
    assert_eq!(record(&world)["live"]["turn"], id.as_str());
    let supervisor = record(&world)["live"]["supervisor"]["pid"].as_u64().unwrap();
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
    let told = waited.expect_status(0).json();
    assert_eq!(
        (&told["turn"], &told["answer"]),
        (&json!(id), &json!("the answer")),
        "{waited}"
    );
    assert_eq!(
        (&told["verdict"], &told["exit_status"]),
        (&json!("completed"), &json!(0))
    );
    let waited = world.run(["wait", "14"]);
    assert_eq!(waited.expect_status(0).stdout(), "the answer\n");
    let log = world
        .kugetsu_home()
        .join("sessions")
        .join(FOLDER)
        .join("14/supervisor.log");
    assert!(std::fs::read_to_string(log).unwrap().contains("completed"));

    let id = detached(
        &world,
        &["continue", "14", "hang", "--transport", "run", "--detach"],
    );
    let shown = world.run(["show", "14"]);
    assert!(shown.stdout().contains(&id), "{shown}");
    // The turn goes on when a wait is given up.
    world.run(["wait", "14", "--timeout", "300ms"]).expect_status(75);
    let waiting = world.spawn(["wait", "14", "--output", "json"]);
    world.run(["stop", "14"]).expect_status(0);
    let waited = waiting.wait(SOON);
    assert_eq!(waited.expect_status(143).json()["verdict"], "aborted");
    world.wait_nothing_left(SOON);
}

#[test]
fn a_detached_turn_outlives_the_session_that_began_it() {
    let world = world(&hanging());
    // What a connection leaves behind when it drops: the whole process session is killed.
    let mut shell = world.command("/bin/sh");
    shell.args(["-c", "\"$0\" start 14 hang --transport run --detach; sleep 100"]);
    shell.arg(kugetsu_testing::kugetsu_binary());
    let mut shell = world.start(shell, Stdin::OpenSilent);
    shell.wait_for_stdout("\n", SOON);
    world.wait_until("the step has begun", SOON, || {
        status(&world).is_some_and(|status| status["current_step"] == 1)
    });
    shell.signal_group(Signal::Hangup);
    shell.signal_group(Signal::Kill);
    shell.wait(SOON);
    let supervisor = status(&world).unwrap()["pid"].as_u64().unwrap();
    // Not even a hang-up of its own ends it.
    let hangup = world.finish(
        {
            let mut kill = world.command("kill");
            kill.args(["-HUP", &supervisor.to_string()]);
            kill
        },
        Stdin::Null,
    );
    hangup.expect_status(0);
    let seen = status(&world).unwrap()["heartbeat"].clone();
    world.wait_until("it lives on", SOON, || {
        status(&world).unwrap()["heartbeat"] != seen
    });
    assert_eq!(state(&world), "running");
    world.run(["stop", "14"]).expect_status(0);
    world.wait_nothing_left(SOON);
}

#[test]
fn what_keeps_a_detached_turn_from_beginning_is_told_by_the_command() {
    let world = world(&hanging());
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

#[test]
fn a_prompt_reaches_a_detached_turn_byte_for_byte_and_no_process_list() {
    let world = world(&hanging());
    let prompt = "-- hang \"a\" 'b' $(c)\n\u{1f980} secret-word";
    let output = world.run_with(
        ["start", "14", "-", "--detach", "--transport", "run"],
        Stdin::text(prompt),
    );
    output.expect_status(0);
    world.wait_until("the step has begun", SOON, || {
        status(&world).is_some_and(|status| status["current_step"] == 1)
    });
    assert_eq!(prompts(&world).last().unwrap(), prompt);
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

#[test]
fn a_turn_of_the_same_id_is_not_run_twice() {
    let world = world(&hanging().on("slow", [Step::Pause(1500), Step::Answer("once".into())]));
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
        run_file(&world, ".status.json").exists()
    });
    // While it runs: waited for. Afterwards: told again.
    let second = world.run(start);
    let first = first.wait(SOON);
    let third = world.run(start);
    for output in [&first, &second, &third] {
        let told = output.expect_status(0).json();
        assert_eq!(
            (&told["turn"], &told["answer"]),
            (&json!(id), &json!("once")),
            "{output}"
        );
    }
    assert_eq!(
        detached(&world, &["start", "14", "slow", "--detach", "--turn-id", id]),
        id
    );
    assert_eq!(
        prompts(&world).iter().filter(|prompt| *prompt == "slow").count(),
        1
    );
    assert_eq!(record(&world)["totals"]["turns"], 1);
    // Another id is another turn, and a `start` of one is refused.
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
    // An older turn is known as well.
    world
        .run(["continue", "14", "more", "--transport", "run"])
        .expect_status(0);
    assert_eq!(world.run(start).expect_status(0).json()["answer"], "once");
    assert_eq!(record(&world)["totals"]["turns"], 2);
}

#[test]
fn two_retries_at_once_run_one_turn() {
    let world = world(&hanging().on("slow", [Step::Pause(500), Step::Answer("once".into())]));
    let id = "01900000-0000-7000-8000-000000000003";
    let start = ["start", "14", "slow", "--transport", "run", "--turn-id", id];
    let running: Vec<_> = (0..4).map(|_| world.spawn(start)).collect();
    for command in running {
        let output = command.wait(SOON);
        assert_eq!(output.expect_status(0).stdout(), "once\n", "{output}");
    }
    assert_eq!(
        prompts(&world).iter().filter(|prompt| *prompt == "slow").count(),
        1
    );
}

#[test]
fn a_turn_whose_supervisor_died_is_lost_for_who_waits_and_who_asks_again() {
    let world = world(&hanging());
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
            &json!(format!("kugetsu continue {REF} \"go on\""))
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
        prompts(&world).iter().filter(|prompt| *prompt == "hang").count(),
        1
    );
}

#[test]
fn a_query_counts_sums_and_says_what_to_do() {
    let fails = Step::Error {
        name: "APIError".into(),
        message: "no credit".into(),
    };
    let world = world(&hanging().on("fail", [fails]));
    for issue in ["1", "2"] {
        world
            .run(["start", issue, "hi", "--transport", "run"])
            .expect_status(0);
    }
    world
        .run(["start", "github.com/other/repo#3", "fail", "--transport", "run"])
        .expect_status(1);
    let turn = hang(&world, &[]);
    let output = world.run(["query"]);
    let query = output.expect_status(0).json();
    assert_eq!(query["schema"], 1);
    let count = |state: &str| query["sessions"][state].as_u64().unwrap();
    assert_eq!(
        (
            count("total"),
            count("completed"),
            count("failed"),
            count("running"),
            count("lost")
        ),
        (4, 2, 1, 1, 0)
    );
    assert_eq!(query["live"].as_array().unwrap().len(), 1);
    let live = &query["live"][0];
    assert_eq!(
        (&live["ref"], &live["pid"], &live["state"]),
        (&json!(REF), &json!(turn.pid()), &json!("running"))
    );
    assert_eq!(
        (&live["stale"], &live["current_step"]),
        (&json!(false), &json!(1))
    );
    assert!(live["heartbeat"].is_string(), "{live}");
    assert_eq!(query["pending"], json!([]));
    let cost = query["totals"]["cost_usd"].as_f64().unwrap();
    assert!((cost - 2.0 * usage::COST).abs() < 1e-9, "{cost}");
    let sum = |list: &str, field: &str| -> u64 {
        query[list]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry[field].as_u64().unwrap())
            .sum()
    };
    assert_eq!(
        (
            sum("days", "turns"),
            sum("repositories", "turns"),
            sum("repositories", "sessions")
        ),
        (3, 3, 4)
    );
    let repos: Vec<_> = query["repositories"]
        .as_array()
        .unwrap()
        .iter()
        .map(|repo| repo["repo"].as_str().unwrap())
        .collect();
    assert_eq!(repos, ["github.com/other/repo", FOLDER]);
    let [action] = &query["actions"].as_array().unwrap()[..] else {
        panic!("one action\n{output}")
    };
    assert_eq!(
        (&action["ref"], &action["state"]),
        (&json!("github.com/other/repo#3"), &json!("failed"))
    );
    assert!(action["why"].as_str().unwrap().contains("no credit"), "{action}");
    turn.signal(Signal::Terminate);
    turn.wait(SOON).expect_status(143);
}

#[test]
fn a_query_says_when_a_provider_may_be_asked_again() {
    let error = json!({"type": "error", "error": {"name": "APIError", "data": {
        "message": "come back later", "statusCode": 429, "isRetryable": true,
        "responseHeaders": {"retry-after": "7200"},
    }}});
    let world = world(&FakeScript::default().on("ask", [Step::Raw(format!("{error}\n"))]));
    world
        .run([
            "start",
            "14",
            "ask",
            "--transport",
            "run",
            "--max-quota-wait",
            "1s",
        ])
        .expect_status(75);
    let query = world.run(["query"]).expect_status(0).json();
    let action = &query["actions"][0];
    assert_eq!(
        (&action["state"], &action["action"]),
        (
            &json!("quota"),
            &json!(format!("kugetsu continue {REF} \"go on\""))
        )
    );
    let why = action["why"].as_str().unwrap();
    assert!(
        why.contains("come back later") && why.contains("(not before 20"),
        "{action}"
    );

    let file = world.kugetsu_home().join("sessions").join(FOLDER).join("14.json");
    let mut blocked = record(&world);
    blocked["last"]["verdict"] = json!("blocked");
    std::fs::write(file, blocked.to_string()).unwrap();
    let query = world.run(["query"]).expect_status(0).json();
    assert_eq!(
        query["actions"][0]["action"],
        format!("kugetsu continue {REF} \"go on\""),
        "there is nothing to answer"
    );
}

#[test]
fn a_query_needs_neither_opencode_nor_a_lease() {
    let world = world(&hanging());
    let turn = hang(&world, &[]);
    // The supervisor stands still, and holds what it holds.
    turn.signal(Signal::Stop);
    let mut query = world.kugetsu(["query"]);
    query.env("KUGETSU_OPENCODE", "/nowhere");
    let query = world.finish(query, Stdin::Null);
    assert_eq!(query.expect_status(0).json()["sessions"]["running"], 1);
    let file = run_file(&world, ".status.json");
    let mut old = status(&world).unwrap();
    old["heartbeat"] = json!("2026-01-01T00:00:00Z");
    std::fs::write(&file, old.to_string()).unwrap();
    let query = world.run(["query"]).expect_status(0).json();
    assert_eq!(query["live"][0]["stale"], true, "{query}");
    assert!(
        query["actions"][0]["action"]
            .as_str()
            .unwrap()
            .starts_with("kugetsu stop"),
        "{query}"
    );
    turn.signal(Signal::Continue);
    turn.signal(Signal::Terminate);
    turn.wait(SOON).expect_status(143);
}

#[test]
fn a_rebase_moves_the_worktree_between_turns_or_leaves_it_alone() {
    let (world, tree) = world_with_worktree();
    let commit = |folder: &std::path::Path, file: &str, text: &str| commit(&world, folder, file, text);
    let rebase = ["signal", "14", "rebase", "--json"];
    assert_eq!(world.run(rebase).expect_status(0).json()["result"], "up_to_date");
    commit(&tree, "theirs", "a");
    let head = commit(&world.repo(), "ours", "a");
    assert_eq!(world.run(rebase).expect_status(0).json()["result"], "rebased");
    assert!(tree.join("ours").exists() && tree.join("theirs").exists());
    assert_eq!(record(&world)["worktree"]["base_commit"], head.as_str());

    let before = commit(&tree, "both", "a");
    commit(&world.repo(), "both", "b");
    let blocked = world.run(rebase);
    assert_eq!(
        blocked.expect_status(2).json()["conflicts"],
        json!(["both"]),
        "{blocked}"
    );
    assert_eq!(world.git(&tree, ["rev-parse", "HEAD"]).stdout().trim(), before);
    assert_eq!(world.git(&tree, ["status", "--porcelain"]).stdout(), "");
    let json = world.run(["show", "14", "--json"]).expect_status(0).json();
    assert_eq!(json["state"], "blocked", "{json}");
    let shown = world.run(["show", "14"]).expect_status(0).stdout();
    assert!(
        shown.contains("onto main is blocked: conflicts in both"),
        "{shown}"
    );
    let query = world.run(["query"]).expect_status(0).json();
    assert_eq!(query["sessions"]["blocked"], 1, "{query}");
    let action = &query["actions"][0];
    assert!(
        action["why"].as_str().unwrap().contains("conflicts in both"),
        "{query}"
    );
    assert!(
        action["action"].as_str().unwrap().contains("rebase onto main"),
        "{query}"
    );
    std::fs::write(tree.join("both"), "c").unwrap();
    world.run(rebase).expect_status(64);
    world.git(&tree, ["checkout", "both"]).expect_status(0);
    // Not while a turn runs there.
    let turn = world.spawn(["continue", "14", "hang", "--transport", "run"]);
    world.wait_until("it runs", SOON, || state(&world) == "running");
    world.run(rebase).expect_status(75);
    world.run(["stop", "14"]).expect_status(0);
    turn.wait(SOON).expect_status(143);
    // What a turn made of it, the next rebase finds out.
    assert_eq!(world.run(["query"]).expect_status(0).json()["actions"], json!([]));
}

/// A world whose issue has a session in a worktree.
fn world_with_worktree() -> (World, PathBuf) {
    let world = world(&FakeScript {
        serve: ServeMode::Sessions,
        ..hanging()
    });
    world
        .run(["start", "14", "hi", "--transport", "run", "--worktree"])
        .expect_status(0);
    let tree = PathBuf::from(record(&world)["worktree"]["path"].as_str().unwrap());
    (world, tree)
}

/// A commit in some folder.
fn commit(world: &World, folder: &std::path::Path, file: &str, text: &str) -> String {
    std::fs::write(folder.join(file), text).unwrap();
    world.git(folder, ["add", file]).expect_status(0);
    world.git(folder, ["commit", "-m", file]).expect_status(0);
    head(world, folder)
}

fn head(world: &World, folder: &std::path::Path) -> String {
    world
        .git(folder, ["rev-parse", "HEAD"])
        .stdout()
        .trim()
        .to_owned()
}

#[test]
fn a_rebase_leaves_what_somebody_is_in_the_middle_of() {
    let (world, tree) = world_with_worktree();
    commit(&world, &tree, "first", "a");
    commit(&world, &tree, "second", "a");
    commit(&world, &world.repo(), "ours", "a");
    let refused = |says: &str, hint: &str| {
        let before = (head(&world, &tree), world.git(&tree, ["status"]).stdout());
        let output = world.run(["signal", "14", "rebase"]);
        let told = output.expect_status(64).stderr();
        assert!(told.contains(says) && told.contains(hint), "{output}");
        let after = (head(&world, &tree), world.git(&tree, ["status"]).stdout());
        assert_eq!(after, before, "{output}");
    };
    // An agent stopped at `edit`: the tree is clean, and `rebase --abort` would throw its place away.
    let edit = "sequence.editor=sed -i 1s/^pick/edit/";
    world
        .git(&tree, ["-c", edit, "rebase", "-i", "HEAD~2"])
        .expect_status(0);
    refused("a rebase is in progress", "git rebase --abort");
    world.git(&tree, ["rebase", "--continue"]).expect_status(0);
    // A merge of nothing is as clean.
    let merge = ["merge", "--no-commit", "-s", "ours", "main"];
    world.git(&tree, merge).expect_status(0);
    refused("a merge is in progress", "git merge --abort");
    world.git(&tree, ["merge", "--abort"]).expect_status(0);

    world.git(&tree, ["checkout", "--detach"]).expect_status(0);
    refused("on no branch instead of kugetsu/14", "git switch kugetsu/14");
    world.git(&tree, ["checkout", "-b", "other"]).expect_status(0);
    refused(
        "on the branch other instead of kugetsu/14",
        "git switch kugetsu/14",
    );
    world.git(&tree, ["checkout", "kugetsu/14"]).expect_status(0);

    // Where neither the rebase nor its end succeeds, both are told.
    let hook = world.repo().join(".git/hooks/post-checkout");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(
        &hook,
        "#!/bin/sh\n: > \"$(git rev-parse --git-dir)/index.lock\"\n",
    )
    .unwrap();
    std::fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)).unwrap();
    let output = world.run(["signal", "14", "rebase"]);
    let told = output.expect_status(1).stderr();
    assert!(
        told.matches("index.lock").count() >= 2 && told.contains("rebase --abort"),
        "{output}"
    );
}

#[test]
fn a_rebase_goes_onto_the_branch_that_the_worktree_began_at() {
    let world = world(&FakeScript {
        serve: ServeMode::Sessions,
        ..hanging()
    });
    let repo = world.repo();
    let begin = |issue: &str, more: &[&str]| {
        let mut words = vec!["start", issue, "hi", "--transport", "run", "--worktree"];
        words.extend(more);
        world.run(words).expect_status(0);
        world.run(["show", issue, "--json"]).json()["worktree"].clone()
    };
    let rebase = |issue: &str| world.run(["signal", issue, "rebase", "--json"]);
    world.git(&repo, ["branch", "release"]).expect_status(0);
    let start = head(&world, &repo);
    assert_eq!(begin("14", &[])["base_branch"], "main");
    assert_eq!(begin("15", &["--from", "release"])["base_branch"], "release");
    assert_eq!(begin("16", &["--from", &start])["base_branch"], Value::Null);

    world.git(&repo, ["checkout", "release"]).expect_status(0);
    let release = commit(&world, &repo, "fix", "a");
    world.git(&repo, ["checkout", "main"]).expect_status(0);
    let main = commit(&world, &repo, "feature", "a");
    world
        .git(&repo, ["checkout", "-b", "elsewhere", &start])
        .expect_status(0);
    let elsewhere = commit(&world, &repo, "draft", "a");
    for (issue, branch, commit) in [
        ("14", "main", &main),
        ("15", "release", &release),
        ("16", "elsewhere", &elsewhere),
    ] {
        let told = rebase(issue).expect_status(0).json();
        assert_eq!(
            (&told["onto"], &told["result"]),
            (&json!(branch), &json!("rebased")),
            "{issue}"
        );
        let worktree = world.run(["show", issue, "--json"]).json()["worktree"].clone();
        assert_eq!(worktree["base_commit"], commit.as_str(), "{worktree}");
        assert_eq!(
            head(&world, std::path::Path::new(worktree["path"].as_str().unwrap())),
            *commit
        );
    }
    world.git(&repo, ["branch", "-D", "release"]).expect_status(0);
    let gone = rebase("15");
    assert!(
        gone.expect_status(64).stderr().contains("base branch release"),
        "{gone}"
    );
}

#[test]
fn a_rebase_without_a_worktree_says_so() {
    let world = world(&FakeScript::default());
    world.run(["signal", "14", "rebase"]).expect_status(66);
    world
        .run(["start", "14", "hi", "--transport", "run"])
        .expect_status(0);
    let refused = world.run(["signal", "14", "rebase"]);
    assert!(
        refused.expect_status(64).stderr().contains("worktree"),
        "{refused}"
    );
}
