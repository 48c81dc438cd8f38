//! How issues are begun and continued, what is refused, and what `--json` says, where no real opencode is needed.

use std::time::Duration;

use crate::support::kit;
use crate::support::kit::{
    SOON, fake_session, fake_world, prompts_of, record_path, refused, run, run_in, session_of, snapshot,
    start, state_of,
};
use kugetsu_testing::{FakeScript, Opencode, Stdin, Step, World};
use serde_json::{Value, json};

#[test]
fn a_base_is_made_once_unless_forced() {
    let world = World::new(Opencode::Fake);
    refused(&world, &["start", "1", "hi"], 66, &["kugetsu init"]);
    refused(
        &world,
        &["continue", "1", "hi", "--or-start"],
        66,
        &["kugetsu init"],
    );
    refused(&world, &["init", "--adopt", "nonsense"], 64, &["ses_"]);
    refused(
        &world,
        &["init", "--adopt", "ses_0123456789ab"],
        66,
        &["ses_0123456789ab"],
    );
    refused(
        &world,
        &["init", "--dir", "/nowhere/at/all"],
        64,
        &["/nowhere/at/all"],
    );
    let (first, second) = (fake_session(&world), fake_session(&world));
    let made = run(&world, ["init", "--adopt", &first, "--json"]);
    made.expect_status(0);
    assert_eq!(made.json()["schema"], 1);
    assert_eq!(made.json()["session"], first.as_str());
    refused(&world, &["init", "--adopt", &second], 64, &[&first, "--force"]);
    let force = ["init", "--force", "--adopt", &second];
    refused(
        &world,
        &[&force[..], &["--prompt", " \n"]].concat(),
        64,
        &["empty"],
    );
    let elsewhere = ["--dir", "/", "--repo", kit::REPO];
    refused(
        &world,
        &[&force[..], &elsewhere].concat(),
        64,
        &[&second, "--dir"],
    );
    start(&world, "1", "hi");
    let taken = session_of(&world, "1");
    refused(
        &world,
        &["init", "--force", "--adopt", &taken],
        64,
        &[&taken, "kugetsu#1"],
    );
    let forced = run(&world, ["init", "--adopt", &second, "--force", "--json"]);
    forced.expect_status(0);
    assert_eq!(forced.json()["session"], second.as_str());
    let trashed = snapshot(&world)
        .into_iter()
        .filter(|(path, _)| path.starts_with(world.kugetsu_home().join("trash")))
        .any(|(_, bytes)| String::from_utf8_lossy(&bytes).contains(&first));
    assert!(trashed, "the old base's record is in the trash");
    // An adopted base is not ours to delete.
    run(&world, ["destroy", "--base", "-y"]).expect_status(0);
    assert_eq!(world.session(&second).id, second);
}

#[test]
fn a_base_has_its_debug_log() {
    let world = World::new(Opencode::Fake);
    world.fake(&FakeScript {
        serve: kugetsu_testing::ServeMode::Sessions,
        ..FakeScript::default()
    });
    let log = world
        .kugetsu_home()
        .join("sessions")
        .join(kit::REPO)
        .join("base/debug.log");
    let at_debug = || {
        let calls = world.fake_calls();
        let serve = calls.iter().rfind(|call| call.arguments[0] == "serve").unwrap();
        serve
            .arguments
            .ends_with(&["--print-logs", "--log-level", "DEBUG"].map(str::to_owned))
    };
    run(&world, ["init"]).expect_status(0);
    assert!(!at_debug() && !log.exists());
    run(&world, ["destroy", "--base", "-y"]).expect_status(0);
    run(&world, ["init", "--debug"]).expect_status(0);
    assert!(at_debug() && log.exists());
}

#[test]
fn a_base_outside_a_clone_is_told_its_repository() {
    let world = World::new(Opencode::Fake);
    let session = fake_session(&world);
    let folder = world.root().join("no-clone");
    std::fs::create_dir_all(&folder).unwrap();
    let outside = |arguments: &[&str]| {
        let mut command = world.kugetsu(arguments);
        command.current_dir(&folder);
        world.finish(command, Stdin::Null)
    };
    let lost = outside(&["init", "--adopt", &session]);
    lost.expect_status(64);
    assert!(lost.stderr().contains("--repo"), "{lost}");
    outside(&[
        "init",
        "--adopt",
        &session,
        "--repo",
        "gitlab.com/group/sub/project",
    ])
    .expect_status(0);
    let shown = run(&world, ["list", "--json"]).json();
    assert_eq!(shown["bases"][0]["repo"], "gitlab.com/group/sub/project");
    let short = outside(&["init", "--adopt", &session, "--repo", "shoko/other", "--json"]);
    assert_eq!(short.expect_status(0).json()["repo"], "github.com/shoko/other");
    // A number alone means nothing outside a clone.
    let number = outside(&["start", "#1", "hi"]);
    number.expect_status(64);
}

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
        &["logs", "1", "--turn", "x"],
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
        ("list --state odd", "new, running, completed"),
        ("start 1 hi --transport pigeon", "auto, run, serve"),
        ("init --preset odd", "headless, read-only, full"),
        ("permit 1 --preset odd", "headless, read-only, full"),
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

    // What is no such length, stands elsewhere or is piped in is a message as any other.
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

#[test]
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
            assert_eq!(line["schema"], 1, "{arguments:?}: {line}");
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
        &["--events", "turn_end"],
        &["--supervised"],
    ];
    let told = |command: &[&str], status: i32| {
        let words = |form: &[&'static str]| {
            command
                .iter()
                .chain(form)
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        for form in forms {
            let output = world.run(words(form));
            let told = output.expect_status(status).json();
            assert_eq!(told["exit_status"], status, "{output}");
            assert!(told["error"]["message"].is_string(), "{output}");
            assert!(!output.stderr().is_empty(), "people are told as well\n{output}");
        }
        for form in [&[][..], &["--output", "text"]] {
            let output = world.run(words(form));
            assert_eq!(output.expect_status(status).stdout(), "", "{output}");
        }
    };
    told(&["start", "1", "hi"], 66);
    let session = fake_session(&world);
    run(&world, ["init", "--adopt", &session]).expect_status(0);
    told(&["start", "a/b/c", "hi"], 64);
    told(&["continue", "1", "hi"], 66);
    told(&["start", "1", "hi", "--frobnicate"], 64);
    world.fake(&FakeScript::default().on("hang", [Step::Hang]));
    let holder = world.spawn(hang);
    world.wait_until("the turn is in opencode", SOON, || {
        let calls = world.fake_calls();
        calls.iter().any(|call| call.prompt.as_deref() == Some("hang"))
    });
    told(&["continue", "1", "hi"], 75);
    holder.signal(kugetsu_testing::Signal::Terminate);
    holder.wait(SOON).expect_status(143);
    let waited = run(&world, ["wait", "2", "--output", "json"]);
    assert_eq!(waited.expect_status(66).json()["exit_status"], 66);
}

#[test]
fn a_setting_is_for_whoever_gives_no_flag_and_the_environment_goes_before_the_file() {
    let world = fake_world();
    let file = |text: &str| std::fs::write(world.kugetsu_home().join("config.toml"), text).unwrap();
    let turn = |environment: &[(&str, &str)], flags: &[&str]| {
        let mut words = vec!["continue", "1", "hi", "--or-start", "--output=json"];
        words.extend(flags);
        run_in(&world, environment, &words)
    };
    let run_flag = ["--transport=run"];

    // Without any of them there is no limit, and the model and the agent are the session's own.
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

    // A turn that may be blocked needs `serve`, and says so.
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
fn the_default_base_serves_other_repositories() {
    let world = fake_world();
    let output = start(&world, "codeberg.org/other/repo#7", "hello");
    assert!(output.stderr().contains("no base of its own"), "{output}");
    let shown = run(&world, ["show", "codeberg.org/other/repo#7", "--json"]).json();
    assert_eq!(shown["base"], kit::REPO, "{shown}");
    assert_eq!(world.sessions().len(), 2);
}

#[test]
fn a_prompt_file_that_says_nothing_makes_no_base() {
    let world = World::new(Opencode::Fake);
    let file = world.root().join("prompt.md");
    let file = file.to_str().expect("a path in UTF-8");
    let arguments = ["init", "--prompt-file", file];
    refused(&world, &arguments, 64, &["prompt.md", "UTF-8"]);
    for (content, says) in [(&b" \n\n"[..], "empty"), (b"\xff\xfe", "UTF-8")] {
        std::fs::write(file, content).expect("a file in the temporary folder");
        refused(&world, &arguments, 64, &[says]);
    }
    refused(
        &world,
        &["init", "--prompt-file", file, "--prompt", "x"],
        64,
        &["--prompt"],
    );
    assert!(world.fake_calls().is_empty(), "opencode was not asked");
}

#[test]
fn another_base_becomes_the_default_one_when_somebody_says_so() {
    let world = fake_world();
    let base_of = |issue: &str| {
        start(&world, issue, "hello");
        kit::text(&run(&world, ["show", issue, "--json"]).json()["base"])
    };
    let adopt = |repo: &str, more: &[&str]| {
        let session = fake_session(&world);
        let mut words = vec!["init", "--adopt", &session, "--repo", repo];
        words.extend(more);
        run(&world, words).expect_status(0);
    };
    adopt("example.org/a/b", &[]);
    assert_eq!(
        base_of("codeberg.org/other/repo#1"),
        kit::REPO,
        "the first one stays it"
    );
    adopt("example.org/c/d", &["--default"]);
    assert_eq!(base_of("codeberg.org/other/repo#2"), "example.org/c/d");
    // Who has a base of its own is served by that.
    assert_eq!(base_of("1"), kit::REPO);
    assert_eq!(base_of("example.org/a/b#1"), "example.org/a/b");
    let index = std::fs::read(world.kugetsu_home().join("index.json")).expect("an index");
    let index: Value = serde_json::from_slice(&index).expect("it is whole");
    assert_eq!(index["base"], "example.org/c/d/base.json", "{index}");
}

#[test]
fn a_list_is_filtered() {
    let world = fake_world();
    start(&world, "1", "hello");
    world.fake(&FakeScript::steps([Step::Error {
        name: "APIError".into(),
        message: "no key".into(),
    }]));
    run(&world, ["start", "2", "hello", "--transport", "run"]).expect_status(1);
    world.fake(&FakeScript::default());
    start(&world, "codeberg.org/a/b#3", "hello");
    let refs = |arguments: &[&str]| -> Vec<String> {
        let mut all = vec!["list", "--json"];
        all.extend(arguments);
        let listed = run(&world, all);
        listed.expect_status(0);
        let value = listed.json();
        let sessions = value["sessions"].as_array().expect("a list").iter();
        sessions.map(|session| kit::text(&session["ref"])).collect()
    };
    let (one, two, three) = (
        "github.com/shoko/kugetsu#1",
        "github.com/shoko/kugetsu#2",
        "codeberg.org/a/b#3",
    );
    assert_eq!(refs(&[]), [three, one, two]);
    assert_eq!(refs(&["--state", "failed"]), [two]);
    assert_eq!(refs(&["--state", "failed,completed"]), [three, one, two]);
    assert_eq!(refs(&["--repo", "codeberg.org/a/b"]), [three]);
    assert_eq!(refs(&["--repo", "shoko/kugetsu"]), [one, two]);
    let elsewhere = ["list", "--json", "--repo", "a/b"];
    let there = run_in(&world, &[("KUGETSU_INSTANCE", "codeberg.org")], &elsewhere).json();
    assert_eq!(there["sessions"][0]["ref"], three, "{there}");
    let config = world.kugetsu_home().join("config.toml");
    std::fs::write(&config, "instance = \"\"\n").expect("a file");
    refused(&world, &["list", "--repo", "a/b"], 64, &["set `instance`"]);
    std::fs::remove_file(config).expect("it is there");
    assert_eq!(refs(&["--newer", "1h"]), [three, one, two]);
    assert_eq!(refs(&["--older", "1h"]), [""; 0]);
    let table = run(&world, ["list"]);
    for word in [one, two, three, "completed", "failed", "REF"] {
        assert!(table.stdout().contains(word), "{word}\n{table}");
    }
    let nothing = run(&world, ["list", "--older", "1h"]);
    assert_eq!(
        (nothing.code(), nothing.stdout()),
        (0, String::new()),
        "{nothing}"
    );
}

#[test]
fn logs_tell_on_stderr_how_a_turn_ended_that_was_not_completed() {
    let world = fake_world();
    let error = || Step::Error {
        name: "APIError".into(),
        message: "no key".into(),
    };
    let logs = |more: &[&str]| {
        let output = run(&world, ["logs", "1"].into_iter().chain(more.iter().copied()));
        output.expect_status(0);
        (output.stdout(), output.stderr())
    };
    world.fake(&FakeScript::steps([error()]));
    let failed = run(
        &world,
        ["start", "1", "hello", "--transport", "run", "--output", "json"],
    );
    let turn = kit::text(&failed.expect_status(1).json()["turn"]);
    for more in [&[][..], &["-f"], &["--turn", &turn]] {
        let (stdout, stderr) = logs(more);
        assert_eq!(stdout, "");
        assert!(
            stderr.contains("kugetsu#1 failed\n") && stderr.contains("no key"),
            "{stderr}"
        );
    }
    for more in ["--json", "--raw"] {
        let (stdout, stderr) = logs(&[more]);
        assert!(stdout.contains("no key") && stderr.is_empty(), "{stdout}{stderr}");
    }

    world.fake(&FakeScript::default());
    run(&world, ["continue", "1", "again", "--transport", "run"]).expect_status(0);
    assert_eq!(logs(&[]), ("done\n".to_owned(), String::new()));
    assert!(logs(&["--turn", &turn]).1.contains("failed"));

    world.fake(&FakeScript::steps([Step::Hang]));
    let mut hanging = world.spawn(["continue", "1", "hang", "--transport", "run"]);
    world.wait_until("the turn is in opencode", SOON, || {
        let calls = world.fake_calls();
        calls.iter().any(|call| call.prompt.as_deref() == Some("hang"))
    });
    assert!(hanging.is_alive());
    assert_eq!(logs(&[]).1, "", "it has not ended");
    hanging.signal(kugetsu_testing::Signal::Interrupt);
    hanging.wait(SOON).expect_status(130);
    assert!(logs(&[]).1.contains("kugetsu#1 aborted"));
}

#[test]
fn a_list_names_what_it_cannot_read_once_and_lists_the_rest() {
    let world = fake_world();
    for issue in ["1", "2", "3"] {
        start(&world, issue, "hello");
    }
    let folder = record_path(&world, "1").parent().expect("a folder").to_owned();
    // A newer schema with all that this one has is read; one without it is not.
    let mut newer = kit::record(&world, "2").expect("a record");
    newer["schema"] = 9.into();
    newer["something"] = "new".into();
    std::fs::write(folder.join("2.json"), newer.to_string()).expect("a file");
    std::fs::write(folder.join("4.json"), r#"{"schema": 9}"#).expect("a file");
    std::fs::rename(folder.join("3.json"), world.root().join("3.json")).expect("the same disk");
    std::os::unix::fs::symlink(world.root().join("3.json"), folder.join("3.json")).expect("a link");
    std::fs::write(folder.join("5.json"), "{").expect("a file");
    std::fs::write(folder.join("06.json"), "{}").expect("a file");
    std::fs::create_dir(folder.join("7.json")).expect("a folder");
    let other = folder.with_file_name("other");
    std::fs::create_dir(&other).expect("a folder");
    std::fs::write(other.join("base.json"), "").expect("a file");
    std::os::unix::fs::symlink(&other, folder.with_file_name("link")).expect("a link");
    let mut wanted: Vec<String> = ["06.json", "3.json", "4.json", "5.json", "7.json"]
        .map(|name| folder.join(name))
        .into_iter()
        .chain([other.join("base.json"), folder.with_file_name("link")])
        .map(|path| path.display().to_string())
        .collect();
    wanted.sort();

    let listed = run(&world, ["list", "--json"]);
    listed.expect_status(0);
    let value = listed.json();
    let texts = |list: &str, field: &str| -> Vec<String> {
        let rows = value[list].as_array().expect("a list").iter();
        rows.map(|row| kit::text(&row[field])).collect()
    };
    assert_eq!(
        texts("sessions", "ref"),
        ["github.com/shoko/kugetsu#1", "github.com/shoko/kugetsu#2"],
        "{listed}"
    );
    assert_eq!(texts("bases", "repo"), [kit::REPO], "{listed}");
    let mut broken = texts("broken", "path");
    broken.sort();
    assert_eq!(broken, wanted, "{listed}");

    let table = run(&world, ["list"]);
    table.expect_status(0);
    assert!(
        table.stdout().contains("kugetsu#1 ") && table.stdout().contains("kugetsu#2 "),
        "{table}"
    );
    for path in &wanted {
        let told = table.stderr().matches(&format!("{path} is left out")).count();
        assert_eq!(told, 1, "{path}\n{table}");
    }
}

#[test]
fn a_listing_understands_of_a_record_what_it_tells_and_doctor_all_of_it() {
    let world = fake_world();
    for issue in ["1", "2"] {
        start(&world, issue, "hello");
    }
    let path = record_path(&world, "1");
    let sound = kit::record(&world, "1").expect("a record");
    let write = |record: &Value| std::fs::write(&path, record.to_string()).expect("a file");
    let listed = || {
        let listed = run(&world, ["list", "--json"]);
        listed.expect_status(0);
        let rows = listed.json()["sessions"].as_array().expect("a list").clone();
        let broken = listed.json()["broken"].as_array().expect("a list").clone();
        assert_eq!(rows.len() + broken.len(), 2, "{listed}");
        let named = path.display().to_string();
        assert!(broken.iter().all(|file| file["path"] == named), "{listed}");
        assert_eq!(
            run(&world, ["list"]).stderr().contains(&named),
            !broken.is_empty()
        );
        (broken.is_empty()).then(|| rows[0].clone())
    };

    let mut record = sound.clone();
    record["policy"] = 5.into();
    write(&record);
    let row = listed().expect("a row");
    assert_eq!((&row["policy"], &row["state"]), (&json!(5), &json!("completed")));
    let named = path.display().to_string();
    for (command, status) in [("show 1", 73), ("doctor", 1)] {
        let told = run(&world, command.split(' '));
        assert_eq!(told.code(), status, "{told}");
        assert!(format!("{told}").contains(&named), "{told}");
    }
    // A newer kugetsu's record is of use to this one, and its own fields are passed on. What is large is read as well.
    for large in ["", &"x".repeat(100_000)] {
        let mut newer = record.clone();
        newer["schema"] = 9.into();
        newer["note"] = large.into();
        write(&newer);
        let row = listed().expect("a row");
        newer["state"] = "completed".into();
        assert_eq!(row, newer);
    }

    // What would spoil the listing for whoever reads it.
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for text in ["\"half a \\ud83d pair\"", &deep, "\"\u{1}\"", "nonsense"] {
        for schema in [1, 9] {
            record["schema"] = schema.into();
            let policy = format!("\"policy\":{text}");
            let text = record.to_string().replace("\"policy\":5", &policy);
            std::fs::write(&path, text).expect("a file");
            assert_eq!(listed(), None, "{schema}: {policy}");
        }
    }
    std::fs::write(
        &path,
        [b"{\"title\": \"\xff\",", &sound.to_string().as_bytes()[1..]].concat(),
    )
    .expect("a file");
    assert_eq!(listed(), None);
    record["schema"] = 1.into();
    record["policy"] = "\u{1f600}".into();
    let escaped = record.to_string().replace('\u{1f600}', "\\ud83d\\ude00");
    std::fs::write(&path, escaped).expect("a file");
    assert_eq!(listed().expect("a row")["policy"], record["policy"]);

    for (field, wrong) in [
        ("ref", json!("github.com/shoko/kugetsu#2")),
        ("session", json!(7)),
        ("updated", json!("yesterday")),
        ("totals", json!({"turns": "many"})),
        ("last", json!({"verdict": "splendid"})),
        ("live", json!([])),
        ("worktree", json!("here")),
    ] {
        let mut record = sound.clone();
        record[field] = wrong;
        write(&record);
        assert_eq!(listed(), None, "{field}");
    }
    // In the order of the fields of what is listed, and of all.
    for fields in [
        "schema ref session updated totals live last worktree",
        "schema ref typed session fork base base_session directory worktree title policy opencode created updated \
         live last totals days",
    ] {
        let values: Vec<_> = fields
            .split(' ')
            .map(|field| sound.get(field).unwrap_or(&Value::Null))
            .collect();
        write(&json!(values));
        assert_eq!(listed(), None, "{fields}");
        refused(&world, &["show", "1"], 73, &["not a JSON object"]);
    }
    write(&sound);
    assert!(listed().is_some());
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

#[test]
fn a_record_that_somebody_edited_is_listed_as_it_is() {
    let world = fake_world();
    run(&world, ["start", "1", "hello", "--transport", "run"]).expect_status(0);
    let plain = run(&world, ["list", "--json"]).json();
    let path = record_path(&world, "1");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    record["note"] = json!("  two  \n lines \u{2028} {\"state\": \"x\"}  ");
    for edited in [
        format!("\n{}  \n\n", text.replace('\n', "\r\n\t ")),
        text.replace('\n', "\r"),
        serde_json::to_string(&record).unwrap(),
        serde_json::to_string_pretty(&record).unwrap(),
    ] {
        std::fs::write(&path, &edited).unwrap();
        let output = run(&world, ["list", "--json"]);
        let mut listed = output.json();
        let note = listed["sessions"][0].as_object_mut().unwrap().remove("note");
        assert_eq!(note.is_some(), edited.contains("note"), "{output}");
        assert!(note.is_none_or(|note| note == record["note"]), "{output}");
        assert_eq!(listed, plain);
        let text = output.stdout();
        assert_eq!(text.trim_end().find(['\n', '\r']), None, "{text:?}");
    }
    // A newer kugetsu may have a state of its own.
    record["state"] = json!("theirs");
    for schema in [1, 2] {
        record["schema"] = json!(schema);
        std::fs::write(&path, record.to_string()).unwrap();
        let output = run(&world, ["list", "--json"]);
        assert_eq!(output.json()["sessions"][0]["state"], "completed", "{output}");
        assert!(!output.stdout().contains("theirs"), "{output}");
    }
}
