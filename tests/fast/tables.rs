//! Tables for people: in the width of the terminal, in colour, newest first, with chosen columns.

use crate::support::kit::{fake_world, record, record_path, refused, run, run_in, start, text};
use crate::support::terminal::Terminal;
use kugetsu_testing::{FakeScript, Step, World, kugetsu_binary};
use serde_json::Value;

/// What `kugetsu` shows on a terminal with so many columns.
fn at(world: &World, width: usize, words: &str) -> Vec<String> {
    let shell = format!(
        "stty cols {width}; '{}' {words}; echo its end; exec sleep 600",
        kugetsu_binary().display()
    );
    let terminal = Terminal::start(world, &shell);
    terminal.wait_for("its end");
    let screen = terminal.screen();
    let (text, _) = screen.split_once("its end").expect("its end");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn tables_fit_into_60_80_and_120_columns_without_broken_words() {
    let world = fake_world();
    start(&world, "4711/review-of-the-parser", "hello");
    world.fake(&FakeScript::steps([Step::Error {
        name: "APIError".into(),
        message: "the provider said that the key which was given to it is not a valid key".into(),
    }]));
    run(&world, ["start", "2", "fail", "--transport", "run"]).expect_status(1);
    let config = world.kugetsu_home().join("config.toml");
    std::fs::write(
        config,
        "opencode = \"/an/opencode/in/a/folder/of/many/parts/bin/opencode\"\n",
    )
    .unwrap();
    for (words, whole, piped) in [
        (
            "list --fields ref,state,turns,tokens,cost_usd,session",
            "github.com/shoko/kugetsu#4711/review-of-the-parser",
            run(&world, ["list"]),
        ),
        (
            "show 2 --turns",
            "github.com/shoko/kugetsu#2",
            run(&world, ["show", "2", "--turns"]),
        ),
        (
            "permit 2 --explain",
            "external_directory",
            run(&world, ["permit", "2", "--explain"]),
        ),
        ("config", "trash_keep", run(&world, ["config"])),
        ("doctor", "opencode", run(&world, ["doctor"])),
    ] {
        let known = piped.stdout() + &piped.stderr();
        for width in [60, 80, 120] {
            let mut lines = at(&world, width, words);
            // What is not in the table: the lines of `show` and the notes.
            if let Some(head) = lines.iter().position(|line| line.starts_with("TURN")) {
                lines.drain(..head);
            }
            if let Some(note) = lines
                .iter()
                .position(|line| line.starts_with("settings are read from") || line.starts_with("kugetsu: "))
            {
                lines.truncate(note);
            }
            let screen = lines.join("\n");
            assert!(
                screen.contains(whole) || words.starts_with("show"),
                "{words} at {width}:\n{screen}"
            );
            for line in &lines {
                assert!(line.chars().count() <= width, "{words} at {width}:\n{screen}");
            }
            for word in screen.split_whitespace() {
                let is_word = |known: &str| known == word || (known.len() > 24 && known.contains(word));
                assert!(
                    known.split_whitespace().any(is_word),
                    "{words} at {width}: {word:?} is broken\n{screen}"
                );
            }
        }
    }
    let narrow = at(&world, 60, "list --state failed").join("\n");
    assert!(
        narrow.contains("STATE") && !narrow.contains("SESSION"),
        "{narrow}"
    );
    let wide = at(&world, 120, "list --state failed").join("\n");
    assert!(wide.contains("STATE") && wide.contains("SESSION"), "{wide}");
}

#[test]
fn colours_follow_the_conventions_and_never_reach_json() {
    let world = fake_world();
    start(&world, "1", "hello");
    let stdout = |set: &[(&str, &str)], words: &[&str]| {
        let output = run_in(&world, set, words);
        (output.stdout(), output.stderr())
    };
    let force = ("CLICOLOR_FORCE", "1");
    let (list, _) = stdout(&[force], &["list"]);
    assert!(list.contains("\u{1b}[38;5;2mcompleted"), "{list:?}");
    let (show, _) = stdout(&[force], &["show", "1"]);
    assert!(show.contains("\u{1b}[32mcompleted\u{1b}[0m"), "{show:?}");
    let (doctor, _) = stdout(&[force], &["doctor"]);
    assert!(doctor.contains("\u{1b}[38;5;2mok"), "{doctor:?}");
    let (_, error) = stdout(&[force], &["show", "99"]);
    assert!(error.contains("\u{1b}[31mkugetsu:\u{1b}[0m"), "{error:?}");
    let (_, turn) = stdout(&[force], &["continue", "1", "on", "--transport", "run"]);
    assert!(turn.contains("\u{1b}[32mcompleted\u{1b}[0m"), "{turn:?}");
    for (set, words) in [
        (&[force][..], &["list", "--json"][..]),
        (&[force], &["show", "99", "--json"]),
        (&[force, ("NO_COLOR", "1")], &["list"]),
        (&[("CLICOLOR", "1")], &["list"]),
        (&[], &["doctor"]),
    ] {
        let (out, _) = stdout(set, words);
        assert!(!out.contains('\u{1b}'), "{set:?}, {words:?}: {out:?}");
    }
    for (before, coloured) in [("TERM=dumb", false), ("CLICOLOR=0", false), ("CLICOLOR=1", true)] {
        let shell = format!(
            "env {before} '{}' list; echo done; exec sleep 600",
            kugetsu_binary().display()
        );
        let terminal = Terminal::start(&world, &shell);
        terminal.wait_for("done");
        let screen = terminal.coloured_screen();
        assert_eq!(screen.contains('\u{1b}'), coloured, "{before}: {screen:?}");
    }
}

#[test]
fn a_list_is_newest_first_and_can_be_sorted_cut_and_reduced() {
    let world = fake_world();
    for issue in ["3", "1", "2"] {
        start(&world, issue, "hello");
    }
    let mut costly = record(&world, "1").expect("a record");
    costly["totals"]["cost_usd"] = 2.5.into();
    std::fs::write(record_path(&world, "1"), costly.to_string()).unwrap();
    let rows = |words: &[&str]| -> Vec<String> {
        let output = run(&world, ["list"].into_iter().chain(words.iter().copied()));
        let first = |line: &str| line.split(['#', ' ']).nth(1).unwrap_or_default().to_owned();
        output
            .expect_status(0)
            .stdout()
            .lines()
            .skip(1)
            .map(first)
            .collect()
    };
    assert_eq!(rows(&[]), ["2", "1", "3"]);
    assert_eq!(rows(&["--limit", "2"]), ["2", "1"]);
    assert_eq!(rows(&["--sort", "ref"]), ["1", "2", "3"]);
    assert_eq!(rows(&["--sort", "cost", "--limit", "1"]), ["1"]);
    let json = |words: &[&str]| -> Value {
        let output = run(
            &world,
            ["list", "--json"].into_iter().chain(words.iter().copied()),
        );
        output.expect_status(0).json()["sessions"].clone()
    };
    let refs = |value: &Value| -> Vec<String> {
        let sessions = value.as_array().expect("a list").iter();
        sessions
            .map(|one| text(&one["ref"]).split('#').nth(1).unwrap().to_owned())
            .collect()
    };
    assert_eq!(refs(&json(&[])), ["1", "2", "3"]);
    assert_eq!(refs(&json(&["--limit", "2"])), ["2", "1"]);
    let whole = json(&["--sort", "cost", "--limit", "1"]);
    assert_eq!(whole[0]["totals"]["cost_usd"], 2.5);
    assert_eq!(whole[0]["state"], "completed");
    let few = json(&["--fields", "cost_usd,state", "--sort", "cost"]);
    assert_eq!(
        few[0],
        serde_json::json!({"cost_usd": 2.5, "state": "completed"}),
        "{few}"
    );
    let all = json(&["--fields", "ref,state,turns,tokens,cost,age,updated,session"]);
    assert_eq!(all[0].as_object().map(serde_json::Map::len), Some(8), "{all}");
    let table = run(&world, ["list", "--fields", "state,ref"]).stdout();
    assert_eq!(table.lines().next(), Some("STATE      REF"), "{table}");
    refused(
        &world,
        &["list", "--fields", "colour"],
        64,
        &["colour", "cost_usd", "session"],
    );
    refused(&world, &["list", "--limit", "0"], 64, &["0"]);
}
