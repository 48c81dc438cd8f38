//! The output of `query`.

use crate::support::kit::{ISSUE, REPO, SOON, make_default, run_file, scripted_world, status};
use kugetsu_testing::{FakeScript, Signal, Stdin, Step, usage};
use serde_json::json;

use super::*;

#[test]
fn a_query_counts_sums_and_lists_actions() {
    let fails = Step::Error {
        name: "APIError".into(),
        message: "no credit".into(),
    };
    let world = scripted_world(&hanging().on("fail", [fails]));
    make_default(&world);
    for issue in ["1", "2"] {
        world
            .run(["start", issue, "hi", "--transport", "run"])
            .expect_status(0);
    }
    world
        .run(["start", "github.com/other/repo#3", "fail", "--transport", "run"])
        .expect_status(1);
    let turn = hang(&world, &[]);
    let output = world.run(["query"]);
    let query = output.expect_status(0).json();
    assert_eq!(query["schema"], 1);
    let count = |state: &str| query["sessions"][state].as_u64().unwrap();
    assert_eq!(
        (
            count("total"),
            count("completed"),
            count("failed"),
            count("running"),
            count("lost")
        ),
        (4, 2, 1, 1, 0)
    );
    assert_eq!(query["live"].as_array().unwrap().len(), 1);
    let live = &query["live"][0];
    assert_eq!(
        (&live["ref"], &live["pid"], &live["state"]),
        (&json!(ISSUE), &json!(turn.pid()), &json!("running"))
    );
    assert_eq!(
        (&live["stale"], &live["current_step"]),
        (&json!(false), &json!(1))
    );
    assert!(live["heartbeat"].is_string(), "{live}");
    assert_eq!(query["pending"], json!([]));
    let cost = query["totals"]["cost_usd"].as_f64().unwrap();
    assert!((cost - 2.0 * usage::COST).abs() < 1e-9, "{cost}");
    let sum = |list: &str, field: &str| -> u64 {
        query[list]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry[field].as_u64().unwrap())
            .sum()
    };
    assert_eq!(
        (
            sum("days", "turns"),
            sum("repositories", "turns"),
            sum("repositories", "sessions")
        ),
        (3, 3, 4)
    );
    let repos: Vec<_> = query["repositories"]
        .as_array()
        .unwrap()
        .iter()
        .map(|repo| repo["repo"].as_str().unwrap())
        .collect();
    assert_eq!(repos, ["github.com/other/repo", REPO]);
    let [action] = &query["actions"].as_array().unwrap()[..] else {
        panic!("one action\n{output}")
    };
    assert_eq!(
        (&action["ref"], &action["state"]),
        (&json!("github.com/other/repo#3"), &json!("failed"))
    );
    assert!(action["why"].as_str().unwrap().contains("no credit"), "{action}");
    turn.signal(Signal::Terminate);
    turn.wait(SOON).expect_status(143);
}

#[test]
fn a_query_reports_when_a_provider_may_answer_again() {
    let error = json!({"type": "error", "error": {"name": "APIError", "data": {
        "message": "come back later", "statusCode": 429, "isRetryable": true,
        "responseHeaders": {"retry-after": "7200"},
    }}});
    let world = scripted_world(&FakeScript::default().on("ask", [Step::Raw(format!("{error}\n"))]));
    world
        .run([
            "start",
            "14",
            "ask",
            "--transport",
            "run",
            "--max-quota-wait",
            "1s",
        ])
        .expect_status(75);
    let query = world.run(["query"]).expect_status(0).json();
    let action = &query["actions"][0];
    assert_eq!(
        (&action["state"], &action["action"]),
        (
            &json!("quota"),
            &json!(format!("kugetsu continue {ISSUE} \"go on\""))
        )
    );
    let why = action["why"].as_str().unwrap();
    assert!(
        why.contains("come back later") && why.contains("(not before 20"),
        "{action}"
    );

    let file = world.kugetsu_home().join("sessions").join(REPO).join("14.json");
    let mut blocked = record_of(&world);
    blocked["last"]["verdict"] = json!("blocked");
    std::fs::write(file, blocked.to_string()).unwrap();
    let query = world.run(["query"]).expect_status(0).json();
    assert_eq!(
        query["actions"][0]["action"],
        format!("kugetsu continue {ISSUE} \"go on\""),
        "there is nothing to answer"
    );
}

#[test]
fn a_query_needs_neither_opencode_nor_a_lease() {
    let world = scripted_world(&hanging());
    let turn = hang(&world, &[]);
    // The supervisor is stopped and keeps its lease.
    turn.signal(Signal::Stop);
    let mut query = world.kugetsu(["query"]);
    query.env("KUGETSU_OPENCODE", "/nowhere");
    let query = world.finish(query, Stdin::Null);
    assert_eq!(query.expect_status(0).json()["sessions"]["running"], 1);
    let file = run_file(&world, "14", ".status.json");
    let mut old = status(&world, "14").unwrap();
    old["heartbeat"] = json!("2026-01-01T00:00:00Z");
    std::fs::write(&file, old.to_string()).unwrap();
    let query = world.run(["query"]).expect_status(0).json();
    assert_eq!(query["live"][0]["stale"], true, "{query}");
    assert!(
        query["actions"][0]["action"]
            .as_str()
            .unwrap()
            .starts_with("kugetsu stop"),
        "{query}"
    );
    turn.signal(Signal::Continue);
    turn.signal(Signal::Terminate);
    turn.wait(SOON).expect_status(143);
}
