//! Behaviour at a terminal: interactive questions and colour. With the fake opencode, in tmux.

use crate::support::kit::{
    SOON, fake_world, opencode_sessions, record, run, serving_world, session_of, snapshot, start, state_of,
};
use crate::support::terminal::Terminal;
use kugetsu_testing::{FakeScript, Step, World, kugetsu_binary};
use serde_json::{Value, json};

/// A terminal that runs `kugetsu` with these arguments, then prints its exit status and waits.
fn kugetsu<'a>(world: &'a World, words: &str) -> Terminal<'a> {
    let binary = kugetsu_binary();
    // The shell survives Ctrl-C, and its children do not inherit the trap.
    let shell = format!(
        "trap : INT; '{}' {words}; echo status $?; exec sleep 600",
        binary.display()
    );
    Terminal::start(world, &shell)
}

/// Waits for the question, presses the keys, and waits for the exit status.
#[track_caller]
fn answer<'a>(world: &'a World, words: &str, keys: &[&str], status: i32) -> Terminal<'a> {
    let terminal = kugetsu(world, words);
    terminal.wait_for("?");
    terminal.press(keys);
    terminal.wait_for(&format!("status {status}"));
    assert!(
        terminal.shows_cursor(),
        "{words}, {keys:?}: the cursor is hidden\n{}",
        terminal.screen()
    );
    terminal
}

#[test]
fn prune_and_destroy_follow_the_persons_answer() {
    let world = fake_world();
    for issue in ["1", "2"] {
        start(&world, issue, "hello");
    }
    let gone = session_of(&world, "1");
    world.sql_write(&format!("DELETE FROM session WHERE id = '{gone}'"));
    let before = (snapshot(&world), opencode_sessions(&world));
    for (words, no) in [("prune", 0), ("destroy 2", 1)] {
        for (keys, status) in [
            (&["n", "Enter"][..], no),
            (&["Enter"], no),
            (&["y", "e", "a", "h", "Enter"], no),
            (&["C-c"], 130),
        ] {
            let terminal = answer(&world, words, keys, status);
            let says = terminal.screen().contains("nothing was changed");
            assert_eq!(says, status != 130, "{words}, {keys:?}\n{}", terminal.screen());
            drop(terminal);
            let after = (snapshot(&world), opencode_sessions(&world));
            assert!(after == before, "{words}, {keys:?} changed something");
        }
    }

    let terminal = answer(&world, "prune", &["y", "Enter"], 0);
    assert!(
        terminal.screen().contains("moved 1 of 1 to the trash"),
        "{}",
        terminal.screen()
    );
    drop(terminal);
    assert!(record(&world, "1").is_none() && record(&world, "2").is_some());

    let session = session_of(&world, "2");
    drop(answer(&world, "destroy 2", &["Y", "Enter"], 0));
    assert!(record(&world, "2").is_none() && !opencode_sessions(&world).contains(&session));
    run(&world, ["restore", "2"]).expect_status(0);
}

#[test]
fn colour_is_for_terminals_and_not_for_no_color() {
    let world = fake_world();
    start(&world, "1", "hello");
    for (before, wanted) in [("", true), ("env NO_COLOR=1 ", false), ("env NO_COLOR= ", true)] {
        let shell = format!(
            "{before}'{}' list; echo done; exec sleep 600",
            kugetsu_binary().display()
        );
        let terminal = Terminal::start(&world, &shell);
        terminal.wait_for("done");
        let screen = terminal.coloured_screen();
        assert!(screen.contains("completed"), "{screen}");
        assert_eq!(screen.contains('\u{1b}'), wanted, "{before:?}: {screen:?}");
    }
    let piped = run(&world, ["list"]).stdout();
    assert!(!piped.contains('\u{1b}'), "{piped:?}");
}

/// An event of a turn with this part.
fn event(kind: &str, part: Value) -> Step {
    Step::Event {
        kind: kind.to_owned(),
        part,
    }
}

#[test]
fn a_turn_is_shown_while_it_runs_and_leaves_a_clean_screen() {
    let world = fake_world();
    let evil = "evil\u{1b}]0;title\u{7}\u{1b}[31m\u{9b}2J\u{202e}!";
    let harmless = "evil^[]0;title^G^[[31m<U+009B>2J<U+202E>!";
    let time = json!({"start": 1, "end": 2});
    let text = json!({"type": "text", "id": "prt_0", "text": format!("an open line {evil}"), "time": time});
    let call = json!({
        "type": "tool", "id": "prt_1", "callID": "call_1", "tool": "bash",
        "state": {
            "status": "completed", "title": format!("Test {evil}"), "output": "ok\n", "metadata": {}, "time": time,
            "input": {"command": "true", "description": format!("Test {evil}")},
        },
    });
    world.fake(&FakeScript::default().on(
        "hang",
        [
            Step::step_start(),
            event("text", text),
            event("tool_use", call),
            Step::Hang,
        ],
    ));
    for (words, width) in [("start 1", "80"), ("continue 1", "30")] {
        let terminal = kugetsu(&world, &format!("{words} hang --transport run"));
        terminal.wait_for("step 1");
        let screen = terminal.screen();
        assert!(screen.contains(&format!("an open line {harmless}")), "{screen}");
        // Drawn in the width before, and again in the new one.
        terminal.resize(width);
        terminal.wait_for("step 1");
        terminal.press(&["C-c"]);
        terminal.wait_for("status 130");
        let screen = terminal.screen();
        assert!(!screen.contains("step 1"), "{screen}");
        assert!(terminal.shows_cursor(), "{screen}");
    }
    // Another process that watches the turn, too, and it does not end the turn.
    let turn = world.spawn(["continue", "1", "hang", "--transport", "run"]);
    world.wait_until("the turn runs", SOON, || state_of(&world, "1") == "running");
    for words in ["wait 1", "logs 1 -f"] {
        let terminal = kugetsu(&world, words);
        terminal.wait_for("step 1");
        terminal.press(&["C-c"]);
        terminal.wait_for("status 130");
        assert!(!terminal.screen().contains("step 1"), "{}", terminal.screen());
    }
    run(&world, ["stop", "1"]).expect_status(0);
    turn.wait(SOON).expect_status(143);
    let terminal = kugetsu(&world, "logs 1");
    terminal.wait_for("status 0");
    let screen = terminal.screen();
    assert!(screen.contains(&format!("> bash: Test {harmless}")), "{screen}");
    let answer = run(&world, ["logs", "1", "--answer"]);
    assert!(!answer.expect_status(0).stdout().contains("bash"), "{answer}");
    // A file gets the text as it is.
    assert!(answer.stdout().contains(evil), "{answer}");
}

#[test]
fn a_person_sees_which_turn_is_waited_for() {
    let world = fake_world();
    let script = FakeScript::default().on("hang", [Step::step_start(), Step::Hang]);
    world.fake(&script.on("hello", [Step::step_start(), Step::Hang]));
    let turn = world.spawn(["start", "1", "hang", "--transport", "run"]);
    let live = || record(&world, "1").and_then(|record| record["live"]["turn"].as_str().map(str::to_owned));
    world.wait_until("the turn runs", SOON, || live().is_some());
    let id = live().expect("an id");
    let terminal = kugetsu(&world, "continue 1 hello --wait --transport run");
    let user = &id[id.len() - 8..];
    terminal.wait_for(&format!(
        "waiting for the session, which turn {user} has used for"
    ));
    run(&world, ["stop", "1"]).expect_status(0);
    turn.wait(SOON).expect_status(143);
    terminal.wait_for("step 1");
    let screen = terminal.screen();
    assert!(!screen.contains("waiting for the session"), "{screen}");
    terminal.press(&["C-c"]);
    terminal.wait_for("status 130");
}

#[test]
fn start_makes_a_base_if_the_person_agrees() {
    let world = serving_world();
    for (keys, status) in [(&["n", "Enter"][..], 66), (&["C-c"], 130)] {
        let terminal = answer(&world, "start 1 hello --transport run", keys, status);
        drop(terminal);
        assert!(record(&world, "base").is_none());
    }
    let terminal = answer(&world, "start 1 hello --transport run", &["y", "Enter"], 0);
    let screen = terminal.screen();
    assert!(
        screen.contains("made the base session of github.com/shoko/kugetsu"),
        "{screen}"
    );
    drop(terminal);
    // A signal during the turn ends the turn, and not the process alone.
    world.fake(&FakeScript::serving().on("hang", [Step::step_start(), Step::Hang]));
    run(&world, ["destroy", "--base", "-y"]).expect_status(0);
    let terminal = kugetsu(&world, "start 2 hang --transport run");
    terminal.wait_for("?");
    terminal.press(&["y", "Enter"]);
    terminal.wait_for("step 1");
    terminal.press(&["C-c"]);
    terminal.wait_for("status 130");
    drop(terminal);
    let ended = record(&world, "2").expect("a record")["last"]["verdict"].clone();
    assert_eq!(ended, "aborted");
}

#[test]
fn a_person_is_told_how_to_wait_for_a_detached_turn() {
    let world = fake_world();
    let terminal = kugetsu(&world, "start 1 --detach hello");
    terminal.wait_for("status 0");
    let screen = terminal.screen();
    assert!(
        screen.contains("next: kugetsu wait github.com/shoko/kugetsu#1"),
        "{screen}"
    );
    let words = ["start", "2", "--detach", "hello"];
    assert_eq!(run(&world, words).expect_status(0).stderr(), "");
    for issue in ["1", "2"] {
        run(&world, ["wait", issue]).expect_status(0);
    }
}

#[test]
fn markdown_is_rendered_for_a_person_and_passed_on_to_programs() {
    let world = fake_world();
    let answer = "# A title\n\nSome **bold** words\u{1b}]52;c;ZXZpbA==\u{7} and `code`.\n\n```\nlet **x**;\n```\n\n* one";
    let rendered = [
        "A title",
        "Some bold words^[]52;c;ZXZpbA==^G and code.",
        "let **x**;",
        "• one",
    ];
    world.fake(&FakeScript::steps([Step::Answer(answer.to_owned())]));
    let terminal = kugetsu(&world, "start 1 hello --transport run");
    terminal.wait_for("status 0");
    let screen = terminal.screen();
    let lines: Vec<_> = screen
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(lines[..4], rendered, "{screen}");
    assert!(
        screen.contains("  next: kugetsu continue github.com/shoko/kugetsu#1 MESSAGE"),
        "{screen}"
    );
    drop(terminal);
    for (words, shown) in [
        ("logs 1", true),
        ("logs 1 --plain", false),
        ("logs 1 | cat", false),
    ] {
        let terminal = kugetsu(&world, words);
        terminal.wait_for("status 0");
        let screen = terminal.screen();
        assert_eq!(screen.contains("Some bold"), shown, "{words}\n{screen}");
        assert_eq!(screen.contains("Some **bold**"), !shown, "{words}\n{screen}");
    }
    assert_eq!(run(&world, ["logs", "1"]).stdout(), format!("{answer}\n"));
}

#[test]
fn a_watch_follows_every_running_turn_until_the_last_has_ended() {
    let world = fake_world();
    assert_eq!(
        run(&world, ["watch"]).expect_status(0).stderr(),
        "no turn is running\n"
    );
    start(&world, "3", "hello");
    assert!(
        run(&world, ["watch", "3"])
            .expect_status(66)
            .stderr()
            .contains("no turn runs on")
    );
    let file = |name: &str| world.root().join(name);
    let mut script = FakeScript::default();
    for name in ["one", "two"] {
        script = script.on(
            name,
            [
                Step::step_start(),
                Step::Meet(file(name), file("go-on")),
                Step::Answer(format!("the answer of {name}\u{1b}[2J\nin two lines")),
            ],
        );
    }
    world.fake(&script);
    let turns = [("1", "one"), ("2", "two")]
        .map(|(issue, name)| world.spawn(["start", issue, name, "--transport", "run", "--no-worktree"]));
    world.wait_until("both turns run", SOON, || {
        file("one").exists() && file("two").exists()
    });
    let mut watch = world.spawn(["watch"]);
    watch.wait_for_stdout("1 | running for ", SOON);
    watch.wait_for_stdout("2 | running for ", SOON);
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(file("go-on"), "").unwrap();
    let output = watch.wait(SOON);
    output.expect_status(0);
    for line in [
        "1 | the answer of one\u{1b}[2J",
        "1 | in two lines",
        "2 | the answer of two\u{1b}[2J",
        "2 | completed in ",
    ] {
        assert!(output.stdout().contains(line), "{line}\n{output}");
    }
    for turn in turns {
        turn.wait(SOON).expect_status(0);
    }
}
