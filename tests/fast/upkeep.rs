//! Destroy and restore, prune, permissions, settings and help, as far as they need no real opencode.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::support::kit::{self, opencode_sessions};
use crate::support::kit::{
    SOON, fake_world, path_with_kugetsu, prompts_of, record, refused, run, run_in, session_of, snapshot,
    start, state_of,
};
use kugetsu_testing::{FakeScript, Opencode, Stdin, Step, World};
use serde_json::Value;

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
    // A session that was started again is not replaced.
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
fn an_export_that_is_cut_short_destroys_nothing() {
    let world = fake_world();
    start(&world, "1", "remember this");
    let session = session_of(&world, "1");
    world.fake(&FakeScript {
        short_export: true,
        ..FakeScript::default()
    });
    refused(
        &world,
        &["destroy", "1", "-y"],
        69,
        &["export", "nothing was deleted"],
    );
    assert!(world.sessions().iter().any(|row| row.id == session));
    assert_eq!(session_of(&world, "1"), session);
    world.fake(&FakeScript::default());
    run(&world, ["destroy", "1", "-y"]).expect_status(0);
}

#[test]
fn prune_removes_records_of_lost_sessions() {
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
    for pattern in ["git push *", "/data/*"] {
        assert!(
            stored().contains(pattern) && changed.stdout().contains(pattern),
            "{pattern}: {}\n{changed}",
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
    // The next turn overwrites the change of another program.
    world.sql_write("UPDATE session SET permission = NULL");
    run(&world, ["continue", "1", "go on", "--transport", "run"]).expect_status(0);
    assert!(stored().contains("/data/*"), "{}", stored());
    let base_changed = run(&world, ["permit", "--base", "bash:rm *=deny"]);
    base_changed.expect_status(0);
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
fn settings_report_their_source() {
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
    for (content, message) in [
        ("\ntimeout = \"soon\"", "line 2, column 1: `timeout`"),
        ("colour = 1", "line 1, column 1: there is no setting `colour`"),
        (
            "\nagent = { a = 1 }",
            "line 2, column 9: `agent` must be a string in quotes, not a table",
        ),
        (
            "model = [\"x/y\", \"x/z\"]",
            "line 1, column 9: `model` must be a string in quotes, not a list",
        ),
        (
            "rules = [\n\"bash=deny\",\n1]",
            "line 3, column 1: `rules` must be a list of strings, but an item is a number",
        ),
        ("[[", "TOML"),
    ] {
        std::fs::write(world.kugetsu_home().join("config.toml"), content).unwrap();
        refused(&world, &["list"], 64, &["config.toml", message]);
    }
    std::fs::remove_file(world.kugetsu_home().join("config.toml")).unwrap();
    let mut command = world.kugetsu(["list", "--json"]);
    command.env("KUGETSU_AGENT", OsStr::from_bytes(b"a\xff"));
    let unreadable = world.finish(command, Stdin::Null);
    assert_eq!(
        unreadable.expect_status(64).json()["error"]["code"],
        "invalid-setting"
    );
    assert!(
        unreadable
            .stderr()
            .contains("KUGETSU_AGENT: `agent` cannot be `a\u{fffd}`: it is not valid UTF-8"),
        "{unreadable}"
    );
    // No command runs while the file has a wrong name, so the message must be enough to find it.
    for (wrong, message) in [
        ("tiemout", "did you mean `timeout`?"),
        ("stall-timeout", "did you mean `stall_timeout`?"),
        ("max_token", "did you mean `max_tokens`?"),
        ("host", "did you mean `hosts`?"),
        (
            "default_instance",
            "opencode, transport, instance, timeout, stall_timeout",
        ),
    ] {
        std::fs::write(
            world.kugetsu_home().join("config.toml"),
            format!("{wrong} = \"5m\""),
        )
        .unwrap();
        for command in ["list", "config"] {
            refused(
                &world,
                &[command],
                64,
                &[
                    "config.toml, line 1, column 1: there is no setting",
                    wrong,
                    message,
                ],
            );
        }
    }
}

#[test]
fn a_rule_for_an_unknown_permission_gets_a_warning() {
    let world = fake_world();
    start(&world, "1", "hello");
    let added = run(
        &world,
        [
            "permit",
            "1",
            "bsh:*=deny",
            "bash:rm *=deny",
            "Edit=deny",
            "bsh:rm=deny",
        ],
    );
    added.expect_status(0);
    assert!(added.stdout().contains("bsh=deny"), "{added}");
    let lines: Vec<_> = added.stderr().lines().map(str::to_owned).collect();
    assert!(
        lines.len() == 2 && lines[0].contains("no permission `Edit` or `bsh` of its own"),
        "{added}"
    );
    assert!(lines[1].contains("the known ones: bash, edit,"), "{added}");
    // Known permissions and names that may be tools give no warning, and neither do earlier rules.
    for arguments in [
        &["permit", "1", "bash:git push *=deny", "github_*=deny", "*=ask"][..],
        &["permit", "1", "--remove", "bsh"],
        &["permit", "1"],
        &["permit", "1", "--explain", "--json"],
    ] {
        let silent = run(&world, arguments.iter().copied());
        assert!(silent.expect_status(0).stderr().is_empty(), "{silent}");
    }
    // A base passes its rules on to its forks, so a mistake in them gets the warning as well.
    let base = run(&world, ["permit", "--base", "webfech=deny", "--json"]);
    assert_eq!(base.expect_status(0).json()["rules"][0]["permission"], "webfech");
    assert!(base.stderr().contains("`webfech`"), "{base}");
}

#[test]
fn a_home_that_is_not_a_folder_is_reported() {
    let world = World::new(Opencode::Fake);
    let file = world.root().join("a-file");
    std::fs::write(&file, "").unwrap();
    for home in [file.clone(), file.join("below")] {
        let home = home.to_str().unwrap();
        for arguments in [&["list", "--json"][..], &["config", "--json"]] {
            let output = run_in(&world, &[("KUGETSU_HOME", home)], arguments);
            assert_eq!(output.expect_status(73).json()["exit_status"], 73);
            let message = format!("KUGETSU_HOME, {home}, is not a folder");
            assert!(output.stderr().contains(&message), "{output}");
        }
    }
}

/// What `doctor` finds, for a home with this folder and this content of `config.toml`.
fn doctor(world: &World, home: &str) -> Vec<(String, String, String)> {
    let output = run_in(world, &[("KUGETSU_HOME", home)], &["doctor", "--json"]);
    assert_eq!(output.code(), 1, "{output}");
    let checks = output.json()["checks"].as_array().unwrap().clone();
    let word = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let of = |check| (word(check, "what"), word(check, "health"), word(check, "detail"));
    checks.iter().map(of).collect()
}

#[test]
fn doctor_works_without_valid_settings_and_without_a_writable_store() {
    let world = World::new(Opencode::Fake);
    let home = world.kugetsu_home();
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join("config.toml"), "timeout = \n").unwrap();
    let found = doctor(&world, home.to_str().unwrap());
    assert_eq!(
        (found[0].0.as_str(), found[0].1.as_str()),
        ("settings", "bad"),
        "{found:?}"
    );
    assert!(
        found[0].2.contains("config.toml, line 1, column 11:"),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|(what, health, _)| what == "opencode" && health == "ok"),
        "{found:?}"
    );

    let file = world.root().join("a-file");
    std::fs::write(&file, "").unwrap();
    for home in ["/proc/x", file.to_str().unwrap()] {
        let found = doctor(&world, home);
        let store = found.iter().find(|(what, ..)| what == "store").unwrap();
        assert_eq!(store.1, "bad", "{found:?}");
    }
}

#[test]
fn help_completions_and_manual_need_no_environment() {
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
        ("bash", "-F _clap_complete_kugetsu kugetsu"),
        ("zsh", "#compdef kugetsu"),
        ("fish", "--command kugetsu"),
    ] {
        let script = bare(&["completions", shell]);
        assert!(
            script.contains(has) && script.contains(&format!("KUGETSU_COMPLETE=\"{shell}\""))
                || script.contains("KUGETSU_COMPLETE=fish"),
            "{shell}: {script}"
        );
    }
    let version = env!("CARGO_PKG_VERSION");
    for (arguments, name, synopsis) in [
        (&["man"][..], "kugetsu", "\\fBkugetsu\\fR ["),
        (&["man", "start"], "kugetsu-start", "\\fBkugetsu start\\fR ["),
        (&["man", "ls"], "kugetsu-list", "\\fBkugetsu list\\fR ["),
    ] {
        let page = bare(arguments);
        let title = format!(".TH {name} 1 \"\" \"kugetsu {version}\" kugetsu\n");
        let synopsis = format!(".SH SYNOPSIS\n{synopsis}");
        for name in [
            "EXAMPLES",
            "ENVIRONMENT",
            "FILES",
            "\"EXIT STATUS\"",
            "\"SEE ALSO\"",
        ] {
            assert!(
                page.contains(&format!("\n.SH {name}\n")),
                "{name} is missing\n{page}"
            );
        }
        for part in [&title, &synopsis, "\\-\\-json\\fR\n", "\\-\\-host\\fR "] {
            assert!(page.contains(part), "{part:?} is missing\n{page}");
        }
    }
    assert!(bare(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
    assert!(bare(&["--help"]).contains("Exit status"));
    for verb in [
        "init", "start", "continue", "list", "show", "logs", "permit", "prune", "destroy", "restore",
        "doctor",
    ] {
        let (long, short) = (bare(&[verb, "--help"]), bare(&[verb, "-h"]));
        assert!(long.contains("Usage") && short.contains("Usage"), "{verb}");
        assert!(
            long.contains("\nExamples:\n") && !short.contains("Examples:"),
            "{verb}"
        );
        assert!(short.lines().count() < long.lines().count(), "{verb}");
        assert_eq!(bare(&["help", verb]), bare(&[verb, "--help"]));
    }
    assert_eq!(bare(&["help"]), bare(&["--help"]));
    run(&world, ["help", "frobnicate"]).expect_status(64);
}

#[test]
fn bash_completes_the_values_of_flags() {
    let world = World::new(Opencode::Fake);
    let script = world.root().join("kugetsu.bash");
    std::fs::write(&script, run(&world, ["completions", "bash"]).stdout()).unwrap();
    for (line, offers) in [
        (
            &["list", "--state", ""][..],
            "new running paused completed failed timeout stalled blocked quota looping void aborted lost",
        ),
        (&["start", "1", "--transport", ""], "auto run serve"),
        (&["continue", "1", "--transport", "s"], "serve"),
        (
            &["permit", "1", "--preset", ""],
            "headless read-only stranger full",
        ),
        (&["init", "--preset", "r"], "read-only"),
        (&["man", "co"], "continue config completions"),
        (&["help", "st"], "start stop"),
    ] {
        let mut command = world.command("/bin/bash");
        let complete = "source \"$0\"; COMP_WORDS=(kugetsu \"$@\"); COMP_CWORD=$#; \
                        _clap_complete_kugetsu kugetsu \"${COMP_WORDS[-1]}\" \"${COMP_WORDS[-2]}\"; echo \"${COMPREPLY[*]}\"";
        command.args(["-c", complete]).arg(&script).args(line);
        command.env("PATH", path_with_kugetsu());
        let output = world.finish(command, Stdin::Null);
        assert_eq!(output.expect_status(0).stdout().trim_end(), offers, "{output}");
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
fn doctor_checks_the_model_and_asks_it_on_request() {
    let world = fake_world();
    let before = opencode_sessions(&world);
    let check = |set: &[(&str, &str)], more: &[&str], status: i32| -> Vec<(String, String)> {
        let output = run_in(&world, set, &[&["doctor", "--json"][..], more].concat());
        let checks = output.expect_status(status).json()["checks"].clone();
        let checks = checks.as_array().expect("a list").iter();
        let of_model = checks.filter(|check| check["what"].as_str().unwrap().starts_with("model"));
        let pair = |check: &Value| (kit::text(&check["health"]), kit::text(&check["detail"]));
        of_model.map(pair).collect()
    };
    let ok = |detail: &str| ("ok".to_owned(), detail.to_owned());
    assert_eq!(check(&[], &[], 0), [ok("opencode's own choice of 1")]);
    let model = ("KUGETSU_MODEL", "scripted/scripted");
    assert_eq!(
        check(&[model], &["--model-check"], 0),
        [ok("scripted/scripted"), ok("yes")]
    );
    for (set, more, says) in [
        (&[("FAKE_MODELS", "")][..], &[][..], "opencode auth login"),
        (&[("KUGETSU_MODEL", "foo/bar")], &[], "does not know foo/bar"),
        (&[model], &["--model", "foo/bar"], "does not know foo/bar"),
    ] {
        let found = check(set, more, 69);
        assert!(found[0].0 == "bad" && found[0].1.contains(says), "{found:?}");
    }
    world.fake(&FakeScript::default().on(
        "one word",
        [Step::Error {
            name: "APIError".into(),
            message: "the key is not valid".into(),
        }],
    ));
    let found = check(&[], &["--model-check"], 69);
    assert_eq!(
        found[1],
        ("bad".to_owned(), "APIError: the key is not valid".to_owned())
    );
    assert_eq!(opencode_sessions(&world), before, "no session is left behind");
}
