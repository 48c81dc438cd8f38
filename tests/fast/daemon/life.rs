//! Start, status, reload and end.

use kugetsu_testing::{FakeScript, Signal, Step, World};
use serde_json::{Value, json};

use super::{expect_error, has_got, status, submit, wait_for_state, world, world_with};
use crate::support::kit::{SOON, fake_prompts, fake_world, run, scripted_world};

#[test]
fn one_daemon_serves_a_home() {
    let world = world();
    expect_error(
        &run(&world, ["daemon", "start", "--detach", "--json"]),
        1,
        "daemon-running",
    );
    expect_error(&run(&world, ["daemon", "start", "--json"]), 1, "daemon-running");
    let status = status(&world);
    assert_eq!(status["pid"], world.daemon().unwrap(), "{status:#}");
    assert_eq!(status["max_concurrent"], 4, "{status:#}");
    run(&world, ["daemon", "status"]).expect_status(0);
    run(&world, ["daemon", "stop"]).expect_status(0);
    world.wait_until("nothing is left", SOON, || world.processes().is_empty());
    for words in [
        &["daemon", "status", "--json"][..],
        &["daemon", "stop", "--json"],
        &["submit", "1", "x", "--json"],
        &["task", "list", "--json"],
    ] {
        expect_error(&run(&world, words.iter().copied()), 69, "no-daemon");
    }
    // A daemon that was killed leaves its socket, and is replaced.
    world.start_daemon();
    world.kill_daemon();
    expect_error(&run(&world, ["daemon", "status", "--json"]), 69, "no-daemon");
    run(&world, ["start", "1", "without one", "--transport", "run"]).expect_status(0);
    world.start_daemon();
}

#[test]
fn its_files_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = world();
    submit(&world, &["1", "a task"]);
    let home = world.kugetsu_home();
    for file in [
        "run",
        "run/daemon.sock",
        "run/daemon.lock",
        "run/daemon.log",
        "queue.db",
        "queue.db-wal",
    ] {
        let mode = home.join(file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} has the mode {mode:o}");
    }
    let logs = run(&world, ["daemon", "logs"]);
    logs.expect_status(0);
    assert!(logs.stdout().contains("the daemon runs"), "{logs}");
}

#[test]
fn a_signal_ends_it_and_another_reads_the_settings_again() {
    let world = world();
    std::fs::write(world.kugetsu_home().join("config.toml"), "max_concurrent = 2\n").unwrap();
    let daemon = world.daemon().unwrap();
    assert!(world.signal(daemon, Signal::Hangup));
    world.wait_until("it has read them", SOON, || status(&world)["max_concurrent"] == 2);
    // Settings that cannot be used change nothing.
    std::fs::write(world.kugetsu_home().join("config.toml"), "max_concurrent = 0\n").unwrap();
    assert!(world.signal(daemon, Signal::Hangup));
    let logs = || run(&world, ["daemon", "logs"]).stdout();
    std::fs::write(world.kugetsu_home().join("config.toml"), "max_concurrent = 0\n").unwrap();
    world.wait_until("it says so", SOON, || {
        let path = world.kugetsu_home().join("run/daemon.log");
        std::fs::read_to_string(path)
            .unwrap()
            .contains("the settings stay as they were")
    });
    std::fs::remove_file(world.kugetsu_home().join("config.toml")).unwrap();
    assert_eq!(status(&world)["max_concurrent"], 2);
    assert!(logs().contains("settings were read again"));
    assert!(world.signal(daemon, Signal::Terminate));
    world.wait_until("nothing is left", SOON, || world.processes().is_empty());
}

#[test]
fn a_storm_of_reloads_loses_nothing() {
    const ROUNDS: usize = 300;
    let work = [Step::Pause(200), Step::Answer("done".to_owned())];
    let script = (0..10).fold(FakeScript::default(), |script, number| {
        script.on(format!("work {number}"), work.clone())
    });
    let world = scripted_world(&script);
    world.start_daemon();
    let daemon = world.daemon().unwrap();
    let config = world.kugetsu_home().join("config.toml");
    let reload = |settings: &str| {
        std::fs::write(&config, settings).unwrap();
        assert!(world.signal(daemon, Signal::Hangup));
    };
    let mut tasks = Vec::new();
    for round in 0..ROUNDS {
        if round % (ROUNDS / 10) == 0 {
            // The command that submits reads the settings as well.
            reload("max_concurrent = 4\n");
            let number = tasks.len();
            tasks.push(submit(
                &world,
                &[&(number + 1).to_string(), &format!("work {number}")],
            ));
        }
        reload(
            [
                "max_concurrent = 0\n",
                "max_concurrent = [",
                "no_such_setting = 1\n",
            ][round % 3],
        );
        reload(&format!("max_concurrent = {}\n", 2 + round % 3));
    }
    reload("max_concurrent = 7\n");
    world.wait_until("the last settings count", SOON, || {
        status(&world)["max_concurrent"] == 7
    });
    let log = world.kugetsu_home().join("run/daemon.log");
    let refused = || {
        std::fs::read_to_string(&log)
            .unwrap()
            .matches("the settings stay as they were")
            .count()
    };
    let before = refused();
    reload("max_concurrent = 0\n");
    world.wait_until("it has refused them", SOON, || refused() > before);
    std::fs::remove_file(&config).unwrap();
    let now = status(&world);
    assert_eq!(
        (&now["max_concurrent"], &now["pid"]),
        (&json!(7), &json!(daemon)),
        "{now:#}"
    );
    for task in &tasks {
        let ended = wait_for_state(&world, task, "ended");
        assert_eq!(
            (&ended["verdict"], &ended["attempts"]),
            (&json!("completed"), &json!(1)),
            "{ended:#}"
        );
    }
    let mut prompts: Vec<_> = fake_prompts(&world)
        .into_iter()
        .filter(|prompt| prompt.starts_with("work"))
        .collect();
    prompts.sort();
    let expected: Vec<_> = (0..tasks.len()).map(|number| format!("work {number}")).collect();
    assert_eq!(prompts, expected, "each task ran once");
}

#[test]
fn a_drained_daemon_finishes_what_runs_and_keeps_the_queue() {
    let world = world_with(&["--max-concurrent", "1"]);
    let running = submit(&world, &["1", "hang"]);
    world.wait_until("the task runs", SOON, || has_got(&world, "hang"));
    let queued = submit(&world, &["2", "later"]);
    let stop = world.spawn(["daemon", "stop", "--drain"]);
    world.wait_until("it drains", SOON, || status(&world)["draining"] == true);
    expect_error(
        &run(&world, ["submit", "3", "too late", "--json"]),
        75,
        "draining",
    );
    run(&world, ["stop", "1"]).expect_status(0);
    stop.wait(SOON).expect_status(0);
    world.wait_until("nothing is left", SOON, || world.processes().is_empty());
    world.start_daemon();
    let ended = wait_for_state(&world, &running, "ended");
    assert_eq!(ended["verdict"], "aborted", "{ended:#}");
    assert_eq!(wait_for_state(&world, &queued, "ended")["verdict"], "completed");
}

#[test]
fn a_daemon_that_is_started_on_need_ends_by_itself() {
    let world: World = fake_world();
    let on_need = |words: &[&str]| {
        let settings = [
            ("KUGETSU_DAEMON", "spawn"),
            ("KUGETSU_DAEMON_IDLE", "1s"),
            ("KUGETSU_TRANSPORT", "run"),
        ];
        let output = crate::support::kit::run_in(&world, &settings, words);
        output.expect_status(0);
        output
    };
    on_need(&["start", "1", "one"]);
    let first = status(&world);
    on_need(&["continue", "1", "two"]);
    assert_eq!(status(&world)["pid"], first["pid"], "the same one");
    world.wait_until("it ends", SOON, || world.processes().is_empty());
    // `never` and the flag start none.
    let never = [("KUGETSU_DAEMON", "never"), ("KUGETSU_TRANSPORT", "run")];
    crate::support::kit::run_in(&world, &never, &["continue", "1", "three"]).expect_status(0);
    let flag = [("KUGETSU_DAEMON", "spawn"), ("KUGETSU_TRANSPORT", "run")];
    crate::support::kit::run_in(&world, &flag, &["continue", "1", "four", "--no-daemon"]).expect_status(0);
    assert!(world.processes().is_empty());
}

#[test]
fn the_log_can_be_json_and_has_no_content() {
    let world = world_with(&["--log-format", "json"]);
    let id = submit(&world, &["1", "a hidden message"]);
    wait_for_state(&world, &id, "ended");
    run(
        &world,
        ["start", "2", "another hidden message", "--transport", "run"],
    )
    .expect_status(0);
    run(&world, ["daemon", "stop"]).expect_status(0);
    let logs = run(&world, ["daemon", "logs"]);
    logs.expect_status(0);
    let lines = logs.stdout();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for line in &lines {
        for field in ["timestamp", "level", "message"] {
            assert!(line[field].is_string(), "{line:#}");
        }
    }
    let with = |message: &str| {
        let found: Vec<_> = lines.iter().filter(|line| line["message"] == message).collect();
        assert!(!found.is_empty(), "no `{message}` in {logs}");
        found
    };
    with("the daemon runs");
    let begins = with("the turn of a task begins")[0];
    assert_eq!(
        (&begins["task"], &begins["attempt"]),
        (&id.clone().into(), &1.into()),
        "{begins:#}"
    );
    let turns = with("a turn has ended");
    assert_eq!(turns.len(), 2, "those of tasks and of commands: {logs}");
    assert_eq!(turns[0]["turn"], begins["turn"], "{turns:#?}");
    assert_eq!(turns[0]["ref"], begins["ref"], "{turns:#?}");
    let ended = with("a task has ended")[0];
    assert_eq!(
        (&ended["task"], &ended["verdict"]),
        (&id.into(), &"completed".into()),
        "{ended:#}"
    );
    assert!(!logs.stdout().contains("hidden"), "{logs}");
}
