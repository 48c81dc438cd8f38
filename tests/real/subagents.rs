//! Subagents of a turn, on both transports and both real versions: the turn's limits apply to them, and their requests
//! are answered.

use crate::support::case::{Case, SOON, expect};
use kugetsu_testing::{Reply, Stdin, Version, usage};
use serde_json::{Value, json};

/// The model delegates, and the subagent receives these replies.
fn delegate(case: &Case, words: &str, replies: Vec<Reply>) {
    let prompt = format!("subagent, {words}");
    let task = json!({"description": "a part of it", "prompt": prompt, "subagent_type": "general"});
    case.model.on(
        format!("delegate: {words}"),
        vec![Reply::tool("task", task), Reply::text("the subagent is back")],
    );
    case.model.on(prompt, replies);
}

/// A reply that asks the client to retry in a second, which opencode does.
fn later() -> Reply {
    match Reply::status(429, "come back later") {
        Reply::Status { code, body, .. } => Reply::Status {
            code,
            body,
            headers: vec![("retry-after".to_owned(), "1".to_owned())],
        },
        other => other,
    }
}

on_every_combination! {
    fn a_subagent_spends_what_the_turn_may_spend(case: &Case) {
        let a_request = usage::INPUT + usage::OUTPUT;
        delegate(case, "hurry", vec![Reply::bash("echo one"), Reply::text("two")]);
        let output = case.turn("start", "#1", &["--max-tokens", &(4 * a_request).to_string(), "delegate: hurry"]);
        expect(&output, 0, "completed", "");
        let result = output.json();
        let total = |result: &Value| {
            result["tokens"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>()
        };
        assert_eq!((total(&result), &result["steps"]), (4 * a_request, &json!(2)), "{output}");

        // The model would never stop by itself.
        let commands = (0..6).map(|n| Reply::bash(format!("echo {n}"))).chain([Reply::Hang]);
        delegate(case, "spend", commands.collect());
        let limit = (4 * a_request - 1).to_string();
        let limits = ["--max-tokens", &limit, "--timeout", "3m", "--grace", "1s"];
        let output = case.turn("start", "#2", &[&limits[..], &["delegate: spend"]].concat());
        expect(&output, 1, "failed", "budget: ");
        let spent = total(&output.json());
        assert!((4 * a_request..=6 * a_request).contains(&spent), "{spent}\n{output}");
        case.wait_nothing_left(SOON);
    }

    fn what_a_subagent_does_or_fails_to_do_is_the_turns(case: &Case) {
        // Both mostly wait, so they run concurrently with the others.
        let limits = ["--stall-timeout", "60s", "--timeout", "5m", "--grace", "1s"];
        delegate(case, "fall silent", vec![Reply::bash("echo begun"), Reply::Hang]);
        let silent = case.begin("start", "#3", &[&limits[..], &["delegate: fall silent"]].concat());
        delegate(case, "take long", vec![Reply::bash(take_seconds(64)), Reply::text("well")]);
        let long = case.begin("start", "#4", &[&limits[..], &["delegate: take long"]].concat());

        delegate(case, "loop", vec![Reply::CutShort { text: "half an ".to_owned() }]);
        let limits = ["--max-steps-without-progress", "3", "--timeout", "3m", "--grace", "1s"];
        let output = case.turn("start", "#1", &[&limits[..], &["delegate: loop"]].concat());
        expect(&output, 1, "looping", "of a subagent");

        delegate(case, "wait", vec![Reply::bash("echo begun"), later()]);
        let limits = ["--max-quota-wait", "3s", "--timeout", "3m", "--grace", "1s"];
        let output = case.turn("start", "#2", &[&limits[..], &["delegate: wait"]].concat());
        expect(&output, 75, "quota", "come back later");

        expect(&silent.wait(SOON), 1, "stalled", "no sign of progress for 1m");
        assert_eq!(case.model.turn_requests_with("subagent, fall silent").len(), 2);
        expect(&long.wait(SOON), 0, "completed", "");
        case.wait_nothing_left(SOON);
    }
}

/// A command that takes this many seconds.
fn take_seconds(seconds: u32) -> String {
    format!("end=$(($(date +%s) + {seconds})); while [ $(date +%s) -lt $end ]; do sleep 1; done; echo done")
}

/// Makes a test for one transport on both versions.
macro_rules! on_transport {
    ($transport:literal, $name:ident, $body:ident) => {
        mod $name {
            use super::*;

            #[test]
            fn v1_3_2() {
                $body(&Case::new(Version::V1_3_2, $transport));
            }

            #[test]
            fn v1_18_33() {
                $body(&Case::new(Version::V1_18_33, $transport));
            }
        }
    };
}

on_transport!("serve", what_a_subagent_asks, is_answered);
on_transport!("serve", requests_before_there_is_a_subagent, is_waited_for);
on_transport!("run", a_subagent_that_works_again, waits_no_more);

fn is_answered(case: &Case) {
    case.to_end(["permit", "--base", "external_directory=ask"], Stdin::Null)
        .expect_status(0);
    let outside = case.home().join("outside.txt");
    let question = json!({"questions": [{
        "question": "Which one?", "header": "Which", "options": [{"label": "green", "description": "g"}],
    }]});
    delegate(
        case,
        "ask",
        vec![
            Reply::tool("question", question),
            Reply::tool("write", json!({"filePath": outside, "content": "no"})),
            Reply::text("asked"),
        ],
    );
    answered_by_default(case, "delegate: ask", (0, "completed", 2));
    assert!(!outside.exists());
}

/// A turn that waits for an answer is not stalled, even if the only running tool is the one that delegates.
fn is_waited_for(case: &Case) {
    case.to_end(["permit", "--base", "task=ask"], Stdin::Null)
        .expect_status(0);
    delegate(case, "nothing", vec![Reply::text("never asked for")]);
    // A rejected request ends opencode's turn.
    answered_by_default(case, "delegate: nothing", (1, "failed", 1));
}

/// Nobody answers: the turn ends with this verdict and this many default answers.
fn answered_by_default(case: &Case, message: &str, expected: (i32, &str, u64)) {
    let words = [
        "start",
        "#1",
        "--transport",
        "serve",
        "--supervised",
        "--response-timeout",
        "30s",
        "--stall-timeout",
        "25s",
        "--timeout",
        "2m",
        message,
    ];
    let output = case.to_end(words, Stdin::OpenSilent);
    let last = &case.record(1)["last"];
    let answers = last["answered"]["default"].as_u64().unwrap_or_default();
    assert_eq!(
        (
            output.code(),
            last["verdict"].as_str().unwrap_or_default(),
            answers
        ),
        expected,
        "{output}"
    );
    case.wait_nothing_left(SOON);
}

/// `run` reports a subagent's failed request but nothing that the subagent does afterwards.
fn waits_no_more(case: &Case) {
    delegate(
        case,
        "recover",
        vec![
            Reply::bash("echo begun"),
            later(),
            Reply::bash(take_seconds(9)),
            Reply::text("well"),
        ],
    );
    let output = case.turn("start", "#1", &["--max-quota-wait", "7s", "delegate: recover"]);
    expect(&output, 0, "completed", "");
    assert_eq!(output.json()["answer"], "the subagent is back", "{output}");
}
