//! Traces of tasks, as a receiver gets them, and the span that hooks and tools are given.

use std::net::TcpListener;

use kugetsu_testing::{FakeScript, Step, World};
use reqwest::Method;
use serde_json::json;

use super::{Request, has_got, submit, task, wait_for_state};
use crate::support::kit::{self, SOON, run, text};
use crate::support::otlp::{Receiver, attribute, hex};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
/// The status code of a span that failed.
const ERROR: i32 = 2;

fn world_for(script: &FakeScript, endpoint: &str) -> World {
    let world = kit::scripted_world(script);
    world.start_daemon_in(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)], &[]);
    world
}

/// Submits a task that belongs to a span, and waits for its end.
#[track_caller]
fn run_traced(world: &World, traceparent: &str, prompt: &str, issue: u32) -> String {
    let body = json!({"prompt": prompt, "ref": format!("shoko/kugetsu#{issue}")});
    let answer = Request::over_socket(world, Method::POST, "/v1/tasks")
        .header("traceparent", traceparent)
        .json(&body)
        .send();
    let id = text(&answer.expect(202).json()["task_id"]);
    wait_for_state(world, &id, "ended");
    id
}

#[test]
fn a_task_is_one_trace_below_the_span_that_it_was_submitted_with() {
    let receiver = Receiver::start();
    let bash = json!({
        "type": "tool", "tool": "bash", "callID": "call_1",
        "state": {"status": "completed", "title": "a hidden title", "input": {"command": "echo hidden"}, "output": "hidden"},
    });
    let script = FakeScript::default().on(
        "a hidden message",
        [
            Step::step_start(),
            Step::Event {
                kind: "tool_use".to_owned(),
                part: bash,
            },
            Step::step_finish("tool-calls", 0.0),
            Step::Shell("printf '%s' \"$TRACEPARENT\" > tool.span".to_owned()),
            Step::Answer("a hidden answer".to_owned()),
        ],
    );
    let world = kit::scripted_world(&script);
    let hook = "printf '%s' \"$TRACEPARENT\" > hook.span";
    run(&world, ["config", "set", "hook_before_turn", hook]).expect_status(0);
    world.start_daemon_in(
        &[
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                &format!("{}/v1/traces", receiver.endpoint()),
            ),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ],
        &[],
    );
    let id = run_traced(&world, &format!("00-{TRACE}-{PARENT}-01"), "a hidden message", 1);
    let spans = || receiver.spans(TRACE);
    world.wait_until("the trace is there", SOON, || {
        spans().iter().any(|span| span.name == "task")
    });
    let spans = spans();
    let one = |name: &str| {
        let mut found = spans.iter().filter(|span| span.name == name);
        let span = found
            .next()
            .unwrap_or_else(|| panic!("no span {name} in {spans:#?}"));
        assert!(found.next().is_none(), "{spans:#?}");
        span
    };
    let root = one("task");
    assert_eq!(hex(&root.parent_span_id), PARENT);
    assert_eq!(attribute(root, "kugetsu.task"), Some(id));
    assert_eq!(attribute(root, "kugetsu.verdict").as_deref(), Some("completed"));
    for name in ["queue", "turn"] {
        assert_eq!(one(name).parent_span_id, root.span_id, "{name}");
    }
    let turn = one("turn");
    for name in ["connect", "policy"] {
        assert_eq!(one(name).parent_span_id, turn.span_id, "{name}");
    }
    let steps: Vec<_> = spans.iter().filter(|span| span.name == "step").collect();
    assert_eq!(steps.len(), 2, "{spans:#?}");
    assert!(
        steps.iter().all(|step| step.parent_span_id == turn.span_id),
        "{spans:#?}"
    );
    let tool = one("tool bash");
    assert_eq!(tool.parent_span_id, steps[0].span_id);
    assert_eq!(attribute(tool, "gen_ai.tool.name").as_deref(), Some("bash"));
    let is_inside = |span: &&opentelemetry_proto::tonic::trace::v1::Span| {
        root.start_time_unix_nano <= span.start_time_unix_nano
            && span.start_time_unix_nano <= span.end_time_unix_nano
    };
    assert!(spans.iter().all(|span| is_inside(&span)), "{spans:#?}");
    let mut ids: Vec<_> = spans.iter().map(|span| &span.span_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), spans.len(), "{spans:#?}");

    let resource = format!("{:?}", receiver.resource());
    for word in ["service.name", "\"kugetsu\"", "deployment.environment.name"] {
        assert!(resource.contains(word), "{resource}");
    }
    // Hooks and tools work within the turn.
    let of_turn = format!("00-{TRACE}-{}-01", hex(&turn.span_id));
    for file in ["hook.span", "tool.span"] {
        let found = kit::files_with(world.root(), &[of_turn.as_str()]);
        assert!(
            found.iter().any(|path| path.ends_with(file)),
            "{file} is not among {found:?}"
        );
    }
    for request in receiver.requests() {
        assert!(
            !String::from_utf8_lossy(&request).contains("hidden"),
            "content is in {request:?}"
        );
    }
}

#[test]
fn a_task_of_a_trace_that_is_not_recorded_has_none_and_passes_the_span_on() {
    let receiver = Receiver::start();
    let script = FakeScript::default().on(
        "hello",
        [
            Step::Shell("printf '%s' \"$TRACEPARENT\" > tool.span".to_owned()),
            Step::Answer("done".to_owned()),
        ],
    );
    let world = world_for(&script, &receiver.endpoint());
    let silent = format!("00-{TRACE}-{PARENT}-00");
    run_traced(&world, &silent, "hello", 1);
    let found = kit::files_with(world.root(), &[silent.as_str()]);
    assert!(found.iter().any(|path| path.ends_with("tool.span")), "{found:?}");
    // What is not a span is ignored. A task without one has a trace of its own.
    let id = run_traced(&world, "not a span", "hello", 2);
    let own = id.replace('-', "");
    world.wait_until("its trace is there", SOON, || !receiver.spans(&own).is_empty());
    assert_eq!(task(&world, &id)["traceparent"], json!(null));
    assert!(receiver.spans(TRACE).is_empty());
    // A task that is cancelled before it began has the one span.
    let body = json!({"prompt": "later", "ref": "shoko/kugetsu#4", "not_before": "2999-01-01T00:00:00Z"});
    let later = Request::over_socket(&world, Method::POST, "/v1/tasks")
        .json(&body)
        .send();
    let later = text(&later.expect(202).json()["task_id"]);
    run(&world, ["task", "cancel", &later]).expect_status(0);
    let spans = || receiver.spans(&later.replace('-', ""));
    world.wait_until("its span is there", SOON, || !spans().is_empty());
    let spans = spans();
    assert_eq!((spans.len(), spans[0].name.as_str()), (1, "task"), "{spans:#?}");
    assert_eq!(
        attribute(&spans[0], "kugetsu.state").as_deref(),
        Some("cancelled")
    );
    // The span is no part of what a task does.
    let repeated = |span: &str| {
        let words = ["submit", "--json", "3", "once", "--idempotency-key", "key"];
        let output = kit::run_in(&world, &[("TRACEPARENT", span)], &words);
        output.expect_status(0);
        output.json()
    };
    let first = repeated(&format!("00-{TRACE}-{PARENT}-01"));
    assert_eq!(
        first["traceparent"],
        format!("00-{TRACE}-{PARENT}-01"),
        "{first:#}"
    );
    let second = repeated(&format!("00-{TRACE}-00f067aa0ba902b8-01"));
    assert_eq!(
        (&second["task_id"], &second["is_new"]),
        (&first["task_id"], &json!(false))
    );
}

#[test]
fn a_receiver_that_never_answers_delays_nothing() {
    // Connections are accepted by the system, and nobody reads them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let world = world_for(&FakeScript::default(), &endpoint);
    let ids: Vec<_> = (1..9)
        .map(|n| submit(&world, &[&n.to_string(), "hello"]))
        .collect();
    for id in ids {
        wait_for_state(&world, &id, "ended");
    }
    let task = |world: &World| submit(world, &["1", "again"]);
    wait_for_state(&world, &task(&world), "ended");
    run(&world, ["daemon", "stop"]).expect_status(0);
    world.wait_nothing_left(SOON);
    drop(listener);
    // Nothing listens there now.
    world.start_daemon_in(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)], &[]);
    wait_for_state(&world, &task(&world), "ended");
    let log = || std::fs::read_to_string(world.kugetsu_home().join("run/daemon.log")).unwrap();
    world.wait_until("the log says so", SOON, || {
        log().contains("traces cannot be sent")
    });
}

#[test]
fn a_turn_that_the_daemon_did_not_survive_is_in_the_trace() {
    let receiver = Receiver::start();
    let script = FakeScript::default().on("slow", [Step::Hang]);
    let world = world_for(&script, &receiver.endpoint());
    let id = submit(&world, &["1", "slow"]);
    world.wait_until("the turn runs", SOON, || has_got(&world, "slow"));
    world.kill_daemon();
    world.wait_until("nothing is left", SOON, || world.processes().is_empty());
    world.fake(&FakeScript::default());
    world.start_daemon_in(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint())], &[]);
    let ended = wait_for_state(&world, &id, "ended");
    assert_eq!(ended["attempts"], 2, "{ended:#}");
    let trace = id.replace('-', "");
    let spans = || receiver.spans(&trace);
    world.wait_until("the trace is there", SOON, || {
        spans().iter().any(|span| span.name == "task")
    });
    let spans = spans();
    let mut turns: Vec<_> = spans.iter().filter(|span| span.name == "turn").collect();
    turns.sort_by_key(|turn| turn.start_time_unix_nano);
    let verdicts: Vec<_> = turns
        .iter()
        .map(|turn| attribute(turn, "kugetsu.verdict").unwrap())
        .collect();
    assert_eq!(verdicts, ["lost", "completed"], "{spans:#?}");
    assert_eq!(turns[0].status.as_ref().map(|status| status.code), Some(ERROR));
    let root = spans.iter().find(|span| span.name == "task").unwrap();
    assert!(root.parent_span_id.is_empty(), "{root:#?}");
    assert!(
        turns.iter().all(|turn| turn.parent_span_id == root.span_id),
        "{spans:#?}"
    );
}
