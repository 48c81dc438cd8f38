//! Behaviour that the real opencode does not show on demand, from a fake one: an end with nothing done, garbage,
//! floods, a server that does not start.

use std::io::Read as _;

use crate::support::kit::{SOON, scripted_world};
use crate::support::proc::own_memory;
use kugetsu_engine::log_file::LogReader;
use kugetsu_testing::{
    FakeAttempt, FakeScript, Opencode, Output, Running, ServeMode, Signal, Stdin, Step, World,
};
use serde_json::Value;

fn begin(world: &World, transport: &str) -> Running {
    world.spawn([
        "start",
        "#1",
        "--output",
        "json",
        "--transport",
        transport,
        "fake it",
    ])
}

#[track_caller]
fn turn(world: &World, transport: &str) -> Output {
    begin(world, transport).wait(SOON)
}

/// The raw log that the transport wrote of opencode's output.
fn raw_log(world: &World) -> Vec<u8> {
    let folder = world.kugetsu_home().join("sessions/github.com/shoko/kugetsu/1");
    let mut logs = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let log = logs
        .find(|path| path.to_string_lossy().ends_with(".raw.log.zst"))
        .unwrap();
    let mut raw = Vec::new();
    let mut reader = LogReader::open(&log.with_extension("")).unwrap();
    reader.read_to_end(&mut raw).unwrap();
    raw
}

#[test]
fn an_endless_flood_meets_the_timeout() {
    let world = scripted_world(&FakeScript::default().on(
        "endless",
        [Step::Flood {
            lines: usize::MAX,
            bytes: 10,
        }],
    ));
    let output = world
        .spawn([
            "start",
            "#1",
            "--output",
            "json",
            "--timeout",
            "2s",
            "--grace",
            "1s",
            "--transport",
            "run",
            "endless",
        ])
        .wait(SOON);
    assert_eq!(output.expect_status(1).json()["verdict"], "timeout", "{output}");
    world.wait_nothing_left(SOON);
}

#[test]
fn the_stream_ends_with_the_verdict_that_was_checked() {
    // The fake reports an answer but stores none.
    let finish = Step::Event {
        kind: "step_finish".into(),
        part: serde_json::json!({"type": "step-finish", "reason": "stop", "cost": 0, "tokens": {}}),
    };
    let world = scripted_world(&FakeScript::steps([finish]));
    let output = world
        .spawn(["start", "#1", "--json", "--transport", "run", "lie"])
        .wait(SOON);
    output.expect_status(1);
    let end = output.json_lines().pop().unwrap();
    assert_eq!(
        (&end["type"], &end["verdict"], &end["exit_status"]),
        (&"agent_end".into(), &"void".into(), &1.into()),
        "{output}"
    );
    let shown = world.run(["show", "1", "--json"]).json();
    assert_eq!(
        (&shown["last"]["verdict"], &shown["last"]["reason"]),
        (&end["verdict"], &end["reason"])
    );
}

#[test]
fn a_failure_comes_with_its_proof() {
    let steps = [
        Step::Stderr("a word before\n".to_owned()),
        Step::Error {
            name: "APIError".to_owned(),
            message: "no such model".to_owned(),
        },
    ];
    let world = scripted_world(&FakeScript::default().on("fake it", steps));
    let output = turn(&world, "run");
    let result = expect(&output, 1, "failed");
    let proof = &result["proof"];
    assert!(proof["error"].to_string().contains("no such model"), "{output}");
    let last = proof["last_events"].as_array().unwrap();
    assert!(
        last.iter()
            .any(|event| event.as_str().unwrap().contains("no such model")),
        "{output}"
    );
    assert!(
        output.stderr().contains("  last: error: APIError: no such model"),
        "{output}"
    );
    let events = world.run(["logs", "1", "--json"]).json_lines();
    let shown = world.run(["show", "1", "--json"]).json();
    for also in [&events.last().unwrap()["proof"], &shown["last"]["proof"]] {
        assert_eq!(also, proof);
    }
    let waited = world.run(["wait", "1"]);
    assert!(
        waited
            .expect_status(1)
            .stderr()
            .contains("  last: error: APIError"),
        "{waited}"
    );
}

fn contains(all: &[u8], piece: &[u8]) -> bool {
    all.windows(piece.len()).any(|window| window == piece)
}

#[track_caller]
fn expect(output: &Output, status: i32, verdict: &str) -> Value {
    output.expect_status(status);
    let result = output.json();
    assert_eq!(result["verdict"], verdict, "{output}");
    result
}

#[test]
fn an_end_with_nothing_done_is_void() {
    let world = scripted_world(&FakeScript::default().on("fake it", [Step::Exit(0)]));
    let result = expect(&turn(&world, "run"), 1, "void");
    assert_eq!(result["answer"], "");
    world.wait_nothing_left(SOON);
}

#[test]
fn an_error_with_exit_status_0_is_a_failure() {
    let error = Step::Error {
        name: "APIError".to_owned(),
        message: "no such key".to_owned(),
    };
    let world = scripted_world(&FakeScript::default().on("fake it", [error, Step::Exit(0)]));
    let result = expect(&turn(&world, "run"), 1, "failed");
    assert_eq!(result["reason"], "APIError: no such key");
}

#[test]
fn garbage_between_events_loses_nothing() {
    let garbage: Vec<Vec<u8>> = vec![
        b"not JSON at all\n".to_vec(),
        b"{\"type\":\"text\",\"part\":\n".to_vec(),
        b"\x1b[31mred\x1b[0m \xff\xfe invalid \xc3\n".to_vec(),
        b"{\"type\":\"from_the_future\",\"sessionID\":\"ses_x\",\"part\":{}}\n".to_vec(),
        b"[]\n\n\n\0\n".to_vec(),
    ];
    let mut steps: Vec<Step> = garbage.iter().cloned().map(Step::Bytes).collect();
    // An event in two halves, with a pause between them.
    let event =
        "{\"type\":\"text\",\"sessionID\":\"ses_x\",\"part\":{\"id\":\"prt_1\",\"text\":\"in halves\"}}\n";
    steps.push(Step::Raw(event[..40].to_owned()));
    steps.push(Step::Pause(100));
    steps.push(Step::Raw(event[40..].to_owned()));
    steps.push(Step::BigLine(64 << 20));
    steps.push(Step::Answer("the answer".to_owned()));
    steps.push(Step::Raw("half a line at the end".to_owned()));
    let world = scripted_world(&FakeScript::default().on("fake it", steps));
    let output = turn(&world, "run");
    let result = expect(&output, 73, "completed");
    assert_eq!(result["answer"], "the answer");
    assert!(
        output
            .stderr()
            .contains("may be incomplete: opencode wrote a line of 67109"),
        "{output}"
    );
    let raw = raw_log(&world);
    for piece in &garbage {
        assert!(
            contains(&raw, piece),
            "{:?} is lost",
            String::from_utf8_lossy(piece)
        );
    }
    assert!(contains(&raw, event.as_bytes()));
    assert!(raw.ends_with(b"half a line at the end"));
    let longest = raw
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::len)
        .max()
        .unwrap_or(0);
    assert!(longest > 64 << 20, "the long line has {longest} bytes");
    world.wait_nothing_left(SOON);
}

#[test]
fn a_flood_of_events_does_not_fill_the_memory() {
    let flood = Step::Flood {
        lines: 1000,
        bytes: 100 * 1000,
    };
    let world = scripted_world(&FakeScript::default().on("fake it", [flood, Step::Answer("dry".to_owned())]));
    let mut running = begin(&world, "run");
    let mut most = 0;
    world.wait_until("the turn has ended", SOON, || {
        most = most.max(own_memory(running.pid()));
        !running.is_alive()
    });
    let result = expect(&running.wait(SOON), 0, "completed");
    assert_eq!(result["answer"], "dry");
    assert!(raw_log(&world).len() > 100_000_000);
    println!("at most {most} KiB for 100 MB of events");
    assert!((1..40 * 1024).contains(&most), "{most} KiB");
}

#[test]
fn auto_uses_run_if_no_server_starts_and_reports_it_once() {
    let script = FakeScript {
        serve: ServeMode::Refuse,
        ..FakeScript::default().on("fake it", [Step::Answer("by run".to_owned())])
    };
    let world = scripted_world(&script);
    let output = turn(&world, "auto");
    let result = expect(&output, 0, "completed");
    assert_eq!(
        (&result["transport"], &result["answer"]),
        (&"run".into(), &"by run".into())
    );
    let notices = output.stderr().matches("opencode serve is not usable").count();
    assert_eq!(notices, 1, "{output}");
    assert!(output.stderr().contains("does not serve"), "{output}");

    let output = world
        .spawn(["continue", "#1", "--transport", "serve", "fake it"])
        .wait(SOON);
    output.expect_status(69);
    assert!(output.stderr().contains("does not serve"), "{output}");
    world.wait_nothing_left(SOON);
}

#[test]
fn auto_uses_run_if_the_server_prints_nothing() {
    let script = FakeScript {
        serve: ServeMode::Silent,
        ..FakeScript::default().on("fake it", [Step::Answer("by run".to_owned())])
    };
    let world = scripted_world(&script);
    let base = world.sessions()[0].id.clone();
    // SIGINT ends the wait for the server.
    for arguments in [
        &["start", "#2", "--transport", "auto", "fake it"][..],
        &["init", "--force"],
        &["init", "--force", "--adopt", &base, "--prompt", "fake it"],
    ] {
        let mut patient = world.kugetsu(arguments);
        patient.env("KUGETSU_READY_TIMEOUT", "10m");
        let waits = world.start(patient, Stdin::Null);
        let servers = || {
            let processes = world.processes().into_iter();
            processes
                .filter(|process| process.command.contains("opencode serve"))
                .count()
        };
        world.wait_until("the server is waited for", SOON, || servers() == 1);
        waits.signal(Signal::Interrupt);
        waits.wait(SOON).expect_status(130);
        world.wait_nothing_left(SOON);
    }

    let mut quick = world.kugetsu(["start", "#1", "--output", "json", "fake it"]);
    quick.env("KUGETSU_READY_TIMEOUT", "1s");
    let output = world.start(quick, Stdin::Null).wait(SOON);
    let result = expect(&output, 0, "completed");
    assert_eq!(
        (&result["transport"], &result["answer"]),
        (&"run".into(), &"by run".into())
    );
    let notices = output.stderr();
    assert_eq!(
        notices.matches("opencode serve is not usable").count(),
        1,
        "{output}"
    );
    assert!(
        notices.contains("did not report its address within 1 s"),
        "{output}"
    );
    world.wait_nothing_left(SOON);
    assert_eq!(world.sessions().len(), 2, "the base and one fork");
}

#[test]
fn a_server_that_finds_its_database_locked_at_its_start_is_started_again() {
    for (locked, status) in [(2, 0), (3, 69)] {
        let world = World::new(Opencode::Fake);
        world.fake(&FakeScript {
            serve: ServeMode::Locked(locked),
            ..FakeScript::default()
        });
        let output = world.spawn(["init"]).wait(SOON);
        output.expect_status(status);
        let names_cause = output.stderr().contains("journal_mode = WAL");
        assert_eq!(names_cause, status != 0, "{output}");
        let calls = world.fake_calls().into_iter();
        assert_eq!(calls.filter(|call| call.arguments[0] == "serve").count(), 3);
        world.wait_nothing_left(SOON);
    }
}

#[test]
fn an_opencode_that_stays_after_its_answer_is_ended() {
    let script = FakeScript::default().on(
        "fake it",
        [
            Step::Orphan {
                ignore_term: true,
                holds_stdout: true,
            },
            Step::Answer("said it all".to_owned()),
            Step::Hang,
        ],
    );
    let world = scripted_world(&script);
    let result = expect(&turn(&world, "run"), 0, "completed");
    assert_eq!(result["answer"], "said it all");
    world.wait_nothing_left(SOON);
}

#[test]
fn an_opencode_that_finds_its_database_locked_at_its_start_is_started_again() {
    for message in [
        "database is locked",
        "Failed to run the query 'PRAGMA journal_mode = WAL'",
        "Failed query: insert into \"project\" (\"id\") values (?)\nparams: 21b3",
    ] {
        let locked = FakeAttempt {
            stores_prompt: false,
            steps: vec![Step::Stderr(message.to_owned()), Step::Exit(1)],
        };
        let answers = FakeAttempt {
            stores_prompt: true,
            steps: vec![Step::Answer("done".to_owned())],
        };
        let world = scripted_world(&FakeScript::default().on_attempts("fake it", [locked, answers]));
        let result = expect(&turn(&world, "run"), 0, "completed");
        assert_eq!(result["restarts"], 1, "{result}");
    }
}
