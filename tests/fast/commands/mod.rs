//! Starting and continuing issues, refusals, and the output of `--json`, as far as no real opencode is needed.

use crate::in_both_modes;
use std::time::Duration;

use crate::support::kit::{
    self, SOON, fake_session, fake_world, prompts_of, refused, run, run_in, session_of, start, state_of,
};
use kugetsu_testing::{FakeScript, Opencode, Stdin, Step, World};

mod base;
mod listing;
mod outcome;
mod remotes;

#[test]
fn wrong_references_and_messages_are_refused() {
    let world = fake_world();
    for nonsense in [
        "",
        " ",
        "#0",
        "0",
        "-1#",
        "#",
        "a#1",
        "a/b/c",
        "github.com/../x#1",
        "github.com/a/b#x",
        "a/b/c#1/../../2",
        "https://github.com/a/b",
        "\u{202e}/a/b#1",
        "#99999999999999999999999",
        "a//b#1",
        "./a/b#1",
    ] {
        for verb in [
            &["start"][..],
            &["continue"],
            &["show"],
            &["logs"],
            &["destroy", "-y"],
            &["restore"],
        ] {
            let mut arguments = verb.to_vec();
            arguments.extend(["--", nonsense]);
            let message = ["start", "continue"].contains(&verb[0]);
            arguments.extend(message.then_some("hi"));
            let output = run(&world, arguments);
            output.expect_status(64);
            assert!(!output.stderr().contains("panicked"), "{output}");
        }
    }
    refused(&world, &["start", "1", ""], 64, &["empty"]);
    refused(&world, &["start", "1", " \n\t"], 64, &["empty"]);
    refused(&world, &["start", "1"], 64, &["empty"]);
    let no_text = world.run_with(["start", "1", "-"], Stdin::Bytes(vec![0xff, 0xfe]));
    no_text.expect_status(64);
    assert!(no_text.stderr().contains("UTF-8"), "{no_text}");
    for wrong in [
        &["frobnicate"][..],
        &["start"],
        &["start", "1", "hi", "--frobnicate"],
        &["list", "--state", "odd"],
        &["start", "1", "hi", "--transport", "pigeon"],
        &["start", "1", "hi", "--timeout", "soon"],
        &["completions", "tcsh-or-so"],
        &["man", "frobnicate"],
        &["logs", "1", "--turn", ""],
        &["destroy"],
        &["permit", "1", "bash"],
        &["permit", "1", "--preset", "odd"],
        &["list", "--repo", "x"],
    ] {
        let output = run(&world, wrong.iter().copied());
        output.expect_status(64);
        assert!(!output.stderr().is_empty(), "{output}");
        let mut json = wrong.to_vec();
        json.push("--json");
        let output = run(&world, json);
        output.expect_status(64);
        assert_eq!(output.json()["schema"], 1, "{output}");
        assert_eq!(output.json()["exit_status"], 64, "{output}");
    }
    for (wrong, words) in [
        ("list --state odd", "new, running, paused, completed"),
        ("start 1 hi --transport pigeon", "auto, run, serve"),
        ("init --preset odd", "headless, read-only, stranger, full"),
        ("permit 1 --preset odd", "headless, read-only, stranger, full"),
        ("man frobnicate", "init, start, continue"),
    ] {
        let wrong: Vec<_> = wrong.split(' ').collect();
        refused(&world, &wrong, 64, &[words, wrong[wrong.len() - 1]]);
    }
    for (wrong, message, hint) in [
        (
            "show",
            "the following required arguments were not provided: <REF>",
            "kugetsu --help",
        ),
        ("show 1 --turn", "unexpected argument '--turn' found", "'--turns'"),
        (
            "wait 1 --output x",
            "invalid value 'x' for '--output <OUTPUT>' [possible values: text, json, stream-json]",
            "kugetsu --help",
        ),
    ] {
        let error = run(&world, ["--json"].into_iter().chain(wrong.split(' '))).json()["error"].clone();
        assert_eq!(error["message"], message);
        assert!(kit::text(&error["hint"]).contains(hint), "{error}");
    }
}

#[test]
fn a_length_of_time_after_a_wait_without_a_value_is_not_made_the_message() {
    let world = fake_world();
    for words in [
        &["continue", "1", "--wait", "5s", "hi"][..],
        &["continue", "1", "fix", "it", "--wait", "5s"],
        &["start", "1", "--wait", "5s", "--transport", "run"],
        &["--host", "nowhere", "continue", "1", "--wait", "5s", "hi"],
        &["start", "1", "--wait", "--", "5s", "hi"],
    ] {
        refused(&world, words, 64, &["`5s` after --wait", "--wait=5s"]);
    }
    let calls = world.fake_calls().len();
    refused(
        &world,
        &["continue", "1", "--wait", "10", "bugs"],
        64,
        &["--wait=10"],
    );
    assert_eq!(world.fake_calls().len(), calls, "the model was not asked");

    // A text that is not a duration, is in another place or arrives on stdin is part of the message.
    for words in [
        &["start", "1", "--wait", "now go on"][..],
        &["continue", "--wait", "1", "5s", "is", "too", "long"],
        &["continue", "1", "--wait=5s", "10 bugs"],
        &["continue", "1", "10", "bugs", "--wait"],
    ] {
        let words: Vec<_> = words.iter().copied().chain(["--transport=run"]).collect();
        run(&world, words).expect_status(0);
    }
    let piped = world.run_with(
        ["continue", "1", "--wait", "-", "--transport", "run"],
        Stdin::text("5s hi"),
    );
    piped.expect_status(0);
    assert_eq!(
        prompts_of(&world, &session_of(&world, "1"))[1..],
        ["now go on", "5s is too long", "10 bugs", "10 bugs", "5s hi"]
    );
}

in_both_modes! {
    an_issue_is_started_once_and_continued_after,
}

fn an_issue_is_started_once_and_continued_after() {
    let world = fake_world();
    refused(
        &world,
        &["continue", "1", "hi"],
        66,
        &["kugetsu start github.com/shoko/kugetsu#1"],
    );
    for verb in [
        &["show", "1"][..],
        &["logs", "1"],
        &["destroy", "1", "-y"],
        &["permit", "1"],
    ] {
        refused(&world, verb, 66, &["github.com/shoko/kugetsu#1"]);
    }
    refused(&world, &["restore", "1"], 66, &["trash"]);
    assert!(start(&world, "1", "the first").stdout().contains("done"));
    let session = session_of(&world, "1");
    refused(
        &world,
        &["start", "1", "again"],
        64,
        &[&session, "kugetsu continue github.com/shoko/kugetsu#1"],
    );
    let piped = world.run_with(
        ["continue", "#1", "-", "--transport", "run"],
        Stdin::text("from stdin"),
    );
    piped.expect_status(0);
    let unnamed = world.run_with(
        [
            "continue",
            "https://github.com/shoko/kugetsu/issues/1",
            "--transport",
            "run",
        ],
        Stdin::text("with no dash"),
    );
    unnamed.expect_status(0);
    run(
        &world,
        [
            "continue",
            "shoko/kugetsu#1",
            "two",
            "words",
            "--transport",
            "run",
        ],
    )
    .expect_status(0);
    assert_eq!(
        prompts_of(&world, &session),
        ["the base", "the first", "from stdin", "with no dash", "two words"]
    );
    assert_eq!(session_of(&world, "1"), session);
    run(
        &world,
        ["continue", "2", "begin", "--or-start", "--transport", "run"],
    )
    .expect_status(0);
    assert_eq!(state_of(&world, "2"), "completed");
}

#[test]
fn every_json_is_one_object_with_its_schema() {
    let world = fake_world();
    for arguments in [
        &["start", "1", "hello", "--transport", "run", "--output", "json"][..],
        &["continue", "1", "hello", "--transport", "run", "--output", "json"],
        &["list"],
        &["show", "1"],
        &["show", "1", "--turns"],
        &["permit", "1"],
        &["permit", "1", "bash:rm *=deny"],
        &["permit", "--base"],
        &["prune"],
        &["prune", "--force"],
        &["doctor"],
        &["doctor", "--fix"],
        &["config"],
        &["completions", "bash"],
        &["man"],
        &["destroy", "1", "-y"],
        &["restore", "1"],
    ] {
        let mut with_json = arguments.to_vec();
        with_json.push("--json");
        let output = run(&world, with_json);
        output.expect_status(0);
        let value = output.json();
        assert_eq!(value["schema"], 1, "{output}");
        assert!(
            value.is_object() && output.stdout().trim_end().lines().count() == 1,
            "{output}"
        );
    }
    let turn = run(
        &world,
        ["continue", "1", "hello", "--transport", "run", "--output", "json"],
    )
    .json();
    assert_eq!(turn["ref"], "github.com/shoko/kugetsu#1");
    assert_eq!(turn["verdict"], "completed");
    assert_eq!(turn["answer"], "done");
    assert_eq!(turn["exit_status"], 0);
    for arguments in [
        &["logs", "1", "--json"][..],
        &[
            "continue",
            "1",
            "hello",
            "--transport",
            "run",
            "--output",
            "stream-json",
        ],
    ] {
        let lines = run(&world, arguments.iter().copied()).json_lines();
        assert!(!lines.is_empty(), "{arguments:?}");
        for line in lines {
            assert_eq!(line["schema"], 2, "{arguments:?}: {line}");
        }
    }
}

#[test]
fn an_error_before_the_turn_is_an_object_wherever_stdout_is_for_programs() {
    let world = World::new(Opencode::Fake);
    let hang = ["start", "1", "hang", "--transport", "run"];
    let forms = [
        &["--json"][..],
        &["--output", "json"],
        &["--output=stream-json"],
        &["--events", "step_end"],
        &["--supervised"],
    ];
    let reported = |command: &[&str], status: i32| {
        let words = |form: &[&'static str]| {
            command
                .iter()
                .chain(form)
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        for form in forms {
            let output = world.run(words(form));
            let reported = output.expect_status(status).json();
            assert_eq!(reported["exit_status"], status, "{output}");
            assert!(reported["error"]["message"].is_string(), "{output}");
            assert!(!output.stderr().is_empty(), "people see the error too\n{output}");
        }
        for form in [&[][..], &["--output", "text"]] {
            let output = world.run(words(form));
            assert_eq!(output.expect_status(status).stdout(), "", "{output}");
        }
    };
    reported(&["start", "1", "hi"], 66);
    let session = fake_session(&world);
    run(&world, ["init", "--adopt", &session]).expect_status(0);
    reported(&["start", "a/b/c", "hi"], 64);
    reported(&["continue", "1", "hi"], 66);
    reported(&["start", "1", "hi", "--frobnicate"], 64);
    world.fake(&FakeScript::default().on("hang", [Step::Hang]));
    let holder = world.spawn(hang);
    world.wait_until("the turn is in opencode", SOON, || {
        let calls = world.fake_calls();
        calls.iter().any(|call| call.prompt.as_deref() == Some("hang"))
    });
    reported(&["continue", "1", "hi"], 75);
    holder.signal(kugetsu_testing::Signal::Terminate);
    holder.wait(SOON).expect_status(143);
    let waited = run(&world, ["wait", "2", "--output", "json"]);
    assert_eq!(waited.expect_status(66).json()["exit_status"], 66);
}

#[test]
fn a_flag_overrides_the_environment_and_the_environment_overrides_the_file() {
    let world = fake_world();
    let file = |text: &str| std::fs::write(world.kugetsu_home().join("config.toml"), text).unwrap();
    let turn = |environment: &[(&str, &str)], flags: &[&str]| {
        let mut words = vec!["continue", "1", "hi", "--or-start", "--output=json"];
        words.extend(flags);
        run_in(&world, environment, &words)
    };
    let run_flag = ["--transport=run"];

    // Without any of these flags, there is no limit, and the session keeps its model and agent.
    turn(&[], &run_flag).expect_status(0);
    for (setting, low, high) in [("max_cost", "0.0000001", "50"), ("max_tokens", "1", "1000000")] {
        let variable = format!("KUGETSU_{}", setting.to_uppercase());
        let flag = |value: &str| format!("--{}={value}", setting.replace('_', "-"));
        for (in_file, in_environment, in_flag, status) in [
            (low, None, None, 1),
            (low, Some(high), None, 0),
            (high, Some(low), None, 1),
            (high, Some(low), Some(high), 0),
            (high, None, Some(low), 1),
        ] {
            file(&format!("{setting} = {in_file}\n"));
            let environment: Vec<_> = in_environment
                .iter()
                .map(|value| (variable.as_str(), *value))
                .collect();
            let flag = in_flag.map(flag);
            let flags: Vec<_> = run_flag.into_iter().chain(flag.as_deref()).collect();
            let output = turn(&environment, &flags);
            output.expect_status(status);
            if status == 1 {
                assert!(output.stderr().contains("budget"), "{output}");
            }
        }
    }

    let asked = |word: &str| {
        let calls = world.fake_calls();
        let arguments = &calls
            .iter()
            .rfind(|call| call.prompt.is_some())
            .unwrap()
            .arguments;
        let at = arguments.iter().position(|argument| argument == word)?;
        Some(arguments[at + 1].clone())
    };
    for (setting, flag) in [("model", "--model"), ("agent", "--agent")] {
        let variable = format!("KUGETSU_{}", setting.to_uppercase());
        file("");
        turn(&[], &run_flag).expect_status(0);
        assert_eq!(asked(flag), None);
        file(&format!("{setting} = \"from/file\"\n"));
        turn(&[], &run_flag).expect_status(0);
        assert_eq!(asked(flag).as_deref(), Some("from/file"));
        let environment = [(variable.as_str(), "from/environment")];
        turn(&environment, &run_flag).expect_status(0);
        assert_eq!(asked(flag).as_deref(), Some("from/environment"));
        turn(&environment, &[run_flag[0], flag, "from/flag"]).expect_status(0);
        assert_eq!(asked(flag).as_deref(), Some("from/flag"));
    }

    // A turn that may be blocked needs `serve`, and the error says so.
    file("on_ask = \"block\"\n");
    let blocking = turn(&[], &run_flag);
    assert!(
        blocking.expect_status(64).stderr().contains("serve"),
        "{blocking}"
    );
    turn(&[("KUGETSU_ON_ASK", "answer")], &run_flag).expect_status(0);
    file("on_ask = \"answer\"\n");
    turn(&[("KUGETSU_ON_ASK", "block")], &run_flag).expect_status(64);
    turn(&[("KUGETSU_ON_ASK", "block")], &[run_flag[0], "--on-ask=answer"]).expect_status(0);

    for wrong in [
        "max_cost = \"much\"",
        "max_cost = -1",
        "max_tokens = 1.5",
        "on_ask = \"wait\"",
        "response_timeout = \"soon\"",
    ] {
        file(wrong);
        let name = wrong.split(' ').next().unwrap();
        refused(&world, &["list"], 64, &["config.toml", name]);
    }
}

#[test]
fn a_silent_stdin_that_stays_open_holds_nothing_up() {
    let world = World::new(Opencode::Fake);
    let session = fake_session(&world);
    let deadline = Duration::from_mins(1);
    for arguments in [
        &["init", "--adopt", session.as_str()][..],
        &["start", "1", "hello", "--transport", "run"],
        &["list"],
        &["prune"],
        &["prune", "--force"],
        &["doctor", "--fix"],
        &["permit", "1", "bash:rm *=deny"],
        &["destroy", "1", "-y"],
        &["restore", "1"],
    ] {
        let running = world.spawn_with(arguments.iter().copied(), Stdin::OpenSilent);
        running.wait(deadline).expect_status(0);
    }
    world
        .spawn_with(["destroy", "1"], Stdin::OpenSilent)
        .wait(deadline)
        .expect_status(2);
    world.wait_nothing_left(SOON);
}
