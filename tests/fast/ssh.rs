//! `--host`: every command through the system's ssh and a real sshd on loopback, with the fake opencode.

use crate::support::kit::{self, ISSUE, REPO, SOON, fake_prompts, fake_session};
use crate::support::sshd::{HOST, Sshd, other_home};
use crate::support::terminal::Terminal;
use kugetsu_testing::{
    FakeAttempt, FakeScript, ForgeServer, Opencode, Output, Running, ScriptedIssue, Signal, Stdin, Step,
    World, kugetsu_binary,
};
use serde_json::{Value, json};

/// A world, and another host with a base session.
fn worlds() -> (World, Sshd) {
    let world = World::new(Opencode::Fake);
    let sshd = Sshd::start(&world);
    sshd.configure(&world, &sshd.kugetsu());
    (world, sshd)
}

/// The fake opencode creates sessions only with `run`, so one of those is adopted.
fn with_base() -> (World, Sshd) {
    let (world, sshd) = worlds();
    let session = fake_session(&world);
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

#[test]
fn every_verb_works_there_and_leaves_nothing_here() {
    let (world, _sshd) = with_base();
    let started = over(&world, ["start", "#14", "first", "--output=json"]);
    assert_eq!(started.expect_status(0).json()["verdict"], "completed");
    assert_eq!(started.json()["ref"], ISSUE, "#14 belongs to the local clone");
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
    assert_eq!(fake_prompts(&world).pop().unwrap(), nasty);
    let long = nasty.repeat((1 << 20) / nasty.len() + 1);
    let through_stdin = |words: &[&str]| {
        let words = ["--host", HOST].iter().chain(words);
        world.run_with(words, Stdin::text(&long)).expect_status(0);
        assert!(
            fake_prompts(&world).pop().unwrap() == long,
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
        option.expect_status(64).stderr().contains("not a destination"),
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
fn the_remote_turn_ends_whichever_local_process_dies() {
    let (world, _sshd) = with_base();
    start_hanging(&world).kill9();
    world.wait_nothing_left(SOON);
    assert_eq!(shown(&world)["last"]["verdict"], "aborted");
}

#[test]
fn a_dropped_connection_ends_the_turn_and_is_reported() {
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

/// Starts a turn with this id that hangs on the other host, and waits until opencode has its prompt. Returns the prompt
/// too.
fn start_named(world: &World, turn: &str) -> (Running, Vec<String>, String) {
    let number = &turn[turn.len() - 2..];
    let prompt = format!("hang on {number}");
    let issue = format!("{REPO}#{number}");
    let words: Vec<String> = [
        "--host",
        HOST,
        "start",
        &issue,
        &prompt,
        "--transport=run",
        "--turn-id",
        turn,
        "--output=json",
    ]
    .map(str::to_owned)
    .to_vec();
    let running = world.spawn(&words);
    world.wait_until("opencode has stored the prompt", SOON, || {
        let sessions = world.sessions();
        let mut prompts = sessions
            .iter()
            .flat_map(|session| kit::prompts_of(world, &session.id));
        prompts.any(|stored| stored == prompt)
    });
    (running, words, prompt)
}

/// The processes that run this program, according to their command lines.
fn pids_of(world: &World, program: &str) -> Vec<u32> {
    let all = world.processes();
    let found = all.iter().filter(|process| {
        let first = process.command.split_whitespace().next().unwrap_or_default();
        first.rsplit('/').next() == Some(program)
    });
    found.map(|process| process.pid).collect()
}

#[test]
fn the_same_turn_after_a_lost_connection_is_reported_and_not_run_again() {
    let (world, sshd) = with_base();
    world.fake(&FakeScript::default().on("hang", [Step::Stderr("x".into()), Step::Hang]));
    let lost = |running: Running, turn: &str| {
        let output = running.wait(SOON);
        let reported = output.expect_status(75).json();
        assert_eq!(reported["exit_status"], 75, "{output}");
        assert!(
            output.stderr().contains(&format!("--turn-id {turn}")),
            "the command to repeat is shown\n{output}"
        );
    };
    for (turn, how) in [
        (
            "01900000-0000-7000-8000-000000000031",
            "the other side of the connection dies",
        ),
        ("01900000-0000-7000-8000-000000000032", "ssh here is killed"),
        ("01900000-0000-7000-8000-000000000033", "kugetsu here is killed"),
    ] {
        let (running, words, prompt) = start_named(&world, turn);
        match how {
            "the other side of the connection dies" => {
                assert!(sshd.drop_connections() > 0);
                lost(running, turn);
            }
            "ssh here is killed" => {
                let ssh = pids_of(&world, "ssh");
                assert_eq!(ssh.len(), 1, "{:?}", world.processes());
                let ssh = rustix::process::Pid::from_raw(ssh[0].cast_signed()).unwrap();
                rustix::process::kill_process(ssh, rustix::process::Signal::KILL).unwrap();
                lost(running, turn);
            }
            _ => running.kill9(),
        }
        // Refused at once: the remote turn may not have ended yet.
        let again = world.spawn(&words).wait(SOON);
        let reported = again.expect_status(143).json();
        assert_eq!(
            (&reported["turn"], &reported["verdict"], &reported["exit_status"]),
            (&json!(turn), &json!("aborted"), &json!(143)),
            "{how}\n{again}"
        );
        world.wait_nothing_left(SOON);
        // The session continues with another turn, and has received each prompt once.
        let next = [
            "--host",
            HOST,
            "continue",
            reported["ref"].as_str().unwrap(),
            "go on",
            "--transport=run",
            "--output=json",
        ];
        let next = world.run(next).expect_status(0).json();
        let session = next["session"].as_str().unwrap();
        assert_eq!(
            kit::prompts_of(&world, session),
            ["the base", &prompt, "go on"],
            "{how}"
        );
    }
}

#[test]
fn a_detached_turn_outlives_its_connection_and_is_found_again() {
    let (world, sshd) = with_base();
    let journal = Step::step_start();
    world.fake(
        &FakeScript::default()
            .on("hang", [journal, Step::Hang])
            .on("slow", [Step::Pause(1500), Step::Answer("the answer".into())]),
    );
    let turn = "01900000-0000-7000-8000-000000000041";
    let start = ["start", ISSUE, "hang on", "--transport=run", "--turn-id", turn];
    let detached = world.run(["--host", HOST].iter().chain(&start).chain(&["--detach"]));
    assert_eq!(detached.expect_status(0).stdout().trim(), turn);
    let mut followed = world.spawn([
        "--host",
        HOST,
        "--json",
        "logs",
        "14",
        "-f",
        "--events-schema",
        "1",
    ]);
    followed.wait_for_stdout("\"type\":\"turn_start\"", SOON);
    assert!(sshd.drop_connections() > 0);
    followed.wait(SOON).expect_status(75);
    assert_eq!(shown(&world)["state"], "running");

    let waiting = world.spawn(["--host", HOST, "wait", "14", "--output=json"]);
    let stopped = over(&world, ["stop", "14"]);
    assert!(
        stopped.expect_status(0).stdout().contains(&turn[28..]),
        "{stopped}"
    );
    assert_eq!(waiting.wait(SOON).expect_status(143).json()["turn"], turn);
    // Repeating the command reports the result, with or without `--detach`.
    over(&world, start).expect_status(143);
    let again = world.run(["--host", HOST].iter().chain(&start).chain(&["--detach"]));
    assert_eq!(again.expect_status(0).stdout().trim(), turn);
    world.wait_nothing_left(SOON);

    over(&world, ["continue", "14", "slow", "--transport=run", "--detach"]).expect_status(0);
    let followed = over(&world, ["logs", "14", "-f"]);
    assert_eq!(followed.expect_status(0).stdout(), "the answer\n");
    let waited = over(&world, ["wait", "14"]);
    assert_eq!(waited.expect_status(0).stdout(), "the answer\n");
    let session = shown(&world)["session"].as_str().unwrap().to_owned();
    assert_eq!(kit::prompts_of(&world, &session), ["the base", "hang on", "slow"]);
    world.wait_nothing_left(SOON);
}

#[test]
fn the_other_host_fetches_the_issue() {
    let (world, _sshd) = with_base();
    let forge = ForgeServer::start();
    forge.github(
        "shoko/kugetsu",
        14,
        &ScriptedIssue::new("It crashes", "At once.", &[]),
    );
    let settings = format!("[forges.\"github.com\"]\napi_url = \"{}\"\n", forge.url());
    std::fs::write(other_home(&world).join("config.toml"), settings).unwrap();
    let issue = over(&world, ["issue", "14"]);
    assert!(
        issue.expect_status(0).stdout().starts_with("It crashes\n"),
        "{issue}"
    );
    for (reference, message, begin) in [
        ("14", &["fix"][..], "fix\n\nThe text of the issue"),
        ("14/review", &[], "Work on the issue"),
    ] {
        let words = [
            "--host",
            HOST,
            "start",
            reference,
            "--with-issue",
            "--transport",
            "run",
        ];
        world.run(words.iter().chain(message)).expect_status(0);
        let prompt = fake_prompts(&world).pop().unwrap();
        assert!(
            prompt.trim_start().starts_with(begin) && prompt.contains("\nAt once.\n"),
            "{prompt}"
        );
    }
    assert_eq!(shown(&world)["issue_title"], "It crashes");
    let empty = over(&world, ["start", "15"]);
    assert!(
        empty.expect_status(64).stderr().contains("--with-issue"),
        "{empty}"
    );
}

#[test]
fn a_message_that_is_typed_here_arrives_there() {
    let (world, _sshd) = with_base();
    let kugetsu = kugetsu_binary();
    let shell = format!(
        "'{}' --host {HOST} start {ISSUE} - --transport run",
        kugetsu.display()
    );
    let terminal = Terminal::start(&world, &shell);
    terminal.wait_for("end it with Ctrl-D");
    terminal.press(&["typed over here", "Enter", "C-d"]);
    world.wait_until("the turn has ended", SOON, || terminal.ended().is_some());
    assert_eq!(terminal.ended().as_deref(), Some("0"), "{}", terminal.screen());
    assert!(
        fake_prompts(&world)
            .iter()
            .any(|prompt| prompt.trim() == "typed over here"),
        "{:?}",
        fake_prompts(&world)
    );
}

#[test]
fn commands_and_tasks_use_the_daemon_of_the_other_host() {
    let (world, _sshd) = with_base();
    let home = other_home(&world);
    world.start_daemon_in(&[("KUGETSU_HOME", home.to_str().unwrap())], &[]);
    let status = || {
        over(&world, ["daemon", "status", "--json"])
            .expect_status(0)
            .json()
    };
    let pid = status()["pid"].clone();
    assert_eq!(pid, world.daemon().unwrap());

    let submitted = over(&world, ["submit", "#15", "from afar", "--json"]);
    let submitted = submitted.expect_status(0).json();
    let task = submitted["task"].as_str().unwrap();
    let tail = over(&world, ["tail", task, "-f"]);
    assert_eq!(tail.expect_status(0).stdout().trim(), "done");
    let shown = over(&world, ["task", "show", task, "--json"]).json();
    assert_eq!(
        (&shown["state"], &shown["ref"]),
        (&json!("ended"), &json!(format!("{REPO}#15")))
    );

    // A session of its own in the repository of this clone, with a message that no argument list there shows.
    let own = over(&world, ["submit", "- say it's \"mine\"", "--json"])
        .expect_status(0)
        .json();
    assert_eq!(own["prompt"], "- say it's \"mine\"", "{own:#}");
    assert!(
        own["ref"].as_str().unwrap().starts_with(&format!("{REPO}~task-")),
        "{own:#}"
    );
    over(&world, ["tail", own["task"].as_str().unwrap(), "-f"]).expect_status(0);

    let running = start_hanging(&world);
    assert_eq!(status()["running"], 1, "the command has a place of that daemon");
    running.signal(Signal::Interrupt);
    running.wait(SOON).expect_status(130);
    world.wait_until("the place is free", SOON, || status()["running"] == 0);

    over(&world, ["daemon", "stop"]).expect_status(0);
    over(&world, ["daemon", "status"]).expect_status(69);
    assert!(!world.kugetsu_home().join("run/daemon.sock").exists());
}
