//! What other programs rely on: ids of their own for turns, decimals, commands to run next, notifications.

use crate::support::kit::{
    SOON, fake_prompts, fake_world, record, record_path, refused, run, run_in, scripted_world, start, text,
};
use crate::support::terminal::Terminal;
use kugetsu_testing::{FakeScript, Output, Step, World, files_below, kugetsu_binary};
use serde_json::{Value, json};

/// A turn of issue 1 or another one with this id.
fn turn(world: &World, issue: &str, message: &str, id: &str) -> Output {
    let words = [
        "continue",
        issue,
        message,
        "--or-start",
        "--transport",
        "run",
        "--turn-id",
        id,
    ];
    run(world, words.into_iter().chain(["--output", "json"]))
}

#[test]
fn any_text_is_the_id_of_one_turn_with_one_message() {
    let world = fake_world();
    let id = "nightly build/7 \u{e9}";
    let first = turn(&world, "1", "work", id).expect_status(0).json();
    let again = turn(&world, "1", "work", id);
    assert_eq!(again.expect_status(0).json()["turn"], first["turn"]);
    assert_eq!(fake_prompts(&world).len(), 2, "the base and one turn");
    // The same text is another turn of another session.
    let other = turn(&world, "2", "work", id).expect_status(0).json();
    assert_ne!(other["turn"], first["turn"]);
    for words in [
        &["wait", "1", "--turn", id, "--output", "json"][..],
        &["logs", "1", "--turn", id, "--json"],
    ] {
        let found = run(&world, words.iter().copied());
        assert_eq!(
            found.expect_status(0).json_lines()[0]["turn"],
            first["turn"],
            "{found}"
        );
    }
    // A message under an id that is taken would be lost, whether its turn has ended or runs.
    let uuid = "01900000-0000-7000-8000-000000000009";
    turn(&world, "1", "more", uuid).expect_status(0);
    world.fake(&FakeScript::default().on("hang", [Step::step_start(), Step::Hang]));
    let words = [
        "continue",
        "1",
        "hang",
        "--transport",
        "run",
        "--turn-id",
        "running",
    ];
    let running = world.spawn(words);
    world.wait_until("the turn runs", SOON, || {
        record(&world, "1").is_some_and(|record| record["live"]["prompt_sha256"].is_string())
    });
    for taken in [id, uuid, "running"] {
        for more in [&[][..], &["--detach"]] {
            let words = ["continue", "1", "other work", "--turn-id", taken, "--json"];
            let refused = run(&world, words.into_iter().chain(more.iter().copied()));
            let error = refused.expect_status(64).json()["error"].clone();
            assert_eq!(error["code"], "turn-id-reused", "{refused}");
            assert_eq!(error["retryable"], false, "{refused}");
        }
    }
    run(&world, ["stop", "1"]).expect_status(0);
    running.wait(SOON).expect_status(143);
    assert_eq!(fake_prompts(&world).len(), 5);
    let long = "x".repeat(201);
    for wrong in ["", " ", &long] {
        refused(
            &world,
            &["continue", "1", "hi", "--turn-id", wrong],
            64,
            &["1 to 200 characters"],
        );
    }
    turn(&world, "1", "hi", &long[1..]).expect_status(0);
}

#[test]
fn numbers_are_decimals_everywhere() {
    let world = scripted_world(&FakeScript::steps([
        Step::step_start(),
        Step::step_finish("stop", 0.000_010_4),
    ]));
    let cheap = ["start", "1", "hi", "--transport", "run", "--json"];
    let mut all = run(&world, cheap).stdout();
    for words in [
        &["show", "1", "--json"][..],
        &["show", "1", "--turns", "--json"],
        &["list", "--json"],
        &["list", "--json", "--fields", "cost_usd"],
        &["query"],
        &["logs", "1", "--json"],
        &["wait", "1", "--output", "json"],
    ] {
        let output = run(&world, words.iter().copied()).stdout();
        assert!(output.contains("0.0000104"), "{words:?}: {output}");
        all.push_str(&output);
    }
    for file in files_below(&world.kugetsu_home()) {
        all.push_str(&std::fs::read_to_string(file).unwrap_or_default());
    }
    assert!(!all.contains("1.04e"), "{all}");
}

#[test]
fn the_command_of_an_action_can_be_run_as_it_stands() {
    let error = Step::Error {
        name: "APIError".into(),
        message: "no credit".into(),
    };
    let world = scripted_world(&FakeScript::default().on("fail", [error]).on("hang", [Step::Hang]));
    run(&world, ["start", "1", "fail", "--transport", "run"]).expect_status(1);
    run(
        &world,
        ["start", "2", "hang", "--transport", "run", "--timeout", "1s"],
    )
    .expect_status(1);
    let actions = run(&world, ["query"]).expect_status(0).json()["actions"].clone();
    let commands: Vec<Vec<String>> = actions
        .as_array()
        .expect("a list")
        .iter()
        .map(|action| serde_json::from_value(action["command"].clone()).expect("a list of words"))
        .collect();
    assert_eq!(
        commands[0],
        ["kugetsu", "continue", "github.com/shoko/kugetsu#1", "go on"]
    );
    assert_eq!(commands[1][3..5], ["go on", "--timeout"]);
    for command in &commands {
        run_in(
            &world,
            &[("KUGETSU_TRANSPORT", "run")],
            &command[1..].iter().map(String::as_str).collect::<Vec<_>>(),
        )
        .expect_status(0);
    }
    assert_eq!(run(&world, ["query"]).json()["actions"], json!([]));
}

#[test]
fn a_turn_tells_which_request_it_drops() {
    let world = fake_world();
    start(&world, "1", "hello");
    let mut blocked = record(&world, "1").expect("a record");
    blocked["last"]["verdict"] = "blocked".into();
    blocked["pending"] = json!([{
        "request": "per_1", "turn": blocked["last"]["turn"], "asked": "2026-01-01T00:00:00Z", "kind": "permission",
        "detail": {"permission": "bash", "patterns": ["git push *"]},
    }]);
    std::fs::write(record_path(&world, "1"), blocked.to_string()).unwrap();
    let command = run(&world, ["query"]).json()["actions"][0]["command"].clone();
    assert_eq!(command, json!(["kugetsu", "show", "github.com/shoko/kugetsu#1"]));
    let words = [
        "continue",
        "1",
        "something else",
        "--transport",
        "run",
        "--output",
        "json",
    ];
    let output = run(&world, words);
    let notes = output.expect_status(0).json()["notes"].clone();
    let note = text(&notes[0]);
    assert!(
        note.contains("git push *") && note.contains("kugetsu answer"),
        "{output}"
    );
    assert!(output.stderr().contains(&note), "{output}");
    assert_eq!(record(&world, "1").expect("a record")["pending"], Value::Null);
}

#[test]
fn the_text_for_the_model_is_that_of_the_call_then_the_repository_then_the_settings() {
    let world = fake_world();
    let told = world.root().join("told");
    // What opencode adds to the system prompt: the file, if its configuration names one.
    let tell = format!(
        "case $OPENCODE_CONFIG_CONTENT in *\"$KUGETSU_CONTEXT_FILE\"*) cat $KUGETSU_CONTEXT_FILE;; esac > '{}'",
        told.display()
    );
    world.fake(&FakeScript::steps([
        Step::Shell(tell),
        Step::Answer("done".to_owned()),
    ]));
    let (config, repository) = (
        world.kugetsu_home().join("config.toml"),
        world.repo().join(".kugetsu.toml"),
    );
    let write = |file: &std::path::Path, text: Option<&str>| match text {
        Some(text) => std::fs::write(file, format!("context = \"{text}\"\n")).unwrap(),
        None => drop(std::fs::remove_file(file)),
    };
    let built_in =
        "You work on the issue github.com/shoko/kugetsu#1: https://github.com/shoko/kugetsu/issues/1";
    // The text in config.toml, in .kugetsu.toml and in KUGETSU_CONTEXT, and what the model is told.
    for (file, own, call, expected) in [
        (None, None, None, built_in),
        (
            Some("settings {ref}"),
            None,
            None,
            "settings github.com/shoko/kugetsu#1\n",
        ),
        (Some("settings"), Some("repository"), None, "repository\n"),
        (Some("settings"), Some("repository"), Some("call"), "call\n"),
        (Some("none"), None, None, ""),
        (Some("settings"), Some("none"), None, ""),
        (Some("settings"), Some("repository"), Some("none"), ""),
        // An empty text chooses nothing.
        (Some(""), None, None, built_in),
        (Some("settings"), Some(""), None, "settings\n"),
        (Some("settings"), Some("repository"), Some(""), "repository\n"),
        // A more specific text brings back what a more general one leaves out.
        (Some("none"), Some("repository"), None, "repository\n"),
        (Some("none"), Some("none"), Some("call"), "call\n"),
    ] {
        write(&config, file);
        write(&repository, own);
        let set: Vec<_> = call.map(|text| ("KUGETSU_CONTEXT", text)).into_iter().collect();
        let words = ["continue", "1", "hello", "--or-start", "--transport", "run"];
        run_in(&world, &set, &words).expect_status(0);
        let text = std::fs::read_to_string(&told).unwrap();
        let same = if expected == built_in {
            text.starts_with(built_in)
        } else {
            text == expected
        };
        assert!(
            same,
            "{file:?} {own:?} {call:?}: {text:?} instead of {expected:?}"
        );
    }
}

#[test]
fn the_end_of_a_turn_is_notified() {
    let world = fake_world();
    let log = world.root().join("notified");
    let say = format!(
        "echo \"$KUGETSU_REF $KUGETSU_VERDICT $KUGETSU_TURN_ID $PWD\" >> '{}'",
        log.display()
    );
    let with = |notify: &str, words: &[&str]| run_in(&world, &[("KUGETSU_NOTIFY", notify)], words);
    let done = with(
        &say,
        &["start", "1", "hi", "--transport", "run", "--output", "json"],
    );
    let turn = text(&done.expect_status(0).json()["turn"]);
    let said = std::fs::read_to_string(&log).unwrap();
    let repo = world.repo();
    assert_eq!(
        said,
        format!("github.com/shoko/kugetsu#1 completed {turn} {}\n", repo.display())
    );
    with(&say, &["continue", "1", "hi", "--transport", "run", "--detach"]).expect_status(0);
    world.wait_until("the detached turn is notified", SOON, || {
        std::fs::read_to_string(&log).unwrap().lines().count() == 2
    });
    // A command that fails or hangs is a note, and the turn is what it was.
    let failed = with("exit 3", &["continue", "1", "hi", "--transport", "run"]);
    assert!(
        failed
            .expect_status(0)
            .stderr()
            .contains("notify failed (exit status 3)"),
        "{failed}"
    );
    let hanging = run_in(
        &world,
        &[
            ("KUGETSU_NOTIFY", "sleep 1000 & sleep 1000"),
            ("KUGETSU_HOOK_TIMEOUT", "1s"),
        ],
        &["continue", "1", "hi", "--transport", "run"],
    );
    assert!(
        hanging
            .expect_status(0)
            .stderr()
            .contains("notify did not end within 1s"),
        "{hanging}"
    );
    world.wait_nothing_left(SOON);
    let quiet = with("bell", &["continue", "1", "hi", "--transport", "run"]);
    assert!(!quiet.expect_status(0).stderr().contains('\u{7}'), "{quiet}");

    let raw = world.root().join("raw");
    let shell = format!(
        "read go; KUGETSU_NOTIFY=bell '{}' continue 1 hi --transport run; echo its end; exec sleep 600",
        kugetsu_binary().display()
    );
    let terminal = Terminal::start(&world, &shell);
    terminal.copy_to(&raw);
    terminal.press(&["Enter"]);
    terminal.wait_for("its end");
    world.wait_until("the bell", SOON, || {
        std::fs::read(&raw).unwrap_or_default().contains(&7)
    });
}

#[test]
fn verbose_keeps_lines_apart_on_a_terminal_and_tells_the_answer_once() {
    let words = "in a line of its own";
    let world = scripted_world(&FakeScript::steps([Step::Answer(words.into())]));
    let shell = format!(
        "'{}' start 1 hi --transport run --verbose; echo its end; exec sleep 600",
        kugetsu_binary().display()
    );
    let terminal = Terminal::start(&world, &shell);
    terminal.wait_for("its end");
    let screen = terminal.screen();
    assert_eq!(screen.matches(words).count(), 1, "{screen}");
    assert!(screen.lines().any(|line| line == words), "{screen}");
}
