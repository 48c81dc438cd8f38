//! Budgets, and what the daemon counts.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use kugetsu_testing::usage::COST;
use kugetsu_testing::{FakeScript, Signal, Stdin, Step, World};
use reqwest::Method;
use serde_json::json;

use super::{Request, expect_error, has_got, status, submit, task, wait_for_state, world_with};
use crate::support::kit::{SOON, path_with_kugetsu, run, text};

/// A step that costs half a dollar and is not the last one.
fn half_a_dollar() -> [Step; 2] {
    [Step::step_start(), Step::step_finish("tool-calls", 0.5)]
}

/// Makes turns with these words in their message spend half a dollar and hang, all of them together once the file
/// exists.
fn spend_together(world: &World, messages: &[&str]) -> PathBuf {
    let go = world.root().join("go");
    let mut script = FakeScript::default();
    for message in messages {
        let mut steps = vec![Step::Meet(world.root().join(message), go.clone())];
        steps.extend(half_a_dollar());
        steps.push(Step::Hang);
        script = script.on(*message, steps);
    }
    world.fake(&script);
    go
}

fn create(path: &Path) {
    std::fs::File::create(path).expect("a file of the test");
}

fn spent(world: &World) -> f64 {
    status(world)["budget"]["spent_usd"].as_f64().expect("a number")
}

#[track_caller]
fn wait_until_spent(world: &World, dollars: f64) {
    world.wait_until(&format!("{dollars} USD are spent"), SOON, || {
        (spent(world) - dollars).abs() < 1e-9
    });
}

#[test]
fn a_budget_that_is_used_up_holds_until_midnight() {
    let world = world_with(&["--budget-daily", "0.0001", "--max-concurrent", "1"]);
    let first = submit(&world, &["1", "hello"]);
    wait_for_state(&world, &first, "ended");
    let budget = status(&world)["budget"].clone();
    assert_eq!(budget["spent_usd"], COST, "{budget:#}");
    assert_eq!(budget["daily_usd"], 0.0001, "{budget:#}");
    let body = json!({"prompt": "x", "ref": "shoko/kugetsu#2"});
    let refused = Request::over_socket(&world, Method::POST, "/v1/tasks")
        .json(&body)
        .send();
    refused.problem(429, "budget-used-up");
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=86400).contains(&wait), "{wait}");
    let words = ["start", "2", "from a shell", "--transport", "run", "--json"];
    expect_error(&run(&world, words), 75, "budget-used-up");
    // A restart resets nothing.
    run(&world, ["daemon", "stop"]).expect_status(0);
    world.wait_until("it has ended", SOON, || world.processes().is_empty());
    world.start_daemon_with(&["--budget-daily", "0.0001"]);
    expect_error(&run(&world, words), 75, "budget-used-up");
    assert!(!has_got(&world, "from a shell"));
}

#[test]
fn a_turn_that_crosses_a_budget_fails_with_that_reason() {
    let world = world_with(&["--budget-daily", "0.0002"]);
    run(&world, ["start", "1", "one", "--transport", "run"]).expect_status(0);
    assert_eq!(
        status(&world)["budget"]["spent_usd"],
        COST,
        "what commands spend counts"
    );
    let second = submit(&world, &["2", "two"]);
    let ended = wait_for_state(&world, &second, "ended");
    assert_eq!(ended["verdict"], "failed", "{ended:#}");
    assert!(text(&ended["reason"]).contains("USD"), "{ended:#}");
    // What waits in the queue waits for midnight.
    assert_eq!(task(&world, &second)["state"], "ended");
}

#[test]
fn turns_that_run_at_the_same_time_share_a_budget() {
    let world = world_with(&["--budget-daily", "1.2"]);
    let messages = ["spend a", "spend b", "spend c", "spend d"];
    let go = spend_together(&world, &messages);
    let tasks = ["1", "2"].map(|issue| {
        let message = messages[issue.parse::<usize>().unwrap() - 1];
        submit(&world, &[issue, message])
    });
    let commands = [("3", messages[2]), ("4", messages[3])]
        .map(|(issue, message)| world.spawn(["start", issue, message, "--transport", "run", "--json"]));
    world.wait_until("all of them run", SOON, || {
        messages.iter().all(|message| world.root().join(message).exists())
    });
    create(&go);
    // None of them would end by itself, and none has spent more than the budget.
    for task in &tasks {
        let ended = wait_for_state(&world, task, "ended");
        assert_eq!(ended["verdict"], "failed", "{ended:#}");
        assert!(
            text(&ended["reason"]).contains("the budget of all turns"),
            "{ended:#}"
        );
    }
    for command in commands {
        let ended = command.wait(SOON);
        let last = ended.json_lines().pop().expect("the end of the turn");
        assert_eq!(last["verdict"], "failed", "{ended}");
        assert!(
            text(&last["reason"]).contains("the budget of all turns"),
            "{ended}"
        );
    }
    // What had begun is paid for: one step of each turn at most.
    let spent = spent(&world);
    assert!(spent > 1.2 && spent < 2.0 + 1e-9, "{spent}");
}

#[test]
fn turns_that_a_tool_begins_count_as_well() {
    let world = world_with(&[]);
    let words = "kugetsu start 2 'the part' --transport run";
    let delegates = [Step::Shell(words.to_owned()), Step::Answer("done".to_owned())];
    world.fake(&FakeScript::default().on("delegate", delegates));
    let mut command = world.kugetsu(["start", "1", "delegate", "--transport", "run"]);
    command.env("PATH", path_with_kugetsu());
    world.start(command, Stdin::Null).wait(SOON).expect_status(0);
    assert!(has_got(&world, "the part"));
    wait_until_spent(&world, 2.0 * COST);
}

#[test]
fn a_budget_that_is_lowered_ends_what_runs() {
    let world = world_with(&[]);
    let go = spend_together(&world, &["spend"]);
    create(&go);
    let task = submit(&world, &["1", "spend"]);
    wait_until_spent(&world, 0.5);
    run(&world, ["config", "set", "budget_daily_per_session", "0.4"]).expect_status(0);
    assert!(world.signal(world.daemon().unwrap(), Signal::Hangup));
    let ended = wait_for_state(&world, &task, "ended");
    assert_eq!(ended["verdict"], "failed", "{ended:#}");
}

#[test]
fn a_command_that_is_killed_loses_no_cost() {
    let world = world_with(&[]);
    let go = spend_together(&world, &["spend"]);
    create(&go);
    let command = world.spawn(["start", "1", "spend", "--transport", "run"]);
    wait_until_spent(&world, 0.5);
    command.kill9();
    world.wait_until("the place is free", SOON, || status(&world)["running"] == 0);
    wait_until_spent(&world, 0.5);
    world.kill_daemon();
    world.start_daemon_with(&[]);
    wait_until_spent(&world, 0.5);
    // The command that finds the dead turn does not count it again.
    run(&world, ["continue", "1", "go on", "--transport", "run"]).expect_status(0);
    wait_until_spent(&world, 0.5 + COST);
}

#[test]
fn a_daemon_that_is_killed_loses_no_cost() {
    let world = world_with(&[]);
    let go = spend_together(&world, &["spend"]);
    create(&go);
    let task = submit(&world, &["1", "spend"]);
    wait_until_spent(&world, 0.5);
    world.kill_daemon();
    world.wait_until("nothing is left", SOON, || world.processes().is_empty());
    world.start_daemon_with(&[]);
    wait_for_state(&world, &task, "ended");
    // The second attempt is told to go on, and answers at once.
    wait_until_spent(&world, 0.5 + COST);
}

#[test]
fn a_command_counts_for_the_next_daemon_as_well() {
    let world = world_with(&["--budget-daily", "0.8"]);
    let go = world.root().join("go");
    let mut steps = half_a_dollar().to_vec();
    steps.push(Step::Meet(world.root().join("there"), go.clone()));
    steps.extend(half_a_dollar());
    steps.push(Step::Hang);
    world.fake(&FakeScript::default().on("spend", steps));
    let command = world.spawn(["start", "1", "spend", "--transport", "run", "--json"]);
    wait_until_spent(&world, 0.5);
    world.kill_daemon();
    world.start_daemon_with(&["--budget-daily", "0.9"]);
    create(&go);
    let ended = command.wait(SOON);
    let last = ended.json_lines().pop().expect("the end of the turn");
    assert_eq!(last["verdict"], "failed", "{ended}");
    wait_until_spent(&world, 1.0);
}

#[test]
fn the_day_of_the_budgets_is_that_of_their_time_zone() {
    let world = world_with(&[]);
    expect_error(
        &run(
            &world,
            ["config", "set", "budget_timezone", "Nowhere/City", "--json"],
        ),
        64,
        "invalid-setting",
    );
    let day = || text(&status(&world)["budget"]["day"]);
    let today = |zone: &str| {
        let zone = TimeZone::get(zone).unwrap();
        Timestamp::now().to_zoned(zone).date().to_string()
    };
    // It is never the same day at both places.
    for zone in ["Pacific/Kiritimati", "Pacific/Pago_Pago"] {
        run(&world, ["config", "set", "budget_timezone", zone]).expect_status(0);
        assert!(world.signal(world.daemon().unwrap(), Signal::Hangup));
        if zone == "Pacific/Pago_Pago" {
            // A day that has begun does not end early. The next daemon begins with the day of the place.
            run(&world, ["daemon", "stop"]).expect_status(0);
            world.wait_until("it has ended", SOON, || world.processes().is_empty());
            world.start_daemon();
        }
        world.wait_until(&format!("it is the day of {zone}"), SOON, || day() == today(zone));
    }
}

#[test]
fn a_repository_and_a_session_have_budgets_of_their_own() {
    let world = world_with(&[]);
    run(&world, ["config", "set", "budget_daily_per_session", "0.0001"]).expect_status(0);
    assert!(world.signal(world.daemon().unwrap(), Signal::Hangup));
    world.wait_until("it has read them", SOON, || {
        status(&world)["budget"]["daily_per_session_usd"] == 0.0001
    });
    wait_for_state(&world, &submit(&world, &["1", "hello"]), "ended");
    expect_error(
        &run(&world, ["submit", "1", "again", "--json"]),
        75,
        "budget-used-up",
    );
    wait_for_state(&world, &submit(&world, &["2", "another session"]), "ended");
}

#[test]
fn what_happened_is_counted_without_any_content() {
    let world = world_with(&["--metrics", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
    wait_for_state(&world, &submit(&world, &["1", "a secret message"]), "ended");
    run(&world, ["start", "2", "another secret", "--transport", "run"]).expect_status(0);
    let get = || Request::over_http(&world, Method::GET, "/metrics");
    let plain = get().send();
    assert_eq!(
        plain.expect(200).headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let answer = get()
        .header(
            "accept",
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
        )
        .send();
    let text = &answer.expect(200).body;
    for line in [
        "kugetsu_turns_total{verdict=\"completed\"} 2",
        "kugetsu_turn_seconds_count 2",
        "kugetsu_time_to_first_token_seconds_count 2",
        "kugetsu_queue_wait_seconds_count 1",
        "kugetsu_turns_max 4",
        "kugetsu_tasks{state=\"queued\"} 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|got| got == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("route=\"/v1/tasks/{task}\""), "{text}");
    assert!(!text.contains("secret") && !text.contains("shoko"), "{text}");
}
