//! Complete output for people (help, lists, reports and errors), compared with the snapshots in `snapshots/`. After an
//! intended change, run `INSTA_UPDATE=always cargo xtask test output::` to update them; the diff shows what people will
//! see.

use clap::CommandFactory as _;
use insta::assert_snapshot;
use kugetsu_testing::{FakeScript, Opencode, Output, Running, Signal, Step, World};

use crate::support::kit::{SOON, record_path, run, run_in, scripted_world, session_of, start, status};

/// A world whose opencode answers, fails, asks or hangs, depending on the prompt.
fn world() -> World {
    let error = Step::Error {
        name: "APIError".to_owned(),
        message: "the key is not valid".to_owned(),
    };
    let script = FakeScript::default()
        .on("fail", [error])
        .on("hang", [Step::step_start(), Step::Hang])
        .on("nothing", [Step::Exit(0)]);
    scripted_world(&script)
}

/// A turn that hangs in opencode.
fn hanging(world: &World, issue: &str) -> Running {
    let turn = world.spawn(["start", issue, "hang", "--transport", "run"]);
    world.wait_until("the turn is in opencode", SOON, || {
        status(world, issue).is_some_and(|status| status["current_step"] == 1)
    });
    turn
}

/// Exit status, stdout and stderr, without parts that differ between runs.
fn transcript(world: &World, output: &Output) -> String {
    let mut text = format!("status: {}\n", output.code());
    for (name, stream) in [("stdout", output.stdout()), ("stderr", output.stderr())] {
        if !stream.is_empty() {
            text.push_str(&format!("--- {name}\n{}\n", stream.trim_end()));
        }
    }
    let root = world.root().to_str().expect("a path in UTF-8");
    let opencode = world.opencode().binary();
    let host = rustix::system::uname();
    let text = text
        .replace(root, "[WORLD]")
        .replace(opencode.to_str().expect("a path in UTF-8"), "[OPENCODE]");
    text.replace(
        &format!(" on {}", host.nodename().to_string_lossy()),
        " on [HOST]",
    )
}

/// The parts that differ between runs, and their placeholders.
const FILTERS: [(&str, &str); 9] = [
    (r"ses_[0-9A-Za-z]+", "[SESSION]"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "[TURN]"),
    (r"\b[0-9a-f]{8}\b", "[SHORT]"),
    (
        r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?",
        "[TIME]",
    ),
    (r"process \d+", "process [PID]"),
    (r"\b\d+(\.\d)? ([kMG]?B)\b", "[SIZE]"),
    // Column widths depend on their contents.
    (r" {2,}", "  "),
    (r"─{4,}", "────"),
    (r" +\n", "\n"),
];
/// A measured duration.
const SPAN: (&str, &str) = (r"\b\d+(\.\d+)? ?(ms|s|m)\b( ago)?", "[SPAN]");

/// Compares with the snapshot of this name.
#[track_caller]
fn compare(name: &str, text: &str, filters: &[(&str, &str)]) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, replacement) in filters {
        settings.add_filter(pattern, *replacement);
    }
    settings.bind(|| assert_snapshot!(name, text));
}

/// Compares a command's output with a snapshot.
#[track_caller]
fn compare_output(name: &str, world: &World, output: &Output) {
    compare(
        name,
        &transcript(world, output),
        &[&FILTERS[..], &[SPAN]].concat(),
    );
}

#[test]
fn the_help_of_every_verb() {
    let world = World::new(Opencode::Fake);
    let command = kugetsu::cli::Cli::command();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    for verb in verbs.map(clap::Command::get_name).filter(|verb| *verb != "help") {
        let help = run(&world, [verb, "--help"]);
        compare(&format!("help-{verb}"), &help.expect_status(0).stdout(), &[]);
    }
    let help = run(&world, ["--help"]);
    compare("help", &help.expect_status(0).stdout(), &[]);
}

#[test]
fn lists_and_reports() {
    let world = world();
    compare_output("list-empty", &world, &run(&world, ["list"]));
    start(&world, "1", "hello");
    run(&world, ["start", "2", "fail", "--transport", "run"]).expect_status(1);
    run(&world, ["continue", "1", "nothing", "--transport", "run"]).expect_status(1);
    let turn = hanging(&world, "3");
    for (name, words) in [
        ("list", &["list"][..]),
        ("show", &["show", "1"]),
        ("show-turns", &["show", "1", "--turns"]),
        ("show-live", &["show", "3"]),
        ("logs", &["logs", "2"]),
        ("permit", &["permit", "1"]),
        ("pending-empty", &["pending"]),
        ("prune-nothing", &["prune"]),
        ("doctor", &["doctor"]),
    ] {
        compare_output(name, &world, &run(&world, words.iter().copied()));
    }
    turn.signal(Signal::Terminate);
    turn.wait(SOON);
    std::fs::write(record_path(&world, "4"), "{").unwrap();
    for (name, words) in [
        ("doctor-broken-record", &["doctor"][..]),
        ("list-broken-record", &["list"]),
        ("destroy", &["destroy", "2", "-y"]),
        ("restore", &["restore", "2"]),
    ] {
        compare_output(name, &world, &run(&world, words.iter().copied()));
    }
}

#[test]
fn an_error_of_every_exit_status() {
    let world = world();
    start(&world, "1", "hello");
    let failed = run(&world, ["start", "2", "fail", "--transport", "run"]);
    compare_output("error-1-failed", &world, &failed);
    let void = run(&world, ["start", "5", "nothing", "--transport", "run"]);
    compare_output("error-1-void", &world, &void);
    for (name, words) in [
        ("error-2-not-confirmed", &["destroy", "1"][..]),
        ("error-64-reference", &["show", "abc"]),
        ("error-64-started-twice", &["start", "1", "again"]),
        ("error-64-flag", &["list", "--colour"]),
        ("error-66-session", &["show", "99"]),
    ] {
        compare_output(name, &world, &run(&world, words.iter().copied()));
    }
    let empty = World::new(Opencode::Fake);
    let no_base = run(&empty, ["start", "1", "hello"]);
    compare_output("error-66-base", &empty, &no_base);
    let missing = run_in(
        &world,
        &[("KUGETSU_OPENCODE", "/nonexistent/opencode")],
        &["continue", "1", "hello"],
    );
    compare_output("error-69-opencode-missing", &world, &missing);
    let home = world.root().join("no-folder");
    std::fs::write(&home, "").unwrap();
    let unwritable = run_in(
        &world,
        &[("KUGETSU_HOME", home.to_str().unwrap())],
        &["init", "--adopt", &session_of(&world, "1")],
    );
    compare_output("error-73-home", &world, &unwritable);
    let turn = hanging(&world, "3");
    let busy = run(&world, ["continue", "3", "too"]);
    compare_output("error-75-in-use", &world, &busy);
    turn.signal(Signal::Interrupt);
    compare_output("error-130-interrupted", &world, &turn.wait(SOON));
    let turn = hanging(&world, "4");
    turn.signal(Signal::Terminate);
    compare_output("error-143-terminated", &world, &turn.wait(SOON));
}

#[test]
fn the_settings_of_a_new_machine() {
    let world = World::new(Opencode::Fake);
    let output = run(&world, ["config"]);
    compare("config", &transcript(&world, &output), &FILTERS);
}
