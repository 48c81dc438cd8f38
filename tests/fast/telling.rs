//! A turn's messages during its run and at its end, for people and for waiting programs, on the fake opencode.

use crate::in_both_modes;
use std::io::Read as _;
use std::process::Stdio;

use crate::support::kit::{SOON, fake_world, record, run, state_of};
use kugetsu_testing::{FakeScript, Output, Step, World};

/// The last events in a summary.
fn last(output: &Output) -> Vec<String> {
    let stderr = output.stderr();
    let lines = stderr.lines().filter_map(|line| line.strip_prefix("  last: "));
    lines.map(str::to_owned).collect()
}

in_both_modes! {
    a_failed_turn_tells_its_last_five_events_to_everybody,
    verbose_tells_every_event_and_stdout_is_the_answer_alone,
    a_turn_that_costs_too_much_is_ended,
    a_reader_that_reads_nothing_holds_up_no_turn,
}

fn a_failed_turn_tells_its_last_five_events_to_everybody() {
    let world = fake_world();
    let mut steps: Vec<_> = (0..3)
        .flat_map(|_| [Step::step_start(), Step::step_finish("tool-calls", 0.0)])
        .collect();
    steps.push(Step::Error {
        name: "APIError".to_owned(),
        message: "no credit".to_owned(),
    });
    world.fake(&FakeScript::default().on("fail", steps));
    let id = "01900000-0000-7000-8000-000000000005";
    let start = ["start", "1", "fail", "--transport", "run", "--turn-id", id];
    let failed = run(&world, start);
    failed.expect_status(1);
    let reported = last(&failed);
    assert_eq!(reported.len(), 5, "{failed}");
    assert!(
        reported[0].starts_with("step 2"),
        "the last, not the first\n{failed}"
    );
    assert!(
        reported[3].starts_with("step 3 ended: tool-calls, 10 tokens"),
        "{failed}"
    );
    assert!(reported[4].contains("no credit"), "{failed}");
    for again in [
        run(&world, start),
        run(&world, ["wait", "1"]),
        run(&world, ["wait", "1", "--output", "json"]),
    ] {
        again.expect_status(1);
        assert_eq!(last(&again), reported, "{again}");
    }
    let done = run(&world, ["continue", "1", "hi", "--transport", "run"]);
    assert_eq!(last(done.expect_status(0)), [""; 0], "{done}");
}

fn verbose_tells_every_event_and_stdout_is_the_answer_alone() {
    let world = fake_world();
    let quiet = run(&world, ["start", "1", "hi", "--transport", "run"]);
    let verbose = run(&world, ["start", "2", "hi", "--transport", "run", "--verbose"]);
    for (output, lines) in [(&quiet, 0), (&verbose, 1)] {
        assert_eq!(output.expect_status(0).stdout(), "done\n", "{output}");
        for line in [
            "kugetsu: step 1\n",
            "kugetsu: said: done\n",
            "kugetsu: step 1 ended: stop",
        ] {
            assert_eq!(output.stderr().matches(line).count(), lines, "{line:?}\n{output}");
        }
    }
}

fn a_turn_that_costs_too_much_is_ended() {
    let world = fake_world();
    let steps = [
        Step::step_start(),
        Step::step_finish("tool-calls", 0.3),
        Step::Answer("paid".to_owned()),
    ];
    world.fake(&FakeScript::default().on("spend", steps).on(
        "waste",
        [
            Step::step_start(),
            Step::step_finish("tool-calls", 0.6),
            Step::Hang,
        ],
    ));
    let spend = ["start", "1", "spend", "--transport", "run", "--max-cost", "0.5"];
    run(&world, spend).expect_status(0);
    let waste = [
        "continue",
        "1",
        "waste",
        "--transport",
        "run",
        "--max-cost",
        "0.5",
        "--grace",
        "1s",
        "--timeout",
        "20s",
    ];
    let ended = run(&world, waste);
    assert!(
        ended
            .expect_status(1)
            .stderr()
            .contains("budget: 0.6000 USD of at most 0.5 USD"),
        "{ended}"
    );
    assert_eq!(state_of(&world, "1"), "failed");
    world.wait_nothing_left(SOON);
}

fn a_reader_that_reads_nothing_holds_up_no_turn() {
    let world = fake_world();
    let flood = Step::Flood {
        lines: 1000,
        bytes: 1000,
    };
    world.fake(&FakeScript::default().on("flood", [flood, Step::Answer("dry".to_owned())]));
    let mut command = world.kugetsu([
        "start",
        "1",
        "flood",
        "--transport",
        "run",
        "--output",
        "stream-json",
    ]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().expect("kugetsu starts");
    // Nobody reads stdout, and a pipe holds 64 KiB of the megabyte.
    world.wait_until("the turn is on record", SOON, || {
        record(&world, "1").is_some_and(|record| record["last"]["verdict"] == "completed")
    });
    let mut stream = String::new();
    let mut stdout = child.stdout.take().expect("a pipe");
    stdout.read_to_string(&mut stream).expect("lines");
    assert!(child.wait().expect("it ends").success());
    assert!(
        stream.len() > 1_000_000 && stream.ends_with('\n'),
        "{} bytes",
        stream.len()
    );
    assert!(
        stream
            .lines()
            .last()
            .is_some_and(|line| line.contains("agent_end"))
    );
    world.wait_nothing_left(SOON);
}

#[test]
fn events_have_their_older_names_for_who_asks_for_them() {
    let file = |world: &World, name: &str| world.root().join(name);
    let world = fake_world();
    let [here, go_on] = ["here", "go-on"].map(|name| file(&world, name));
    let steps = [
        Step::Meet(here.clone(), go_on.clone()),
        Step::Answer("done".to_owned()),
    ];
    world.fake(&FakeScript::default().on("watched", steps));
    let types = |output: &Output, schema: u32| -> Vec<String> {
        let lines = output.expect_status(0).json_lines();
        assert!(lines.iter().all(|line| line["schema"] == schema), "{output}");
        lines
            .iter()
            .map(|line| line["type"].as_str().unwrap().to_owned())
            .collect()
    };
    let new = [
        "agent_start",
        "step_start",
        "message_start",
        "message_update",
        "message_end",
        "step_end",
        "agent_end",
    ];
    let old = new.map(|name| name.replace("step_", "turn_"));
    let started = run(&world, ["start", "1", "hello", "--transport", "run", "--json"]);
    assert_eq!(types(&started, 2), new);
    for verb in ["continue", "wait", "logs"] {
        let message = (verb == "continue").then_some(["again", "--transport=run"]);
        for (flags, names, schema) in [
            (&[][..], new.map(str::to_owned), 2),
            (&["--events-schema=2"][..], new.map(str::to_owned), 2),
            (&["--events-schema=1"], old.clone(), 1),
        ] {
            let words = [verb, "1", "--json"]
                .into_iter()
                .chain(message.into_iter().flatten());
            let output = run(&world, words.chain(flags.iter().copied()));
            assert_eq!(types(&output, schema), names, "{output}");
        }
    }
    let some = [
        "continue",
        "1",
        "more",
        "--transport=run",
        "--events=turn_end,agent_end",
        "--events-schema=1",
    ];
    assert_eq!(types(&run(&world, some), 1), ["turn_end", "agent_end"]);
    // A name of the other schema, or of none.
    for (schema, name, hint) in [
        (
            "2",
            "extension_ui_request",
            "it is called `request`\n  or add --events-schema 1",
        ),
        ("1", "step_end", "it is called `turn_end`"),
        ("1", "dance", "the types are agent_start, turn_start"),
    ] {
        let words = [
            "continue",
            "1",
            "more",
            "--events",
            name,
            "--events-schema",
            schema,
        ];
        let reported = run(&world, words).expect_status(64).stderr();
        let problem = format!("`{name}` is not an event type of schema {schema}");
        assert!(
            reported.contains(&problem) && reported.contains(hint),
            "{reported}"
        );
    }
    run(&world, ["logs", "1", "--events-schema", "3"]).expect_status(64);
    // Each process that follows a turn chooses for itself.
    let turn = world.spawn(["start", "2", "watched", "--transport", "run", "--json"]);
    world.wait_until("the turn runs", SOON, || here.exists());
    let watches = ["1", "2"].map(|schema| world.spawn(["watch", "2", "--json", "--events-schema", schema]));
    world.wait_until("both watches have found the turn", SOON, || {
        watches.iter().all(|watch| follows_stream(watch.pid()))
    });
    std::fs::write(&go_on, "").unwrap();
    let [one, two] = watches.map(|watch| watch.wait(SOON));
    assert_eq!(types(&one, 1), old[1..]);
    assert_eq!(types(&two, 2), new[1..]);
    assert_eq!(types(&turn.wait(SOON), 2), new);
}

/// Whether the process has gone to the end of a turn's file.
fn follows_stream(pid: u32) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let at_end = |number: &std::ffi::OsStr| {
        let number = number.to_string_lossy();
        let place = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"));
        place.is_ok_and(|place| !place.starts_with("pos:\t0\n"))
    };
    files.flatten().any(|file| {
        let target = std::fs::read_link(file.path()).unwrap_or_default();
        target.to_string_lossy().ends_with(".events.jsonl") && at_end(&file.file_name())
    })
}

#[test]
fn an_output_form_without_lines_is_refused_with_events() {
    let world = fake_world();
    for form in ["text", "json"] {
        for flags in [&["--supervised"][..], &["--events", "step_end"]] {
            let words = [&["start", "1", "hi", "--output", form], flags].concat();
            let output = run(&world, words);
            let reported = output.expect_status(64).stderr();
            assert!(
                reported.contains(flags[0]) && reported.contains(&format!("--output {form}")),
                "{output}"
            );
            assert_eq!(output.stdout().is_empty(), form == "text", "{output}");
        }
    }
    assert_eq!(world.sessions().len(), 1, "nothing was begun");
    let events = [
        "start",
        "1",
        "hi",
        "--transport",
        "run",
        "--output",
        "stream-json",
        "--events",
        "agent_end",
    ];
    assert_eq!(
        run(&world, events).expect_status(0).json()["verdict"],
        "completed"
    );
}
