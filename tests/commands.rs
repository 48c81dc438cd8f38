//! What the commands say and how they exit, where no real opencode is needed.

#[path = "support/kit.rs"]
mod kit;

use std::time::Duration;

use kit::{SOON, fake_session, fake_world, prompts_of, record, run, run_in, session_of, snapshot, state_of};
use kugetsu_testing::{FakeScript, Opencode, Output, Stdin, Step, World};

#[track_caller]
fn start(world: &World, issue: &str, message: &str) -> Output {
    let output = run(world, ["start", issue, message, "--transport", "run"]);
    output.expect_status(0);
    output
}

/// It fails so, changes nothing in the store, and says this; with `--json` as well, and then on stdout too.
#[track_caller]
fn refused(world: &World, arguments: &[&str], status: i32, says: &[&str]) {
    let before = snapshot(world);
    for json in [false, true] {
        let mut arguments = arguments.to_vec();
        if json {
            arguments.insert(0, "--json");
        }
        let output = run(world, arguments);
        output.expect_status(status);
        for word in says {
            assert!(output.stderr().contains(word), "{word:?} is missing\n{output}");
        }
        assert!(!output.stderr().contains("panicked"), "{output}");
        if json {
            let value = output.json();
            assert_eq!(value["schema"], 1, "{output}");
            assert_eq!(value["exit_status"], status, "{output}");
            assert!(value["error"]["message"].is_string(), "{output}");
        } else {
            assert_eq!(output.stdout(), "", "{output}");
        }
    }
    assert_eq!(snapshot(world), before, "{arguments:?} changed the store");
}

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
        &["start", "1", "hello", "--transport", "run"][..],
        &["continue", "1", "hello", "--transport", "run"],
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
fn the_default_base_serves_other_repositories() {
    let world = fake_world();
    let output = start(&world, "codeberg.org/other/repo#7", "hello");
    assert!(output.stderr().contains("no base of its own"), "{output}");
    let shown = run(&world, ["show", "codeberg.org/other/repo#7", "--json"]).json();
    assert_eq!(shown["base"], kit::REPO, "{shown}");
    assert_eq!(world.sessions().len(), 2);
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
fn a_destroyed_session_comes_back_whole() {
    let world = fake_world();
    start(&world, "1", "remember this");
    let session = session_of(&world, "1");
    let prompts = prompts_of(&world, &session);
    refused(&world, &["destroy", "1"], 2, &["-y"]);
    run(&world, ["destroy", "1", "-y"]).expect_status(0);
    assert!(world.sessions().iter().all(|row| row.id != session));
    refused(&world, &["continue", "1", "hi"], 66, &["kugetsu start"]);
    run(&world, ["restore", "1"]).expect_status(0);
    assert_eq!(prompts_of(&world, &session), prompts);
    assert_eq!(session_of(&world, "1"), session);
    let turns = run(&world, ["show", "1", "--turns"]);
    assert!(turns.stdout().contains("completed"), "{turns}");
    assert!(run(&world, ["logs", "1"]).stdout().contains("done"));
    refused(&world, &["restore", "1"], 66, &["trash"]);
    // What has begun anew is not replaced.
    run(&world, ["destroy", "1", "-y"]).expect_status(0);
    start(&world, "1", "something else");
    let newer = session_of(&world, "1");
    refused(&world, &["restore", "1"], 64, &["destroy"]);
    assert_eq!(session_of(&world, "1"), newer);
    assert!(
        world.sessions().iter().all(|row| row.id != session),
        "the old one is not imported beside it"
    );
}

#[test]
fn prune_forgets_what_opencode_has_lost() {
    let world = fake_world();
    start(&world, "1", "hello");
    start(&world, "2", "hello");
    assert!(run(&world, ["prune"]).stdout().contains("nothing to prune"));
    let gone = session_of(&world, "1");
    world
        .finish(world.opencode_command(["session", "delete", &gone]), Stdin::Null)
        .expect_status(0);
    refused(&world, &["continue", "1", "hi"], 66, &[&gone]);
    let before = snapshot(&world);
    let preview = run(&world, ["prune"]);
    preview.expect_status(0);
    assert!(
        preview.stdout().contains(&gone) && preview.stderr().contains("--force"),
        "{preview}"
    );
    assert_eq!(
        snapshot(&world),
        before,
        "without a terminal and --force nothing changes"
    );
    assert!(run(&world, ["doctor"]).stdout().contains(&gone));
    let done = run(&world, ["prune", "--force", "--json"]);
    assert_eq!(done.json()["pruned"][0]["session"], gone.as_str(), "{done}");
    assert!(record(&world, "1").is_none() && record(&world, "2").is_some());
    start(&world, "1", "anew");
    assert_ne!(session_of(&world, "1"), gone);
}

#[test]
fn permissions_are_shown_and_changed() {
    let world = fake_world();
    start(&world, "1", "hello");
    let stored = || {
        world
            .session(&session_of(&world, "1"))
            .permission
            .unwrap_or_default()
    };
    assert!(stored().contains("question"), "{}", stored());
    assert!(run(&world, ["permit", "1"]).stdout().contains("preset headless"));
    let changed = run(
        &world,
        [
            "permit",
            "1",
            "bash:git push *=deny",
            "external_directory:/data/*=allow",
        ],
    );
    changed.expect_status(0);
    for word in ["git push *", "/data/*"] {
        assert!(
            stored().contains(word) && changed.stdout().contains(word),
            "{word}: {}\n{changed}",
            stored()
        );
    }
    run(&world, ["permit", "1", "--remove", "bash:git push *"]).expect_status(0);
    assert!(!stored().contains("git push"), "{}", stored());
    refused(
        &world,
        &["permit", "1", "--remove", "bash:git push *"],
        66,
        &["git push *"],
    );
    run(&world, ["permit", "1", "--preset", "read-only"]).expect_status(0);
    assert!(run(&world, ["permit", "1"]).stdout().contains("preset read-only"));
    // Somebody else's change does not outlive the next turn.
    world.sql_write("UPDATE session SET permission = NULL");
    run(&world, ["continue", "1", "go on", "--transport", "run"]).expect_status(0);
    assert!(stored().contains("/data/*"), "{}", stored());
    let of_base = run(&world, ["permit", "--base", "bash:rm *=deny"]);
    of_base.expect_status(0);
    start(&world, "2", "hello");
    let forked = world
        .session(&session_of(&world, "2"))
        .permission
        .unwrap_or_default();
    assert!(
        forked.contains("rm *"),
        "a fork carries its base's policy: {forked}"
    );
}

#[test]
fn settings_say_where_they_come_from() {
    let world = World::new(Opencode::Fake);
    std::fs::write(
        world.kugetsu_home().join("config.toml"),
        "timeout = \"5m\"\ninstance = \"codeberg.org\"\n",
    )
    .unwrap();
    let shown = run_in(&world, &[("KUGETSU_GRACE", "3s")], &["config", "--json"]);
    shown.expect_status(0);
    let settings = &shown.json()["settings"];
    assert_eq!(
        (&settings["timeout"]["value"], &settings["timeout"]["from"]),
        (&"5m".into(), &"config.toml".into())
    );
    assert_eq!(
        (&settings["grace"]["value"], &settings["grace"]["from"]),
        (&"3s".into(), &"KUGETSU_GRACE".into())
    );
    assert_eq!(settings["lock_timeout"]["from"], "default");
    for (content, says) in [
        ("timeout = \"soon\"", "timeout"),
        ("colour = 1", "colour"),
        ("[[", "TOML"),
    ] {
        std::fs::write(world.kugetsu_home().join("config.toml"), content).unwrap();
        refused(&world, &["list"], 64, &["config.toml", says]);
    }
}

#[test]
fn help_completions_and_manual_need_nothing() {
    let world = World::new(Opencode::Fake);
    let bare = |arguments: &[&str]| {
        let mut command = world.kugetsu(arguments);
        command
            .env_remove("HOME")
            .env_remove("KUGETSU_HOME")
            .env_remove("KUGETSU_OPENCODE");
        let output = world.finish(command, Stdin::Null);
        output.expect_status(0);
        output.stdout()
    };
    for (shell, has) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef kugetsu"),
        ("fish", "complete -c kugetsu"),
    ] {
        let script = bare(&["completions", shell]);
        assert!(
            script.contains(has) && script.contains("continue"),
            "{shell}: {script}"
        );
    }
    assert!(bare(&["man"]).contains(".TH kugetsu"));
    assert!(bare(&["man", "start"]).contains("kugetsu\\-start") || bare(&["man", "start"]).contains("start"));
    assert!(bare(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
    assert!(bare(&["--help"]).contains("Exit status"));
    for verb in [
        "init", "start", "continue", "list", "show", "logs", "permit", "prune", "destroy", "restore",
        "doctor",
    ] {
        assert!(bare(&[verb, "--help"]).contains("Usage"), "{verb}");
    }
}

#[test]
fn a_reader_that_goes_away_breaks_no_turn() {
    let world = fake_world();
    world.fake(&FakeScript::steps([
        Step::Flood {
            lines: 2000,
            bytes: 1000,
        },
        Step::Answer("the end".into()),
    ]));
    for (issue, form) in [("1", "text"), ("2", "stream-json"), ("3", "json")] {
        let mut command = world.command("/bin/sh");
        let script =
            "{ \"$0\" start \"$1\" hello --transport run --output \"$2\"; echo $? > \"$3\"; } | true";
        let status = world.root().join("status");
        command
            .args(["-c", script])
            .arg(kugetsu_testing::kugetsu_binary())
            .args([issue, form])
            .arg(&status);
        world.start(command, Stdin::Null).wait(SOON).expect_status(0);
        assert_eq!(std::fs::read_to_string(&status).unwrap().trim(), "0", "{form}");
        assert_eq!(state_of(&world, issue), "completed", "{form}");
    }
    for arguments in [
        "list",
        "completions bash",
        "man",
        "show 1 --turns",
        "logs 1",
        "config",
    ] {
        let mut command = world.command("/bin/bash");
        let script = format!("\"$0\" {arguments} | true; exit ${{PIPESTATUS[0]}}");
        command
            .args(["-c", &script])
            .arg(kugetsu_testing::kugetsu_binary());
        let output = world.start(command, Stdin::Null).wait(SOON);
        output.expect_status(0);
        assert!(!output.stderr().contains("panicked"), "{output}");
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
