//! `--host`: every command through the system's ssh and a real sshd on loopback. No real opencode is needed.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests write what they need and may panic"
)]

#[path = "support/sshd.rs"]
mod sshd;

use std::time::Duration;

use kugetsu_testing::{FakeAttempt, FakeScript, Opencode, Output, Running, Signal, Stdin, Step, World};
use serde_json::Value;
use sshd::{HOST, Sshd, other_home};

const SOON: Duration = Duration::from_mins(1);
const REPO: &str = "github.com/shoko/kugetsu";
const ISSUE: &str = "github.com/shoko/kugetsu#14";

/// A world, and another host that has a base session.
fn worlds() -> (World, Sshd) {
    let world = World::new(Opencode::Fake);
    let sshd = Sshd::start(&world);
    sshd.configure(&world, &sshd.kugetsu());
    (world, sshd)
}

/// The fake opencode makes sessions only with `run`: one of those is adopted.
fn with_base() -> (World, Sshd) {
    let (world, sshd) = worlds();
    world
        .finish(
            world.opencode_command(["run", "--format", "json"]),
            Stdin::text("base"),
        )
        .expect_status(0);
    let session = world.sessions()[0].id.clone();
    let repo = world.repo();
    let init = [
        "init",
        "--dir",
        repo.to_str().unwrap(),
        "--repo",
        REPO,
        "--adopt",
        &session,
    ];
    over(&world, init).expect_status(0);
    (world, sshd)
}

/// Runs a command on the other host.
#[track_caller]
fn over<const N: usize>(world: &World, words: [&str; N]) -> Output {
    world.run(["--host", HOST].into_iter().chain(words))
}

/// Starts a turn on the other host and waits until opencode has its prompt.
fn start_hanging(world: &World) -> Running {
    world.fake(&FakeScript::default().on("hang", [Step::Stderr("x".into()), Step::Hang]));
    let running = world.spawn(["--host", HOST, "start", ISSUE, "hang on", "--transport", "run"]);
    world.wait_until("opencode has the prompt", SOON, || {
        world.fake_calls().iter().any(|call| {
            call.arguments.first().is_some_and(|word| word == "run")
                && call
                    .prompt
                    .as_deref()
                    .is_some_and(|prompt| prompt.contains("hang on"))
        })
    });
    running
}

fn shown(world: &World) -> Value {
    let mut command = world.kugetsu(["show", ISSUE, "--json"]);
    command.env("KUGETSU_HOME", other_home(world));
    world.finish(command, Stdin::Null).json()
}

fn last_prompt(world: &World) -> String {
    let calls = world.fake_calls();
    calls
        .into_iter()
        .filter_map(|call| call.prompt)
        .next_back()
        .unwrap()
}

#[test]
fn every_verb_works_there_and_leaves_nothing_here() {
    let (world, _sshd) = with_base();
    let started = over(&world, ["start", "#14", "first", "--output=json"]);
    assert_eq!(started.expect_status(0).json()["verdict"], "completed");
    assert_eq!(
        started.json()["ref"],
        ISSUE,
        "#14 is of the clone that it was said in"
    );
    assert_eq!(
        over(&world, ["continue", "14", "second"])
            .expect_status(0)
            .stdout()
            .trim(),
        "done"
    );
    assert_eq!(over(&world, ["show", "#14", "--json"]).json(), shown(&world));
    assert_eq!(shown(&world)["totals"]["turns"], 2);
    for words in [
        &["list", "--json", "--state=completed,new"][..],
        &["show", ISSUE, "--turns"],
        &["logs", ISSUE],
        &["logs", ISSUE, "--raw"],
        &["permit", ISSUE],
        &["permit", "--base", "bash:rm *=deny"],
        &["prune", "--json"],
        &["config", "--json"],
        &["attach", ISSUE, "--print"],
        &["completions", "bash"],
        &["man"],
    ] {
        let there = world.run(["--host", HOST].iter().chain(words));
        let mut command = world.kugetsu(words);
        command.env("KUGETSU_HOME", other_home(&world));
        let direct = world.finish(command, Stdin::Null);
        assert_eq!(
            there.expect_status(0).stdout(),
            direct.stdout(),
            "{words:?}\n{there}"
        );
        assert_eq!(there.stderr(), direct.stderr(), "{words:?}");
    }
    assert!([0, 1].contains(&over(&world, ["doctor"]).code()));
    over(&world, ["destroy", "#14", "-y"]).expect_status(0);
    over(&world, ["show", "#14"]).expect_status(66);
    over(&world, ["restore", "#14"]).expect_status(0);
    over(&world, ["destroy", "--base", "-y"]).expect_status(0);
    assert!(!world.kugetsu_home().join("sessions").exists());
    world.wait_nothing_left(SOON);
}

#[test]
fn prompts_and_arguments_arrive_byte_for_byte() {
    let (world, _sshd) = with_base();
    let nasty = "--it's \"quoted\" $(x) `y` \\ !! \u{1f980}\n\n\t* ~ #end ";
    over(&world, ["start", ISSUE, "--", nasty]).expect_status(0);
    assert_eq!(last_prompt(&world), nasty);
    let long = nasty.repeat((1 << 20) / nasty.len() + 1);
    let through_stdin = |words: &[&str]| {
        let words = ["--host", HOST].iter().chain(words);
        world.run_with(words, Stdin::text(&long)).expect_status(0);
        assert!(
            last_prompt(&world) == long,
            "a prompt of {} bytes is not what arrived",
            long.len()
        );
    };
    through_stdin(&["continue", ISSUE, "-"]);
    through_stdin(&["continue", ISSUE]);

    let rule = "bash:echo 'a  b' \"c\" $HOME \\ \u{e9}";
    over(&world, ["permit", ISSUE, &format!("{rule}=deny")]).expect_status(0);
    let rules = shown(&world)["policy"]["rules"].to_string();
    assert!(
        rules.contains(&serde_json::to_string(&rule["bash:".len()..]).unwrap()),
        "{rules}"
    );
}

#[test]
fn the_exit_status_is_the_one_over_there() {
    let (world, mut sshd) = with_base();
    over(&world, ["continue", ISSUE, "go"]).expect_status(66);
    over(&world, ["list", "--state", "nonsense"]).expect_status(64);
    over(&world, ["destroy", ISSUE]).expect_status(66);
    world.fake(&FakeScript::steps([Step::Error {
        name: "APIError".into(),
        message: "no".into(),
    }]));
    over(&world, ["start", ISSUE, "go", "--transport", "run"]).expect_status(1);

    let usage = over(&world, ["init"]);
    assert!(usage.expect_status(64).stderr().contains("--dir"), "{usage}");
    let file = over(
        &world,
        [
            "init",
            "--dir",
            "/",
            "--repo",
            REPO,
            "--prompt-file",
            "/nowhere/x",
        ],
    );
    assert!(file.expect_status(64).stderr().contains("/nowhere/x"), "{file}");
    let terminal = over(&world, ["attach", ISSUE]);
    assert!(
        terminal.expect_status(64).stderr().contains("--print"),
        "{terminal}"
    );

    sshd.configure(&world, "");
    let absent = over(&world, ["list"]);
    assert!(
        absent.expect_status(69).stderr().contains("[hosts.box] kugetsu"),
        "{absent}"
    );
    sshd.configure(&world, &sshd.kugetsu());
    sshd.stop();
    let unreachable = over(&world, ["list", "--json"]);
    assert_eq!(unreachable.expect_status(75).json()["exit_status"], 75);
    let option = world.run(["--host=-oProxyCommand=false", "list"]);
    assert!(
        option.expect_status(64).stderr().contains("no destination"),
        "{option}"
    );
}

#[test]
fn the_home_over_there_can_be_named() {
    let (world, sshd) = worlds();
    let home = world.root().join("it's \\ another");
    let more = format!("{}\nhome = '''{}'''", sshd.kugetsu(), home.display());
    sshd.configure(&world, &more);
    let config = over(&world, ["config", "--json"]);
    assert_eq!(
        config.expect_status(0).json()["file"],
        home.join("config.toml").to_str().unwrap()
    );
}

#[test]
fn an_open_and_silent_stdin_holds_nothing_up() {
    let (world, _sshd) = with_base();
    for words in [&["list"][..], &["start", ISSUE, "go"], &["destroy", ISSUE, "-y"]] {
        let words = ["--host", HOST].iter().chain(words);
        world
            .spawn_with(words, Stdin::OpenSilent)
            .wait(SOON)
            .expect_status(0);
    }
}

#[test]
fn the_stream_comes_as_it_is_made() {
    let (world, _sshd) = with_base();
    let part = serde_json::json!({"type": "text", "text": "the first word", "time": {"end": 1}});
    let text = Step::Event {
        kind: "text".into(),
        part,
    };
    world.fake(&FakeScript::default().on_attempts(
        "",
        [FakeAttempt {
            stores_prompt: true,
            steps: vec![text, Step::Hang],
        }],
    ));
    let words = [
        "--host",
        HOST,
        "start",
        ISSUE,
        "go",
        "--transport=run",
        "--output=stream-json",
    ];
    let mut running = world.spawn(words);
    running.wait_for_stdout("the first word", SOON);
    running.signal(Signal::Terminate);
    let output = running.wait(SOON);
    let lines = output.expect_status(143).json_lines();
    assert_eq!(lines.last().unwrap()["type"], "agent_end");
    world.wait_nothing_left(SOON);
}

#[test]
fn ctrl_c_ends_the_turn_over_there() {
    let (world, _sshd) = with_base();
    let running = start_hanging(&world);
    running.signal_group(Signal::Interrupt);
    let output = running.wait(SOON);
    assert!(output.expect_status(130).stderr().contains("aborted"), "{output}");
    assert_eq!(shown(&world)["last"]["verdict"], "aborted");
    world.wait_nothing_left(SOON);
}

#[test]
fn whoever_dies_here_the_turn_over_there_is_ended() {
    let (world, _sshd) = with_base();
    start_hanging(&world).kill9();
    world.wait_nothing_left(SOON);
    assert_eq!(shown(&world)["last"]["verdict"], "aborted");
}

#[test]
fn a_dropped_connection_ends_the_turn_and_says_so() {
    let (world, sshd) = with_base();
    let running = start_hanging(&world);
    assert!(sshd.drop_connections() > 0);
    let output = running.wait(SOON);
    assert!(
        output
            .expect_status(75)
            .stderr()
            .contains("the connection was lost"),
        "{output}"
    );
    world.wait_nothing_left(SOON);
    assert_eq!(shown(&world)["last"]["verdict"], "aborted");
}
