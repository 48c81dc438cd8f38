//! Tasks: their order, their repetition, their end, and what a crash does to them.

use kugetsu_testing::{FakeScript, Step, World};
use serde_json::json;

use super::{expect_error, has_got, status, submit, task, wait_for_state, world, world_with};
use crate::support::kit::{self, SOON, fake_prompts, run};

#[test]
fn tasks_of_a_session_run_in_their_order_and_others_beside_them() {
    let world = world_with(&["--max-concurrent", "2"]);
    let ids: Vec<String> = (0..5)
        .map(|n| submit(&world, &["1", &format!("step {n}"), "--priority", &n.to_string()]))
        .collect();
    let other = submit(&world, &["2", "beside them"]);
    for id in ids.iter().chain([&other]) {
        let ended = wait_for_state(&world, id, "ended");
        assert_eq!(
            (&ended["verdict"], &ended["attempts"]),
            (&json!("completed"), &json!(1)),
            "{ended:#}"
        );
    }
    let mut prompts = fake_prompts(&world);
    prompts.retain(|prompt| prompt.starts_with("step"));
    assert_eq!(prompts, ["step 0", "step 1", "step 2", "step 3", "step 4"]);
    let list = run(&world, ["task", "list", "--state", "ended", "--json"]).json();
    assert_eq!(list["tasks"].as_array().unwrap().len(), 6, "{list:#}");
    run(&world, ["task", "list"]).expect_status(0);
    run(&world, ["task", "show", &ids[0][28..]]).expect_status(0);
    expect_error(&run(&world, ["task", "show", "nothing", "--json"]), 66, "no-task");
}

#[test]
fn a_repeated_submission_makes_one_task() {
    let world = world();
    let words = ["1", "once", "--idempotency-key", "nightly-7"];
    let first = submit(&world, &words);
    assert_eq!(submit(&world, &words), first);
    let other = run(
        &world,
        ["submit", "--json", "1", "twice", "--idempotency-key", "nightly-7"],
    );
    expect_error(&other, 64, "idempotency-key-reused");
    wait_for_state(&world, &first, "ended");
    assert_eq!(submit(&world, &words), first);
    // Also for a task with a session of its own.
    let own = [
        "a session of its own",
        "--repo",
        "shoko/kugetsu",
        "--idempotency-key",
        "own",
    ];
    assert_eq!(submit(&world, &own), submit(&world, &own));
    assert_eq!(
        fake_prompts(&world)
            .iter()
            .filter(|prompt| *prompt == "once")
            .count(),
        1
    );
}

#[test]
fn a_task_is_cancelled_before_or_while_it_runs() {
    let world = world_with(&["--max-concurrent", "1"]);
    let running = submit(&world, &["1", "hang"]);
    let queued = submit(&world, &["2", "never"]);
    world.wait_until("the task runs", SOON, || has_got(&world, "hang"));
    assert_eq!(
        run(&world, ["task", "cancel", &queued, "--json"]).json()["state"],
        "cancelled"
    );
    run(&world, ["tail", &queued, "-f"]).expect_status(1);
    run(&world, ["task", "cancel", &running]).expect_status(0);
    let ended = wait_for_state(&world, &running, "cancelled");
    assert_eq!(ended["attempts"], 1, "{ended:#}");
    // Once more changes nothing.
    assert_eq!(
        run(&world, ["task", "cancel", &running, "--json"]).json()["state"],
        "cancelled"
    );
    world.wait_nothing_left(SOON);
    assert!(!has_got(&world, "never"));
}

#[test]
fn a_task_that_was_cancelled_is_not_run_again_after_a_crash() {
    // What ignores the signal keeps the turn from ending before the daemon is killed.
    let stays = Step::Orphan {
        ignore_term: true,
        holds_stdout: false,
    };
    let world = kit::scripted_world(&FakeScript::default().on("hang", [stays, Step::Hang]));
    run(&world, ["config", "set", "grace", "20s"]).expect_status(0);
    world.start_daemon_with(&["--max-concurrent", "1"]);
    let cancelled = submit(&world, &["1", "hang"]);
    world.wait_until("the task runs", SOON, || has_got(&world, "hang"));
    let answer = run(&world, ["task", "cancel", &cancelled, "--json"]).json();
    assert_eq!(answer["state"], "running", "{answer:#}");
    world.kill_daemon();
    world.wait_until("nothing is left", SOON, || world.processes().is_empty());
    world.start_daemon_with(&["--max-concurrent", "1"]);
    let ended = wait_for_state(&world, &cancelled, "cancelled");
    assert_eq!(ended["attempts"], 1, "{ended:#}");
    // The session can be used again.
    let next = submit(&world, &["1", "something else"]);
    assert_eq!(wait_for_state(&world, &next, "ended")["verdict"], "completed");
    assert_eq!(
        fake_prompts(&world)
            .iter()
            .filter(|prompt| *prompt == "hang")
            .count(),
        1
    );
}

#[test]
fn what_cannot_run_is_refused_or_parked() {
    let world = world();
    let elsewhere = run(&world, ["submit", "github.com/other/repo#1", "hello", "--json"]);
    expect_error(&elsewhere, 66, "no-base");
    expect_error(
        &run(
            &world,
            [
                "submit",
                "1",
                "x",
                "--after",
                "01a1fbdd-6d77-7679-95ff-a3c0af00cef8",
                "--json",
            ],
        ),
        64,
        "usage",
    );
    // What cannot run now will not run later either, so it is not tried again.
    let closed = world.root().join("closed");
    std::fs::write(&closed, "").unwrap();
    let hook = format!("test ! -e '{}'", closed.display());
    run(&world, ["config", "set", "hook_before_turn", &hook]).expect_status(0);
    assert!(world.signal(world.daemon().unwrap(), kugetsu_testing::Signal::Hangup));
    world.wait_until("the settings were read again", SOON, || {
        let log = world.kugetsu_home().join("run/daemon.log");
        std::fs::read_to_string(log).unwrap().contains("read again")
    });
    let parked = wait_for_state(&world, &submit(&world, &["1", "hello"]), "parked");
    assert!(
        parked["reason"].as_str().unwrap().contains("hook_before_turn"),
        "{parked:#}"
    );
    let id = parked["task"].as_str().unwrap();
    run(&world, ["tail", id, "-f"]).expect_status(1);
    let given_up = wait_for_state(&world, &submit(&world, &["2", "hello"]), "parked");
    let cancel = run(
        &world,
        ["task", "cancel", given_up["task"].as_str().unwrap(), "--json"],
    );
    assert_eq!(cancel.expect_status(0).json()["state"], "cancelled");
    // A person mends the cause, and the task runs with a turn of its own.
    std::fs::remove_file(world.root().join("closed")).unwrap();
    let retry = ["task", "retry", id, "--json"];
    assert_eq!(run(&world, retry).expect_status(0).json()["state"], "queued");
    let ended = wait_for_state(&world, id, "ended");
    assert_eq!(
        (&ended["verdict"], &ended["attempts"]),
        (&json!("completed"), &json!(2)),
        "{ended:#}"
    );
    expect_error(&run(&world, retry), 64, "usage");
    let counts = status(&world)["queue"].clone();
    assert_eq!(
        (&counts["parked"], &counts["queued"]),
        (&json!(0), &json!(0)),
        "{counts}"
    );
}

#[test]
fn a_session_that_somebody_else_uses_is_waited_for() {
    let world = world_with(&["--max-concurrent", "2"]);
    let turn = world.spawn(["start", "1", "hang", "--transport", "run", "--no-daemon"]);
    world.wait_until("the turn runs", SOON, || has_got(&world, "hang"));
    let id = submit(&world, &["1", "after it"]);
    world.wait_until("it was tried", SOON, || task(&world, &id)["reason"].is_string());
    run(&world, ["stop", "1"]).expect_status(0);
    turn.wait(SOON);
    let ended = wait_for_state(&world, &id, "ended");
    assert_eq!(ended["verdict"], "completed", "{ended:#}");
}

#[test]
fn a_killed_daemon_loses_no_task_and_runs_none_twice() {
    let world: World = world_with(&["--max-concurrent", "2"]);
    world.fake(&FakeScript::default().on("slow", [Step::Pause(200), Step::Answer("done".to_owned())]));
    let ids: Vec<String> = (0..12)
        .map(|n| submit(&world, &[&(n % 4 + 1).to_string(), &format!("slow {n}")]))
        .collect();
    for _ in 0..3 {
        let ended = || status(&world)["queue"]["queued"].as_u64().unwrap();
        let before = ended();
        world.wait_until("some of them have run", SOON, || ended() < before || ended() == 0);
        world.kill_daemon();
        world.wait_until("nothing is left", SOON, || world.processes().is_empty());
        world.start_daemon_with(&["--max-concurrent", "2"]);
    }
    for id in &ids {
        let ended = wait_for_state(&world, id, "ended");
        assert_eq!(ended["verdict"], "completed", "{ended:#}");
    }
    // A message is in a session once, whatever happened: where it was delivered, the session was told to go on.
    for n in 0..12 {
        let session = kit::session_of(&world, &(n % 4 + 1).to_string());
        let prompts = kit::prompts_of(&world, &session);
        let own = prompts
            .iter()
            .filter(|prompt| **prompt == format!("slow {n}"))
            .count();
        assert_eq!(own, 1, "slow {n} in {prompts:?}");
    }
}

#[test]
fn a_parked_task_gets_its_message_again_if_the_session_has_gone_on() {
    let world = world();
    let hangs = FakeScript::default()
        .on("hang", [Step::Hang])
        .on("ended unexpectedly", [Step::Hang]);
    world.fake(&hangs);
    let before = fake_prompts(&world).len();
    let parked = submit(&world, &["1", "hang on this"]);
    for attempt in 1..=3 {
        let delivered =
            |prompt: &&String| prompt.contains("hang on") || prompt.contains("ended unexpectedly");
        world.wait_until("opencode has stored the prompt", SOON, || {
            let record = kit::record(&world, "1");
            let session = record.and_then(|record| record["session"].as_str().map(str::to_owned));
            let stored = session.map(|session| kit::prompts_of(&world, &session));
            stored.is_some_and(|stored| stored.iter().filter(delivered).count() == attempt)
        });
        world.kill_daemon();
        world.wait_until("nothing is left", SOON, || world.processes().is_empty());
        world.start_daemon();
    }
    wait_for_state(&world, &parked, "parked");
    world.fake(&FakeScript::default());
    run(&world, ["continue", "1", "something else", "--transport", "run"]).expect_status(0);
    run(&world, ["task", "retry", &parked]).expect_status(0);
    assert_eq!(wait_for_state(&world, &parked, "ended")["verdict"], "completed");
    let prompts = fake_prompts(&world).split_off(before);
    let go_on = "The process that ran you ended unexpectedly. Go on where you stopped.";
    assert_eq!(
        prompts,
        ["hang on this", go_on, go_on, "something else", "hang on this"]
    );
}

#[test]
fn the_events_of_a_task_are_printed_as_text_or_lines() {
    let world = world();
    let id = submit(&world, &["1", "hello"]);
    run(&world, ["tail", &id, "-f"]).expect_status(0);
    let tail = run(&world, ["tail", &id]);
    tail.expect_status(0);
    assert!(tail.stdout().contains("done"), "{tail}");
    let lines = run(&world, ["tail", &id, "--json"]);
    assert!(
        lines.json_lines().iter().any(|line| line["type"] == "agent_end"),
        "{lines}"
    );
}
