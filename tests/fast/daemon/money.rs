//! Budgets, and what the daemon counts.

use kugetsu_testing::usage::COST;
use reqwest::Method;
use serde_json::json;

use super::{Request, expect_error, has_got, status, submit, task, wait_for_state, world_with};
use crate::support::kit::{SOON, run, text};

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
fn a_repository_and_a_session_have_budgets_of_their_own() {
    let world = world_with(&[]);
    run(&world, ["config", "set", "budget_daily_per_session", "0.0001"]).expect_status(0);
    assert!(world.signal(world.daemon().unwrap(), kugetsu_testing::Signal::Hangup));
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
