//! Sessions that are not an issue's own: roles of an issue, and sessions without an issue.

use crate::support::kit::{fake_world, refused, run};
use serde_json::Value;

const REPO: &str = "github.com/shoko/kugetsu";

fn refs(value: &Value) -> Vec<String> {
    let sessions = value["sessions"].as_array().unwrap().iter();
    sessions
        .map(|session| session["ref"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn roles_and_named_sessions_are_sessions_of_their_own() {
    let world = fake_world();
    let all = ["14", "14/review", "14/1.2", "~nightly"];
    for address in all {
        let started = run(
            &world,
            [
                "start",
                address,
                "hello",
                "--transport",
                "run",
                "--output",
                "json",
            ],
        );
        started.expect_status(0);
        let printed = started.json()["ref"].as_str().unwrap().to_owned();
        assert!(
            printed.ends_with(address) && printed.starts_with(REPO),
            "{printed}"
        );
    }
    let folder = world.kugetsu_home().join("sessions").join(REPO);
    for file in [
        "14.json",
        "14/turns.jsonl",
        "14/at/review.json",
        "14/at/review/turns.jsonl",
        "14/at/1.2.json",
        "~nightly.json",
        "~nightly@/turns.jsonl",
    ] {
        assert!(folder.join(file).is_file(), "{file}");
    }
    let listed = run(&world, ["list", "--json"]);
    listed.expect_status(0);
    let expected: Vec<_> = ["#14", "#14/1.2", "#14/review", "~nightly"]
        .map(|rest| format!("{REPO}{rest}"))
        .to_vec();
    assert_eq!(refs(&listed.json()), expected);
    assert_eq!(
        run(&world, ["doctor", "--json"]).expect_status(0).json()["exit_status"],
        0
    );

    for address in all {
        run(&world, ["continue", address, "more", "--transport", "run"]).expect_status(0);
        let shown = run(&world, ["show", address, "--json"]);
        assert_eq!(shown.expect_status(0).json()["totals"]["turns"], 2, "{shown}");
        run(&world, ["logs", address]).expect_status(0);
    }
    let sessions: std::collections::BTreeSet<_> = all
        .iter()
        .map(|address| run(&world, ["show", address, "--json"]).json()["session"].to_string())
        .collect();
    assert_eq!(sessions.len(), all.len(), "each has a session of its own");
}

#[test]
fn an_issue_is_destroyed_and_restored_without_its_roles() {
    let world = fake_world();
    for address in ["14", "14/review", "~nightly"] {
        run(&world, ["start", address, "hello", "--transport", "run"]).expect_status(0);
    }
    let gone = |address: &str| {
        refused(&world, &["show", address], 66, &["no session"]);
    };
    let there = |address: &str| {
        let shown = run(&world, ["show", address, "--turns", "--json"]);
        assert_eq!(
            shown.expect_status(0).json()["turn_list"]
                .as_array()
                .unwrap()
                .len(),
            1,
            "{shown}"
        );
    };
    run(&world, ["destroy", "14", "-y"]).expect_status(0);
    gone("14");
    there("14/review");
    run(&world, ["destroy", "14/review", "-y"]).expect_status(0);
    gone("14/review");
    run(&world, ["restore", "14"]).expect_status(0);
    there("14");
    gone("14/review");
    run(&world, ["restore", "14/review"]).expect_status(0);
    run(&world, ["destroy", "~nightly", "-y"]).expect_status(0);
    gone("~nightly");
    run(&world, ["restore", "~nightly"]).expect_status(0);
    for address in ["14", "14/review", "~nightly"] {
        there(address);
    }
    assert_eq!(
        run(&world, ["doctor", "--json"]).expect_status(0).json()["exit_status"],
        0
    );
}

#[test]
fn what_is_not_an_address_is_refused() {
    let world = fake_world();
    for address in ["14/..", "14/-x", "14/a/b", "~", "~a/b", "14/a.json"] {
        refused(&world, &["start", address, "hello"], 64, &[address]);
    }
}
