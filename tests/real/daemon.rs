//! Turns and tasks through the daemon, on the real opencode. The contract of the transports runs through the daemon as
//! well (`on_every_combination`).

use std::time::{Duration, Instant};

use kugetsu_testing::{
    Gate, Opencode, Reply, Signal, Stdin, Version, World, kugetsu_binary, on_both_versions,
};
use serde_json::json;

use crate::support::daemon::{status, submit};
use crate::support::kit::{ISSUE, REPO, SOON, prompts_of, record, run, run_in, session_of, text};
use crate::support::otlp::{Receiver, hex};

/// What the only tool call of a turn printed.
fn tool_output(world: &World, prompt: &str) -> String {
    let requests = world.model.turn_requests_with(prompt);
    requests.last().unwrap().tool_results().pop().unwrap_or_default()
}

on_both_versions! {
    fn a_turn_leaves_nothing_to_the_next_one(world: &World) {
        world.make_base();
        world.start_daemon();
        let leave = "(setsid sleep 1000 >/dev/null 2>&1 &); (sleep 1001 >/dev/null 2>&1 &); \
                     (env -i setsid sleep 1002 >/dev/null 2>&1 &); echo canary-of-one; env";
        world.model.on("leave it", vec![Reply::bash(leave), Reply::text("left")]);
        let first = run(world, ["start", "1", "leave it", "--json"]);
        first.expect_status(0);
        let turn = text(&record(world, "1").unwrap()["last"]["turn"]);
        let seen = tool_output(world, "leave it");
        for variable in [format!("KUGETSU_TURN={turn}"), format!("KUGETSU_REF={REPO}#1"), "SHELL=/bin/sh".to_owned()] {
            assert!(seen.lines().any(|line| line == variable), "{variable} is not in\n{seen}");
        }
        let sleeping = || {
            std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
                let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
                let root = std::fs::read_link(process.path().join("cwd")).unwrap_or_default();
                command.starts_with(b"sleep\x00100") && root.starts_with(world.root())
            })
        };
        assert!(!sleeping(), "a process of the turn is left");

        world.model.on("look around", vec![Reply::bash("env"), Reply::text("seen")]);
        let second = run(world, ["start", "2", "look around", "--json"]);
        second.expect_status(0);
        let pooled = status(world);
        assert_eq!(pooled["pool"], json!({"cold_starts": 1, "warm_starts": 1}), "{pooled:#}");
        assert_eq!(pooled["servers"][0]["turns"], 2, "{pooled:#}");
        let seen = tool_output(world, "look around");
        assert!(seen.contains(&format!("KUGETSU_REF={REPO}#2\n")), "{seen}");
        assert!(!seen.contains(&turn) && !seen.contains("#1"), "{seen}");
        let asked = world.model.turn_requests_with("look around");
        let asked = asked.first().unwrap().body.to_string();
        assert!(asked.contains("kugetsu#2") && !asked.contains("kugetsu#1"), "the system prompt is the session's own");
        assert!(!second.stdout().contains("canary-of-one"), "{second}");

        // Another policy is not that of this server.
        run(world, ["permit", "2", "--preset", "read-only"]).expect_status(0);
        world.model.on("write it", vec![Reply::bash("touch canary"), Reply::text("no")]);
        run(world, ["continue", "2", "write it"]).expect_status(0);
        assert!(!world.repo().join("canary").exists());
        assert_eq!(status(world)["pool"]["cold_starts"], 2);

        // Secrets are in a server that nobody else gets.
        let answers = world.root().join("answers.json");
        std::fs::write(&answers, json!({"secrets": {"CANARY": "secret-of-one"}}).to_string()).unwrap();
        world.model.on("use it", vec![Reply::bash("echo \"<$CANARY>\""), Reply::text("used")]);
        world.model.on("use it later", vec![Reply::bash("echo \"<$CANARY>\""), Reply::text("used")]);
        run(world, ["continue", "1", "use it", "--answers", answers.to_str().unwrap()]).expect_status(0);
        assert_eq!(tool_output(world, "use it"), "<secret-of-one>\n");
        run(world, ["continue", "1", "use it later"]).expect_status(0);
        assert_eq!(tool_output(world, "use it later"), "<>\n");
        assert_eq!(status(world)["pool"]["cold_starts"], 2);
        world.wait_nothing_left(SOON);
        run(world, ["daemon", "stop"]).expect_status(0);
        world.wait_until("the servers are gone", SOON, || world.processes().is_empty());
    }

    fn a_turn_does_not_wait_for_the_proof_that_its_server_is_clean(world: &World) {
        world.make_base();
        let stalled = world.root().join("stalled");
        let point = format!("stall:server_proven:1:{}", stalled.display());
        world.start_daemon_in(&[("KUGETSU_CRASH_AT", &point)], &[]);
        run(world, ["start", "1", "begin"]).expect_status(0);
        world.wait_until("the server is being proven clean", SOON, || stalled.exists());
        assert_eq!(status(world)["servers"][0]["state"], "lent");
        let next = world.spawn(["continue", "1", "go on"]);
        world.wait_until("the next turn has its place", SOON, || status(world)["running"] == 1);
        // It waits for this server for up to 5 s instead of starting one that does not know the directory.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(300) {
            assert_eq!(status(world)["servers"].as_array().unwrap().len(), 1);
        }
        std::fs::remove_file(&stalled).unwrap();
        next.wait(SOON).expect_status(0);
        let pooled = status(world);
        assert_eq!(pooled["pool"], json!({"cold_starts": 1, "warm_starts": 1}), "{pooled:#}");

        // A daemon that ends leaves no folder of a server that a turn has just given back.
        let mut last = world.command("sh");
        last.args(["-c", "\"$0\" continue 1 'the last one' && \"$0\" daemon stop"]).arg(kugetsu_binary());
        world.finish(last, Stdin::Null).expect_status(0);
        let servers = std::fs::read_dir(world.kugetsu_home().join("run/servers"));
        assert_eq!(servers.into_iter().flatten().count(), 0);
        world.wait_until("nothing is left", SOON, || world.processes().is_empty());
    }

    fn a_turn_has_the_limits_of_its_command(world: &World) {
        world.make_base();
        world.start_daemon();
        // opencode itself raises the number of open files up to the hard limit.
        let look = "umask; ulimit -Hn; ulimit -Sf; nice; touch made; stat -c %a made; rm made";
        for prompt in ["wider", "narrower", "as before"] {
            world.model.on(prompt, vec![Reply::bash(look), Reply::text("seen")]);
        }
        let within = |limits: &str, words: &[&str]| {
            let mut command = world.command("sh");
            let kugetsu = kugetsu_binary();
            command.args(["-c", &format!("{limits} \"$@\""), "sh", kugetsu.to_str().unwrap()]).args(words);
            world.finish(command, Stdin::Null).expect_status(0);
        };
        let own = "umask 022; ulimit -n 4000; exec";
        within(own, &["start", "1", "wider"]);
        let seen = tool_output(world, "wider");
        let lines: Vec<_> = seen.lines().collect();
        assert_eq!((lines[0], lines[1], lines[4]), ("0022", "4000", "644"), "{seen}");
        let narrow = "umask 077; ulimit -n 3000; ulimit -Sf 100000; exec nice -n 3";
        within(narrow, &["continue", "1", "narrower"]);
        let nice: i32 = lines[3].parse().unwrap();
        let expected = format!("0077\n3000\n100000\n{}\n600\n", nice + 3);
        assert_eq!(tool_output(world, "narrower"), expected);
        within(own, &["continue", "1", "as before"]);
        assert_eq!(tool_output(world, "as before"), seen);
        assert_eq!(status(world)["pool"], json!({"cold_starts": 2, "warm_starts": 1}));
        // A limit of processor time is of one process, and a server has many turns.
        within("ulimit -t 600; exec", &["continue", "1", "go on"]);
        assert_eq!(status(world)["pool"]["cold_starts"], 2);
        world.wait_nothing_left(SOON);
    }

    fn a_turn_outlives_the_daemon(world: &World) {
        world.make_base();
        world.start_daemon();
        let gate = Gate::new();
        world.model.on("hold on", vec![Reply::text("never seen").behind(&gate), Reply::text("after all")]);
        let turn = world.spawn(["start", "1", "hold on", "--output", "json"]);
        gate.wait_arrived(SOON);
        world.kill_daemon();
        gate.open();
        let turn = turn.wait(SOON);
        turn.expect_status(0);
        let result = turn.json();
        assert_eq!((&result["verdict"], &result["restarts"]), (&json!("completed"), &json!(1)), "{turn}");
        world.wait_until("nothing is left", SOON, || world.processes().is_empty());
        // Without a daemon, and with the next one.
        run(world, ["continue", "1", "go on"]).expect_status(0);
        world.start_daemon();
        run(world, ["continue", "1", "and on"]).expect_status(0);
        assert_eq!(status(world)["pool"]["cold_starts"], 1);
    }

    fn a_command_that_is_killed_leaves_no_server_behind(world: &World) {
        world.make_base();
        world.start_daemon();
        let gate = Gate::new();
        world.model.on("hold on", vec![Reply::text("late").behind(&gate)]);
        let turn = world.spawn(["start", "1", "hold on"]);
        gate.wait_arrived(SOON);
        assert_eq!(status(world)["servers"][0]["state"], "lent");
        world.signal(turn.pid(), Signal::Kill);
        world.wait_until("its server is gone", SOON, || {
            status(world)["servers"].as_array().is_some_and(Vec::is_empty)
        });
        gate.open();
        let next = run(world, ["continue", "1", "go on", "--output", "json"]);
        next.expect_status(0);
        assert!(next.stderr().contains("was lost"), "{next}");
        world.wait_nothing_left(SOON);
    }

    fn tasks_run_and_are_followed(world: &World) {
        world.make_base();
        world.start_daemon();
        world.model.on("first task", vec![Reply::bash("echo from the tool"), Reply::text("all done")]);
        let first = submit(world, &["14", "first task"]);
        let second = submit(world, &["14", "second task", "--after", &first]);
        let own = submit(world, &["a session of its own"]);
        let tail = run(world, ["tail", &first, "-f"]);
        tail.expect_status(0);
        assert!(tail.stdout().contains("> bash") && tail.stdout().contains("all done"), "{tail}");
        run(world, ["tail", &second, "-f"]).expect_status(0);
        run(world, ["tail", &own, "-f"]).expect_status(0);
        let task = run(world, ["task", "show", &own, "--json"]).json();
        assert_eq!((&task["state"], &task["verdict"]), (&json!("ended"), &json!("completed")), "{task:#}");
        let name = format!("{REPO}~task-{}", own.replace('-', ""));
        assert_eq!(task["ref"], name);
        run(world, ["show", &name]).expect_status(0);
        let order: Vec<String> = ["first task", "second task"]
            .into_iter()
            .filter_map(|prompt| world.model.turn_requests_with(prompt).pop())
            .map(|request| request.user_texts().len().to_string())
            .collect();
        assert_eq!(order, ["1", "2"], "one after the other, in one session");
        // The same session, from a shell.
        run(world, ["continue", ISSUE, "third"]).expect_status(0);
        world.wait_nothing_left(SOON);
    }

    fn a_task_goes_on_after_the_death_of_the_daemon(world: &World) {
        world.make_base();
        world.start_daemon();
        let gate = Gate::new();
        world.model.on("hold on", vec![Reply::text("never seen").behind(&gate)]);
        let task = submit(world, &["14", "hold on"]);
        let queued = submit(world, &["15", "the next one"]);
        gate.wait_arrived(SOON);
        world.kill_daemon();
        gate.open();
        world.wait_until("nothing is left", SOON, || world.processes().is_empty());
        world.start_daemon();
        run(world, ["tail", &task, "-f"]).expect_status(0);
        run(world, ["tail", &queued, "-f"]).expect_status(0);
        let shown = run(world, ["task", "show", &task, "--json"]).json();
        assert_eq!((&shown["verdict"], &shown["attempts"]), (&json!("completed"), &json!(2)), "{shown:#}");
        // The prompt was sent once; the session was told to go on.
        let session = session_of(world, "14");
        let prompts = prompts_of(world, &session);
        assert_eq!(prompts.len(), 2, "{prompts:?}");
        assert_eq!(prompts.iter().filter(|prompt| prompt.contains("hold on")).count(), 1, "{prompts:?}");
        world.wait_nothing_left(SOON);
    }
}

on_both_versions! {
    fn a_session_goes_on_from_a_backup_that_was_made_while_a_daemon_runs(world: &World) {
        world.make_base();
        world.start_daemon();
        world.model.on("remember", vec![Reply::bash("echo first > note.txt"), Reply::text("remembered")]);
        run(world, ["start", "1", "remember"]).expect_status(0);
        let gate = Gate::new();
        world.model.on("think", vec![Reply::text("thought").behind(&gate)]);
        let running = submit(world, &["2", "think"]);
        gate.wait_arrived(SOON);
        let archive = world.root().join("kugetsu.backup");
        let archive = archive.to_str().unwrap();
        run(world, ["backup", archive]).expect_status(0);
        gate.open();
        let followed = run(world, ["tail", &running, "-f"]);
        assert!(followed.expect_status(0).stdout().contains("thought"), "{followed}");

        // Another machine: neither kugetsu nor opencode was used there, but opencode knows the provider.
        let folder = world.root().join("elsewhere");
        let config = world.opencode_config_file();
        let below = config.strip_prefix(world.home()).unwrap();
        std::fs::create_dir_all(folder.join(below).parent().unwrap()).unwrap();
        std::fs::copy(&config, folder.join(below)).unwrap();
        let home = folder.join("kugetsu");
        let places = [("KUGETSU_HOME", home.to_str().unwrap()), ("HOME", folder.to_str().unwrap())];
        let restored = run_in(world, &places, &["restore-backup", archive, "--json"]);
        let report = restored.expect_status(0).json();
        assert_eq!(
            (&report["opencode"], &report["sessions_missing"]),
            (&json!("restored"), &json!(0)),
            "{report:#}"
        );
        let logs = run_in(world, &places, &["logs", "1"]);
        assert!(logs.expect_status(0).stdout().contains("remembered"), "{logs}");
        world.model.on("go on", vec![Reply::bash("cat note.txt"), Reply::text("gone on")]);
        run_in(world, &places, &["continue", "1", "go on"]).expect_status(0);
        let asked = world.model.turn_requests_with("go on");
        assert!(asked[0].user_texts().iter().any(|text| text.trim() == "remember"), "{asked:?}");
        assert_eq!(tool_output(world, "go on"), "first\n");
        // The turn that ran during the backup goes on where the backup has it.
        world.model.on("Go on where you stopped", vec![Reply::text("thought again")]);
        world.model.on("and then", vec![Reply::text("then")]);
        run_in(world, &places, &["continue", "2", "and then"]).expect_status(0);
        run_in(world, &places, &["doctor"]).expect_status(0);
        world.wait_nothing_left(SOON);
    }
}

/// An upgrade replaces the program in its place.
#[test]
fn an_opencode_that_was_replaced_serves_the_next_turn() {
    let world = World::new(Opencode::Real(Version::V1_3_2));
    let program = world.root().join("opencode");
    let install = |version: Version| {
        let new = world.root().join("new");
        std::os::unix::fs::symlink(Opencode::Real(version).binary(), &new).unwrap();
        std::fs::rename(new, &program).unwrap();
    };
    install(Version::V1_3_2);
    let words = [("KUGETSU_OPENCODE", program.to_str().unwrap())];
    run_in(&world, &words, &["init"]).expect_status(0);
    world.start_daemon();
    let version = |command: &str| {
        let turn = run_in(&world, &words, &[command, "1", "hello", "--output", "json"]);
        turn.expect_status(0);
        text(&turn.json()["opencode"])
    };
    assert_eq!(version("start"), "1.3.2");
    install(Version::V1_18_33);
    assert_eq!(version("continue"), "1.18.33");
    assert_eq!(version("continue"), "1.18.33");
    assert_eq!(
        status(&world)["pool"],
        json!({"cold_starts": 2, "warm_starts": 1})
    );
    world.wait_nothing_left(SOON);
}

on_both_versions! {
    fn tools_get_the_span_of_their_turn(world: &World) {
        let receiver = Receiver::start();
        world.make_base();
        world.start_daemon_in(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint())], &[]);
        for prompt in ["trace it", "no span", "its own span"] {
            world.model.on(prompt, vec![Reply::bash("env"), Reply::text("done")]);
        }
        let id = submit(world, &["1", "trace it"]);
        let trace = id.replace('-', "");
        let spans = || receiver.spans(&trace);
        world.wait_until("the trace is there", SOON, || spans().iter().any(|span| span.name == "task"));
        let spans = spans();
        let one = |name: &str| {
            let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
            assert_eq!(found.len(), 1, "{name}: {spans:#?}");
            found[0]
        };
        let turn = one("turn");
        for name in ["connect", "fork", "policy"] {
            assert_eq!(one(name).parent_span_id, turn.span_id, "{name}");
        }
        let steps: Vec<_> = spans.iter().filter(|span| span.name == "step").collect();
        assert_eq!(steps.len(), 2, "{spans:#?}");
        let tool = one("tool bash");
        assert_eq!(tool.parent_span_id, steps[0].span_id, "{spans:#?}");
        let span = |prompt: &str| {
            let seen = tool_output(world, prompt);
            let line = seen.lines().find_map(|line| line.strip_prefix("TRACEPARENT="));
            line.map(str::to_owned)
        };
        assert_eq!(span("trace it"), Some(format!("00-{trace}-{}-01", hex(&turn.span_id))));
        // A command's turn passes on what it has, and has a warm server nevertheless.
        run(world, ["start", "2", "no span"]).expect_status(0);
        assert_eq!(span("no span"), None);
        let own = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        run_in(world, &[("TRACEPARENT", own)], &["start", "3", "its own span"]).expect_status(0);
        assert_eq!(span("its own span").as_deref(), Some(own));
        let status = status(world);
        assert_eq!(status["pool"], json!({"cold_starts": 2, "warm_starts": 1}), "{status:#}");
        let record = record(world, "1").unwrap();
        assert!(record["last"]["timings"]["first_output_ms"].is_u64(), "{record:#}");
    }
}
