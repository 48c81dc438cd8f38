//! What people type: completion by the Tab key, messages, several references, an editor, limits.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::support::kit::{
    SOON, fake_prompts, fake_world, hold_lease, path_with_kugetsu, record, record_path, refused, run, run_in,
    snapshot, start, state_of, text,
};
use crate::support::terminal::Terminal;
use kugetsu_testing::{FakeScript, Opencode, Stdin, Step, World, kugetsu_binary};

/// A turn that runs until it is stopped.
fn hanging() -> FakeScript {
    FakeScript::default().on("hang", [Step::step_start(), Step::Hang])
}

/// An interactive shell with completion, ready for a line.
fn shell<'a>(world: &'a World, name: &str) -> Terminal<'a> {
    let script = world.root().join(format!("completion.{name}"));
    std::fs::write(&script, run(world, ["completions", name]).stdout()).unwrap();
    let script = script.display();
    let (arguments, setup) = match name {
        "bash" => ("--norc -i", format!("PS1='ready '; source {script}")),
        "zsh" => (
            "-f -i",
            format!("PS1='ready '; autoload -U compinit; compinit -u -D; source {script}"),
        ),
        _ => (
            "--no-config -i",
            format!("function fish_prompt; echo 'ready '; end; function fish_greeting; end; source {script}"),
        ),
    };
    let repo = world.repo();
    let command = format!(
        "cd '{}'; PATH='{}' {name} {arguments}",
        repo.display(),
        path_with_kugetsu()
    );
    let terminal = Terminal::start(world, &command);
    terminal.press(&["-l", &setup]);
    terminal.press(&["Enter"]);
    terminal.wait_for("ready ");
    terminal.press(&["C-l"]);
    terminal
}

#[test]
fn the_tab_key_completes_references_and_turns_in_real_shells() {
    let world = fake_world();
    start(&world, "4711", "hello");
    start(&world, "42/review", "hello");
    let turn = text(&record(&world, "4711").expect("a record")["last"]["turn"]);
    let short = &turn[turn.len() - 8..];
    for name in ["bash", "zsh", "fish"] {
        let terminal = shell(&world, name);
        for (typed, completed) in [
            ("kugetsu show 47", "kugetsu show 4711"),
            ("kugetsu show 42", "kugetsu show 42/review"),
            ("kugetsu stop github.com/shoko/kugetsu#47", "#4711"),
            (
                "kugetsu logs 4711 --turn ",
                &format!("kugetsu logs 4711 --turn {short}"),
            ),
            ("kugetsu config get trash", "kugetsu config get trash_keep"),
        ] {
            terminal.press(&["-l", typed]);
            terminal.press(&["Tab"]);
            terminal.wait_for(completed);
            terminal.press(&["C-u"]);
        }
    }
}

#[test]
fn completion_is_silent_and_read_only_in_a_broken_store() {
    let world = fake_world();
    start(&world, "1", "hello");
    start(&world, "2", "hello");
    let config = world.kugetsu_home().join("config.toml");
    std::fs::write(config, "timeout = ").unwrap();
    std::fs::write(record_path(&world, "1"), "{").unwrap();
    std::fs::write(record_path(&world, "x"), "{").unwrap();
    let before = snapshot(&world);
    let offered = |words: &[&str]| {
        let mut command = world.kugetsu([&["--", "kugetsu"], words].concat());
        command.env("KUGETSU_COMPLETE", "fish");
        let output = world.finish(command, Stdin::Null);
        assert_eq!((output.code(), output.stderr()), (0, String::new()), "{output}");
        let lines = output.stdout();
        let values = lines.lines().filter(|line| !line.starts_with("--"));
        values.flat_map(|line| [line, "\n"]).collect::<String>()
    };
    assert_eq!(offered(&["show", ""]), "1\n2\n");
    assert_eq!(offered(&["show", "#"]), "#1\n#2\n");
    assert_eq!(
        offered(&["show", "GITHUB.com/shoko/kugetsu#2"]),
        "github.com/shoko/kugetsu#2\n"
    );
    assert_eq!(offered(&["logs", "1", "--turn", ""]), "");
    let turns = offered(&["logs", "2", "--turn", ""]);
    assert!(turns.contains("completed"), "{turns}");
    assert_eq!(snapshot(&world), before);
    let mut command = world.kugetsu(["--", "kugetsu", "show", ""]);
    command
        .env("KUGETSU_COMPLETE", "no-shell")
        .env("KUGETSU_HOME", "/proc/x");
    let output = world.finish(command, Stdin::Null);
    assert_eq!(
        (output.code(), output.stdout(), output.stderr()),
        (0, String::new(), String::new())
    );
}

#[test]
fn a_message_may_begin_with_a_dash_and_swallows_no_option() {
    let world = fake_world();
    start(&world, "1", "- fix this\n- and that");
    run(
        &world,
        ["continue", "1", "- more", "--transport", "run", "- of it"],
    )
    .expect_status(0);
    assert_eq!(
        fake_prompts(&world)[1..],
        ["- fix this\n- and that", "- more - of it"]
    );
    let detached = run(
        &world,
        ["continue", "1", "- later", "--detach", "--transport", "run"],
    );
    run(
        &world,
        ["wait", "1", "--turn", detached.expect_status(0).stdout().trim()],
    )
    .expect_status(0);
    assert_eq!(fake_prompts(&world).last().map(String::as_str), Some("- later"));
    refused(
        &world,
        &["continue", "1", "--frobnicate"],
        64,
        &["unexpected argument '--frobnicate'"],
    );
    refused(
        &world,
        &["continue", "1", "-x"],
        64,
        &["unexpected argument '-x'"],
    );
    refused(&world, &["show", "- 1"], 64, &["unexpected argument"]);
}

#[test]
fn several_sessions_are_stopped_waited_for_and_destroyed_at_once() {
    let world = fake_world();
    world.fake(&hanging());
    start(&world, "3", "hello");
    let turns = ["1", "2"].map(|issue| world.spawn(["start", issue, "hang", "--transport", "run"]));
    for issue in ["1", "2"] {
        world.wait_until("the turn runs", SOON, || {
            record(&world, issue).is_some() && state_of(&world, issue) == "running"
        });
    }
    // Nothing is done if one reference is not valid.
    run(&world, ["stop", "1", "abc"]).expect_status(64);
    let late = run(
        &world,
        ["wait", "3", "1", "2", "--timeout", "1s", "--output", "json"],
    );
    let lines = late.expect_status(75).json_lines();
    assert_eq!(lines[0]["verdict"], "completed", "{late}");
    assert_eq!(lines[1]["error"]["code"], "wait-timeout", "{late}");
    assert_eq!(lines[2]["error"]["ref"], "github.com/shoko/kugetsu#2", "{late}");

    let stopped = run(&world, ["stop", "1", "3", "2", "1", "--json"]);
    let lines = stopped.expect_status(66).json_lines();
    assert_eq!(lines.len(), 3, "{stopped}");
    assert_eq!(lines[0]["verdict"], "aborted", "{stopped}");
    assert_eq!(lines[1]["error"]["code"], "not-running", "{stopped}");
    assert_eq!(lines[2]["ref"], "github.com/shoko/kugetsu#2", "{stopped}");
    assert!(
        stopped.stderr().contains("kugetsu#3 has no running turn"),
        "{stopped}"
    );
    for turn in turns {
        turn.wait(SOON).expect_status(143);
    }
    run(&world, ["wait", "1", "3"]).expect_status(143);
    refused(
        &world,
        &["wait", "1", "3", "--turn", "abcd"],
        64,
        &["--turn names"],
    );

    let unsure = run(&world, ["destroy", "1", "2"]);
    assert_eq!(
        unsure.expect_status(2).stderr().matches("add -y").count(),
        2,
        "{unsure}"
    );
    let gone = run(&world, ["destroy", "1", "9", "2", "-y", "--json"]);
    let lines = gone.expect_status(66).json_lines();
    assert_eq!(lines[0]["destroyed"], "github.com/shoko/kugetsu#1", "{gone}");
    assert_eq!(lines[1]["error"]["code"], "no-session", "{gone}");
    assert!(record(&world, "1").is_none() && record(&world, "2").is_none());
    assert!(record(&world, "3").is_some());
}

#[test]
fn a_limit_of_zero_is_refused() {
    let world = fake_world();
    start(&world, "1", "hello");
    for zero in ["0", "0s", "0h"] {
        refused(
            &world,
            &["continue", "1", "hi", "--timeout", zero],
            64,
            &["--timeout", "30d"],
        );
    }
    refused(
        &world,
        &["continue", "1", "hi", "--stall-timeout", "0"],
        64,
        &["zero"],
    );
    refused(&world, &["wait", "1", "--timeout", "0"], 64, &["zero"]);
    let config = world.kugetsu_home().join("config.toml");
    std::fs::write(&config, "\n  hook_timeout = \"0s\"\n").unwrap();
    refused(
        &world,
        &["list"],
        64,
        &["config.toml, line 2, column 3", "hook_timeout", "zero"],
    );
}

#[test]
fn an_unknown_model_is_named_with_its_source() {
    let world = fake_world();
    world.fake(&FakeScript::steps([Step::Error {
        name: "UnknownError".into(),
        message: "Model not found: foo/bar.".into(),
    }]));
    for (set, more, says) in [
        (
            &[][..],
            &["--model", "foo/bar"][..],
            "the model foo/bar of --model",
        ),
        (
            &[("KUGETSU_MODEL", "foo/bar")],
            &[],
            "the model foo/bar, which KUGETSU_MODEL sets",
        ),
        (&[], &[], "the model that the session used last"),
    ] {
        let words = ["continue", "1", "--or-start", "hi", "--transport", "run"];
        let output = run_in(&world, set, &[&words[..], more].concat());
        output.expect_status(1);
        assert!(output.stderr().contains(says), "{output}");
    }
}

/// An editor: a script that runs these commands with the file as `$1`.
fn editor(world: &World, commands: &str) -> PathBuf {
    let path = world.root().join("editor");
    std::fs::write(&path, format!("#!/bin/sh\n{commands}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Runs kugetsu on a terminal with this editor. Returns the screen at its end.
pub(crate) fn with_editor(world: &World, commands: &str, words: &str, keys: &[&str]) -> String {
    let editor = editor(world, commands);
    let shell = format!(
        "VISUAL= EDITOR=\"'{}' --an-option\" '{}' {words}; echo status $?; exec sleep 600",
        editor.display(),
        kugetsu_binary().display()
    );
    let terminal = Terminal::start(world, &shell);
    if !keys.is_empty() {
        terminal.wait_for("[y/N]");
        terminal.press(keys);
    }
    terminal.wait_for("status ");
    terminal.unwrapped()
}

#[test]
fn a_message_is_written_in_the_editor_if_none_is_given() {
    let world = fake_world();
    start(&world, "1", "hello");
    let write = "printf '# A heading\\n\\nfrom the editor\\n' > \"$2.new\"; cat \"$2\" >> \"$2.new\"; mv \"$2.new\" \"$2\"";
    let screen = with_editor(&world, write, "continue 1 --transport run", &[]);
    assert!(screen.contains("status 0"), "{screen}");
    assert_eq!(fake_prompts(&world)[2], "# A heading\n\nfrom the editor");
    let screen = with_editor(
        &world,
        "echo and more >> \"$2\"; sed -i 1s/begun/done/ \"$2\"",
        "start 2 -e begun --transport run",
        &[],
    );
    assert!(screen.contains("status 0"), "{screen}");
    assert_eq!(fake_prompts(&world)[3], "done");
    let before = snapshot(&world);
    for (commands, words, says, status) in [
        (
            "true",
            "continue 1 --transport run",
            "the message is empty, so no turn was run",
            1,
        ),
        (
            "exit 3",
            "continue 1 --transport run",
            "failed (exit status: 3)",
            1,
        ),
        ("touch \"$0.was-here\"", "continue 99", "has no session yet", 66),
    ] {
        let screen = with_editor(&world, commands, words, &[]);
        assert!(
            screen.contains(says) && screen.contains(&format!("status {status}")),
            "{screen}"
        );
    }
    assert!(!world.root().join("editor.was-here").exists());
    assert_eq!(snapshot(&world), before);
    refused(&world, &["continue", "1", "--edit"], 64, &["needs a terminal"]);
    let left = std::fs::read_dir(world.tmp()).unwrap().filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("kugetsu-") && name.to_string_lossy().ends_with(".md")
    });
    assert_eq!(left.count(), 0);
}

/// The file that the screen names after these words. A long path is on several rows.
fn file_named(screen: &str, words: &str) -> PathBuf {
    let (_, after) = screen
        .split_once(words)
        .unwrap_or_else(|| panic!("no {words:?}:\n{screen}"));
    let (path, _) = after.split_once(".md").expect("a file of text");
    let path: String = path.split_whitespace().collect();
    format!("{path}.md").into()
}

/// The drafts that are left in the folder for temporary files.
fn drafts(world: &World) -> usize {
    let files = std::fs::read_dir(world.tmp()).unwrap();
    let is_draft = |path: PathBuf| {
        let is_text = path.extension().is_some_and(|ending| ending == "md");
        is_text
            && path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("kugetsu-"))
    };
    files
        .filter(|file| is_draft(file.as_ref().unwrap().path()))
        .count()
}

#[test]
fn a_message_from_the_editor_is_kept_until_it_is_sent() {
    let world = fake_world();
    start(&world, "1", "hello");
    let write = "printf 'my words\\n' > \"$2\"";
    let lease = hold_lease(&world, "1", "attach");
    for words in [
        "continue 1 --transport run",
        "continue 1 --transport run --detach",
    ] {
        let screen = with_editor(&world, write, words, &[]);
        assert!(
            screen.contains("status 75") && screen.contains("kugetsu continue --or-start"),
            "{screen}"
        );
        let kept = file_named(&screen, "your message is in ");
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "my words");
        std::fs::remove_file(kept).unwrap();
    }
    drop(lease);
    // An editor that fails after it has written the message.
    let screen = with_editor(&world, &format!("{write}; exit 3"), "continue 1", &[]);
    assert!(
        screen.contains("failed (exit status: 3)") && screen.contains("status 1"),
        "{screen}"
    );
    std::fs::remove_file(file_named(&screen, "your message is in ")).unwrap();

    // Ctrl-C is for the editor, which may handle it.
    let terminal_in = |set: &str, commands: &str, words: &str| {
        let editor = editor(&world, commands);
        let shell = format!(
            "{set} VISUAL='{}' '{}' {words}; echo status $?; exec sleep 600",
            editor.display(),
            kugetsu_binary().display()
        );
        Terminal::start(&world, &shell)
    };
    let terminal_with = |commands: &str, words: &str| terminal_in("", commands, words);
    let patient = format!(
        "trap 'c=1' INT; echo ready; until [ \"$c\" ]; do sleep 0.1; done; {}",
        write.replace('2', "1")
    );
    let terminal = terminal_with(&patient, "continue 1 --transport run");
    terminal.wait_for("ready");
    terminal.press(&["C-c"]);
    terminal.wait_for("status 0");
    drop(terminal);
    assert_eq!(fake_prompts(&world).last().map(String::as_str), Some("my words"));
    for (written, left) in [("true", 0), ("printf 'my words' > \"$1\"", 1)] {
        let terminal = terminal_with(&format!("{written}; echo ready; exec sleep 600"), "continue 1");
        terminal.wait_for("ready");
        assert_eq!(drafts(&world), 1);
        terminal.press(&["C-c"]);
        terminal.wait_for("status 130");
        assert_eq!(drafts(&world), left, "{}", terminal.screen());
    }
    // Another host that cannot be reached.
    let programs = world.root().join("programs");
    std::fs::create_dir(&programs).unwrap();
    let ssh = programs.join("ssh");
    std::fs::write(&ssh, "#!/bin/sh\nexit 255\n").unwrap();
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    let words = format!("PATH='{}':\"$PATH\"", programs.display());
    let terminal = terminal_in(&words, &write.replace('2', "1"), "--host other continue 1 --edit");
    terminal.wait_for("status 75");
    let screen = terminal.unwrapped();
    assert!(
        screen.contains("send it: kugetsu --host other continue --or-start --turn-id "),
        "{screen}"
    );
    let kept = file_named(&screen, "your message is in ");
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "my words");
    std::fs::remove_file(kept).unwrap();
    drop(terminal);
    // An editor that saves something else than UTF-8.
    let terminal = terminal_with("printf 'gr\\374n' > \"$1\"", "continue 1");
    terminal.wait_for("status 1");
    let screen = terminal.unwrapped();
    assert!(screen.contains("not UTF-8"), "{screen}");
    let kept = file_named(&screen, "your text is in ");
    assert_eq!(std::fs::read(&kept).unwrap(), b"gr\xfcn");
    std::fs::remove_file(kept).unwrap();
    drop(terminal);
    // At a question that follows, Ctrl-C ends kugetsu as ever, and the text stays.
    run(&world, ["destroy", "--base", "-y"]).expect_status(0);
    let terminal = terminal_with("printf 'my words' > \"$1\"", "start 2 --edit --transport run");
    terminal.wait_for("[y/N]");
    terminal.press(&["C-c"]);
    terminal.wait_for("status 130");
    let kept = file_named(&terminal.unwrapped(), "your text is in ");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "my words");
    drop(terminal);
    assert_eq!(drafts(&world), 2);
}

#[test]
fn a_turn_is_named_by_the_whole_of_a_short_id() {
    let world = fake_world();
    for id in ["7", "abc", "ab"] {
        run(
            &world,
            [
                "continue",
                "1",
                "--or-start",
                id,
                "--transport=run",
                "--turn-id",
                id,
            ],
        )
        .expect_status(0);
    }
    let turns = run(&world, ["show", "1", "--turns", "--json"]).json();
    let turn = |place: usize| text(&turns["turn_list"][place]["turn"]);
    for (place, id) in ["7", "abc", "ab"].into_iter().enumerate() {
        let end = run(&world, ["wait", "1", "--turn", id, "--output=json"]);
        assert_eq!(end.expect_status(0).json()["turn"], turn(place), "{id}");
    }
    let part = &turn(0)[..3];
    refused(
        &world,
        &["wait", "1", "--turn", part],
        64,
        &["has no turn", "at least 4"],
    );
    run(&world, ["wait", "1", "--turn", " "]).expect_status(64);
}

#[test]
fn a_person_is_told_that_the_terminal_is_read() {
    let world = World::new(Opencode::Fake);
    crate::support::kit::with_base(&world);
    let shell = format!(
        "'{}' start 1 - --transport run; echo status $?; exec sleep 600",
        kugetsu_binary().display()
    );
    let terminal = Terminal::start(&world, &shell);
    terminal.wait_for("end it with Ctrl-D");
    terminal.press(&["h", "i", "Enter", "C-d"]);
    terminal.wait_for("status 0");
    assert_eq!(fake_prompts(&world).last().map(String::as_str), Some("hi\n"));
}

#[test]
fn settings_are_changed_in_place_and_never_to_something_invalid() {
    let world = World::new(Opencode::Fake);
    let config = world.kugetsu_home().join("config.toml");
    let text = || std::fs::read_to_string(&config).unwrap_or_default();
    let get = |key: &str| run(&world, ["config", "get", key]).expect_status(0).stdout();
    // The file does not exist yet, and a second time changes nothing.
    for _ in 0..2 {
        let set = run(&world, ["config", "set", "timeout", "5m"]);
        assert_eq!(set.expect_status(0).stdout(), "5m\n");
        assert_eq!(text(), "timeout = \"5m\"\n");
    }
    let kept = "# my settings\n\ntimeout = \"5m\" # short\nmax_cost = 1\n\n[hosts.box]\naddress = \"me@box\"\n# the end\n";
    std::fs::write(&config, kept).unwrap();
    run(&world, ["config", "set", "timeout", "7m"]).expect_status(0);
    run(&world, ["config", "set", "max_cost", "2.5"]).expect_status(0);
    run(&world, ["config", "set", "hosts.box.ssh", "--", "-p", "22"]).expect_status(0);
    let wanted = kept
        .replace("5m", "7m")
        .replace("= 1\n", "= 2.5\n")
        .replace("me@box\"\n", "me@box\"\nssh = [\"-p\", \"22\"]\n");
    assert_eq!(text(), wanted);
    assert_eq!(
        (get("max_cost"), get("grace"), get("model")),
        ("2.5\n".into(), "10s\n".into(), "\n".into())
    );
    assert_eq!(get("hosts.box.ssh"), "-p\n22\n");
    assert_eq!(get("hosts.box"), "address = me@box\nssh = -p 22\n");
    assert_eq!(
        get("hosts"),
        "hosts.box.address = me@box\nhosts.box.ssh = -p 22\n"
    );
    assert_eq!((get("hosts.box.home"), get("forges")), ("\n".into(), "\n".into()));
    let forge = "[forges.\"git.example.org\"]\nkind = \"forgejo\"\ntoken = \"secret\"\n";
    std::fs::write(&config, format!("{wanted}{forge}")).unwrap();
    for key in ["forges.git.example.org", "forges.\"git.example.org\""] {
        assert_eq!(get(key), "kind = forgejo\ntoken = ***\n");
        assert_eq!(get(&format!("{key}.kind")), "forgejo\n");
        assert_eq!(
            (get(&format!("{key}.token")), get(&format!("{key}.api_url"))),
            ("***\n".into(), "\n".into())
        );
    }
    std::fs::write(&config, &wanted).unwrap();
    let one = run(&world, ["config", "get", "timeout", "--json"]).json();
    assert_eq!(
        (&one["value"], &one["from"]),
        (&"7m".into(), &"config.toml".into()),
        "{one}"
    );
    for (words, says) in [
        (
            &["config", "set", "timeout", "soon"][..],
            &["kugetsu: `timeout` cannot be `soon`"][..],
        ),
        (&["config", "set", "timeout", "0s"], &["zero"]),
        (&["config", "set", "timout", "5m"], &["did you mean `timeout`?"]),
        (
            &["config", "set", "max_cost", "much"],
            &["max_cost", "US dollars"],
        ),
        (
            &["config", "set", "worktree", "maybe"],
            &["expected one of auto, true, false"],
        ),
        (
            &["config", "set", "rules", "bash"],
            &["kugetsu: `rules` cannot be `bash`"],
        ),
        (&["config", "set", "timeout", "5", "m"], &["takes one value"]),
        (
            &["config", "set", "hosts.box.port", "22"],
            &["address, kugetsu, home and ssh"],
        ),
        (
            &["config", "set", "hosts.box.address", "a b"],
            &["`hosts.box.address` cannot be `a b`", "not a destination for ssh"],
        ),
        (
            &["config", "get", "hosts.other"],
            &["has nothing under `hosts.other`"],
        ),
        (&["config", "get", "forges.a.b.port"], &["has nothing under"]),
        (&["config", "get", "timout"], &["did you mean `timeout`?"]),
        (&["config", "edit"], &["needs a terminal", "config set"]),
    ] {
        refused(&world, words, 64, says);
    }
    assert_eq!(text(), wanted);
    run(&world, ["config", "unset", "max_cost"]).expect_status(0);
    assert_eq!(text(), wanted.replace("max_cost = 2.5\n", ""));
    let overridden = run_in(
        &world,
        &[("KUGETSU_GRACE", "3s")],
        &["config", "set", "grace", "4s"],
    );
    assert!(
        overridden
            .stderr()
            .contains("KUGETSU_GRACE in the environment overrides grace"),
        "{overridden}"
    );
    assert_eq!(overridden.stdout(), "3s\n");
    // A link stays a link, for people who keep their settings elsewhere.
    let elsewhere = world.root().join("dotfiles.toml");
    std::fs::rename(&config, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &config).unwrap();
    run(&world, ["config", "set", "grace", "9s"]).expect_status(0);
    assert!(config.is_symlink() && std::fs::read_to_string(&elsewhere).unwrap().contains("9s"));
    // A wrong value can be set right; a file that is not TOML is for the editor.
    std::fs::write(&elsewhere, "timeout = \"soon\"\n").unwrap();
    run(&world, ["config", "set", "timeout", "6m"]).expect_status(0);
    assert_eq!(get("timeout"), "6m\n");
    std::fs::write(&elsewhere, "timeout = \n").unwrap();
    refused(
        &world,
        &["config", "set", "timeout", "6m"],
        64,
        &["line 1, column 11", "config edit"],
    );
}

#[test]
fn the_settings_are_edited_and_a_broken_text_is_kept_but_not_used() {
    let world = World::new(Opencode::Fake);
    let config = world.kugetsu_home().join("config.toml");
    let screen = with_editor(
        &world,
        "sed -i 's/^# timeout = .*/timeout = \"8m\"/' \"$2\"",
        "config edit",
        &[],
    );
    assert!(screen.contains("status 0"), "{screen}");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(
        text.contains("\ntimeout = \"8m\"\n") && text.contains("# grace = \"10s\""),
        "{text}"
    );
    assert_eq!(run(&world, ["config", "get", "timeout"]).stdout(), "8m\n");

    let screen = with_editor(
        &world,
        "echo 'timeout = ' > \"$2\"",
        "config edit",
        &["n", "Enter"],
    );
    assert!(
        screen.contains("status 64") && screen.contains("line 1, column 11"),
        "{screen}"
    );
    assert_eq!(std::fs::read_to_string(&config).unwrap(), text);
    let path = screen
        .split_once("your text is in")
        .expect("a path")
        .1
        .split("status")
        .next()
        .unwrap();
    let path: String = path.split_whitespace().collect();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "timeout = \n");
    // The file is broken now, and the second look mends it.
    std::fs::write(&config, "timeout = \n").unwrap();
    let mend = "grep -q broken \"$2\" && echo 'grace = \"1s\"' > \"$2\" || echo broken > \"$2\"";
    let screen = with_editor(&world, mend, "config edit", &["y", "Enter"]);
    assert!(screen.contains("status 0"), "{screen}");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "grace = \"1s\"\n");
    let screen = with_editor(&world, "true", "config edit", &[]);
    assert!(
        screen.contains("nothing was changed") && screen.contains("status 0"),
        "{screen}"
    );
    // Another command changes the file during the edit.
    let other = format!(
        "'{}' config set grace 2s; echo 'grace = \"3s\"' > \"$2\"",
        kugetsu_binary().display()
    );
    let screen = with_editor(&world, &other, "config edit", &[]);
    assert!(
        screen.contains("changed by someone else") && screen.contains("status 64"),
        "{screen}"
    );
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "grace = \"2s\"\n");
}
