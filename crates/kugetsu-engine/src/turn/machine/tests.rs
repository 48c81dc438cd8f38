//! Feeds the state machine events in random order at random times. Whatever opencode reports, the turn ends by its
//! limits and not before, and the events prove the verdict.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::process::Exit;
use crate::transport::{
    End, ErrorPayload, Finish, Request, RequestKind, ToolCall, ToolStatus, TransportEvent,
};
use crate::turn::{Judgement, Limits, Machine, Step};
use jiff::Timestamp;
use kugetsu_api::{TokenCount, Verdict};
use proptest::prelude::*;
use serde_json::json;

fn limits() -> Limits {
    Limits {
        timeout: Duration::from_secs(300),
        stall: Duration::from_secs(40),
        idle_steps: 3,
        cost_usd: Some(1.0),
        tokens: Some(1000),
        quota_wait: Duration::from_secs(30),
        linger: Duration::from_secs(15),
        ..Limits::default()
    }
}

/// The wall clock at this second of the turn.
fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time of our days")
}

fn step_finished(reason: &str, cost_usd: f64, tokens: u64) -> TransportEvent {
    TransportEvent::StepFinished {
        reason: Finish::from(reason),
        cost_usd,
        tokens: TokenCount {
            output: tokens,
            ..TokenCount::default()
        },
    }
}

fn subagent_step(subagent: u8, reason: &str, cost_usd: f64, tokens: u64) -> TransportEvent {
    let TransportEvent::StepFinished {
        reason,
        cost_usd,
        tokens,
    } = step_finished(reason, cost_usd, tokens)
    else {
        unreachable!("a step that finished")
    };
    TransportEvent::SubagentStep {
        session: format!("ses_{subagent}"),
        reason,
        cost_usd,
        tokens,
    }
}

fn tool(call: u8, status: ToolStatus) -> TransportEvent {
    let failed = status == ToolStatus::Failed;
    TransportEvent::Tool(ToolCall {
        call: format!("call_{call}"),
        tool: "bash".to_owned(),
        status,
        title: String::new(),
        input: json!({}),
        output: None,
        error: failed.then(|| "The user rejected permission to use this".to_owned()),
    })
}

fn event() -> impl Strategy<Value = TransportEvent> {
    let reasons = prop::sample::select(vec![
        "stop",
        "end_turn",
        "tool-calls",
        "unknown",
        "",
        "length",
        "content-filter",
    ]);
    let statuses = prop::sample::select(vec![
        ToolStatus::Pending,
        ToolStatus::Running,
        ToolStatus::Completed,
        ToolStatus::Failed,
    ]);
    // An invalid or negative cost must not spoil the sum.
    let cost = prop::sample::select(vec![0.0, 0.001, 0.3, 0.7, -1.0, f64::NAN, f64::INFINITY]);
    prop_oneof![
        2 => Just(TransportEvent::StepStarted),
        3 => (0..40_usize, any::<bool>()).prop_map(|(length, reasoning)| TransportEvent::Text {
            part: "prt_1".to_owned(),
            reasoning,
            delta: "x".repeat(length),
        }),
        1 => Just(TransportEvent::TextEnded { part: "prt_1".to_owned(), reasoning: false, text: "x".to_owned() }),
        4 => (0..3_u8, statuses).prop_map(|(call, status)| tool(call, status)),
        4 => (reasons.clone(), cost.clone(), 0..300_u64)
            .prop_map(|(reason, cost, tokens)| step_finished(reason, cost, tokens)),
        4 => (0..2_u8, reasons, cost, 0..300_u64)
            .prop_map(|(who, reason, cost, tokens)| subagent_step(who, reason, cost, tokens)),
        2 => (1..9_u64, prop::option::of(0..60_i64)).prop_map(|(attempt, wait)| TransportEvent::Retrying {
            attempt,
            message: "Too Many Requests".to_owned(),
            next: wait.map(second),
        }),
        2 => (0..3_u8).prop_map(|id| TransportEvent::Asked(Request {
            id: format!("per_{id}"),
            kind: RequestKind::Permission { permission: "bash".to_owned(), patterns: vec!["rm *".to_owned()] },
        })),
        1 => Just(TransportEvent::Answered("per_1".to_owned())),
        1 => (200..600_u64, any::<bool>()).prop_map(|(status, again)| TransportEvent::Error(ErrorPayload::read(json!({
            "name": "APIError",
            "data": {"message": "the provider says no", "statusCode": status, "isRetryable": again},
        })))),
        1 => Just(TransportEvent::Activity),
        1 => Just(TransportEvent::Notice("a word".to_owned())),
        1 => end().prop_map(TransportEvent::Ended),
    ]
}

fn end() -> impl Strategy<Value = End> {
    let exits = prop::sample::select(vec![
        None,
        Some(Exit::Code(0)),
        Some(Exit::Code(1)),
        Some(Exit::Signal(9)),
        Some(Exit::GuardLost),
    ]);
    let finishes = prop::sample::select(vec![None, None, Some("stop"), Some("tool-calls"), Some("length")]);
    let stderr = prop::sample::select(vec![vec![], vec!["Error: database is locked".to_owned()]]);
    (exits, finishes, any::<bool>(), stderr).prop_map(|(exit, finish, broken, stderr)| End {
        exit,
        finish: finish.map(Finish::from),
        broken: broken.then(|| "the connection broke".to_owned()),
        stderr,
    })
}

fn story() -> impl Strategy<Value = Vec<(Duration, TransportEvent)>> {
    // Mostly short gaps, and some that exceed a limit.
    let gap = prop_oneof![5 => 0..5_u64, 1 => 0..60_u64].prop_map(Duration::from_secs);
    prop::collection::vec((gap, event()), 0..40)
}

/// A turn as its supervisor drives it: time advances to the machine's deadline, and the first ending step ends the
/// turn.
struct Run {
    machine: Machine,
    /// The events before the end.
    fed: Vec<TransportEvent>,
    asked: Vec<String>,
    /// The step that ended the turn, and whether time alone caused it; `None` if the story was too short.
    ended: Option<(Step, bool)>,
    /// When the turn ended, or the time of the last event.
    at: Duration,
}

fn drive(limits: Limits, story: &[(Duration, TransportEvent)]) -> Run {
    let mut run = Run {
        machine: Machine::new(limits),
        fed: Vec::new(),
        asked: Vec::new(),
        ended: None,
        at: Duration::ZERO,
    };
    for (gap, event) in story {
        let next = run.at + *gap;
        let deadline = run.machine.deadline();
        if deadline <= next {
            run.at = deadline;
            run.ended = Some((run.machine.tick(deadline), true));
            return run;
        }
        assert_eq!(run.machine.tick(next), Step::Go, "before its deadline");
        run.at = next;
        let now = second(next.as_secs() as i64);
        run.fed.push(event.clone());
        match run.machine.event(event, next, now) {
            Step::Go => {}
            Step::Ask(request) => run.asked.push(request.id),
            end => {
                run.ended = Some((end, false));
                return run;
            }
        }
    }
    run
}

impl Run {
    fn judgement(&self) -> Option<&Judgement> {
        match &self.ended {
            Some((Step::Stop(judgement) | Step::Done(judgement), _)) => Some(judgement),
            _ => None,
        }
    }

    /// The events after the last finished step.
    fn since_last_step(&self) -> &[TransportEvent] {
        let last = self
            .fed
            .iter()
            .rposition(|event| matches!(event, TransportEvent::StepFinished { .. }));
        &self.fed[last.map_or(0, |at| at + 1)..]
    }

    /// The finish reasons of the turn's own steps.
    fn reasons(&self) -> Vec<&str> {
        self.reasons_of(None)
    }

    /// The finish reasons of the steps of a subagent, or of the turn itself.
    fn reasons_of(&self, subagent: Option<&str>) -> Vec<&str> {
        let steps = self.fed.iter().filter_map(step);
        steps
            .filter(|(who, _)| *who == subagent)
            .map(|(_, reason)| reason)
            .collect()
    }

    /// The owner and the finish reason of the step that ended the turn; `None` if something else ended it.
    fn ended_by_step(&self) -> Option<(Option<&str>, &str)> {
        let by_event = matches!(self.ended, Some((_, false)));
        self.fed.last().filter(|_| by_event).and_then(step)
    }

    fn running_tools(&self) -> BTreeSet<&str> {
        let mut running = BTreeSet::new();
        for event in &self.fed {
            match event {
                TransportEvent::Tool(call) if call.status == ToolStatus::Running => {
                    running.insert(call.call.as_str());
                }
                TransportEvent::Tool(call) if call.status != ToolStatus::Pending => {
                    running.remove(call.call.as_str());
                }
                TransportEvent::StepFinished { .. } => running.clear(),
                _ => {}
            }
        }
        running
    }
}

/// The subagent (if it is one's step) and the finish reason of the step that this event ends.
fn step(event: &TransportEvent) -> Option<(Option<&str>, &str)> {
    match event {
        TransportEvent::StepFinished { reason, .. } => Some((None, reason.as_str())),
        TransportEvent::SubagentStep { session, reason, .. } => Some((Some(session), reason.as_str())),
        _ => None,
    }
}

fn is_over(reason: &str) -> bool {
    matches!(reason, "stop" | "end_turn")
}

/// `retry-after` of a 429 response, which opencode passes on.
#[test]
fn a_quota_tells_when_to_try_again() {
    for (header, seconds) in [
        (json!("90"), Some(90)),
        (json!("soon"), None),
        (json!(null), None),
    ] {
        let mut machine = Machine::new(limits());
        let payload = json!({"name": "APIError", "data": {
            "message": "later",
            "statusCode": 429,
            "isRetryable": true,
            "responseHeaders": {"retry-after": header},
        }});
        let error = ErrorPayload::read(payload);
        machine.event(&TransportEvent::Error(error), Duration::ZERO, second(10));
        let Step::Done(judgement) =
            machine.event(&TransportEvent::Ended(End::default()), Duration::ZERO, second(10))
        else {
            panic!("it is over");
        };
        assert_eq!(
            (judgement.verdict, judgement.retry_at),
            (Verdict::Quota, seconds.map(|wait| second(10 + wait)))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// However long opencode is silent, the machine's deadline is exactly the moment at which the turn ends.
    #[test]
    fn silence_ends_at_the_deadline_and_not_before(story in story()) {
        let mut run = drive(limits(), &story);
        if run.ended.is_none() {
            let deadline = run.machine.deadline();
            prop_assert!(deadline <= limits().timeout);
            if let Some(before) = deadline.checked_sub(Duration::from_nanos(1)).filter(|before| *before >= run.at) {
                prop_assert_eq!(run.machine.tick(before), Step::Go);
            }
            run.ended = Some((run.machine.tick(deadline), true));
        }
        if let Some((step, true)) = &run.ended {
            prop_assert!(matches!(step, Step::Stop(_)), "{step:?}");
        }
    }

    #[test]
    fn nothing_is_completed_without_proof(story in story()) {
        let run = drive(limits(), &story);
        let Some(judgement) = run.judgement().filter(|judgement| judgement.verdict == Verdict::Completed) else {
            return Ok(());
        };
        prop_assert!(judgement.reason.is_empty());
        let named = match run.fed.last() {
            Some(TransportEvent::Ended(end)) => end.finish.as_ref().map(Finish::as_str),
            _ => None,
        };
        let last = named.or(run.reasons().last().copied());
        prop_assert!(last.is_some_and(is_over), "{last:?}");
        // An answer that lingers is complete whatever follows; an answer that ends after an error is not.
        if let Some((Step::Done(_), _)) = run.ended {
            let error = run.since_last_step().iter().any(|event| matches!(event, TransportEvent::Error(_)));
            prop_assert!(!error);
        }
    }

    #[test]
    fn an_error_after_the_last_step_is_no_success_and_no_crash(story in story(), end in end()) {
        let mut run = drive(limits(), &story);
        let error = run.since_last_step().iter().any(|event| matches!(event, TransportEvent::Error(_)));
        if run.ended.is_none() && error {
            let step = run.machine.event(&TransportEvent::Ended(end), run.at, Timestamp::UNIX_EPOCH);
            let Step::Done(judgement) = step else {
                return Err(TestCaseError::fail(format!("{step:?}")));
            };
            prop_assert!(matches!(judgement.verdict, Verdict::Failed | Verdict::Quota), "{judgement:?}");
            prop_assert!(judgement.reason.contains("the provider says no"), "{judgement:?}");
        }
    }

    #[test]
    fn every_verdict_but_completed_has_a_reason(story in story()) {
        let run = drive(limits(), &story);
        if let Some(judgement) = run.judgement() {
            prop_assert_eq!(judgement.reason.is_empty(), judgement.verdict == Verdict::Completed, "{:?}", judgement);
            // The machine never gives these verdicts.
            prop_assert!(!matches!(judgement.verdict, Verdict::Aborted | Verdict::Lost | Verdict::Blocked));
        }
    }

    #[test]
    fn the_counts_match_the_events(story in story()) {
        let run = drive(limits(), &story);
        let counts = run.machine.counts;
        let (mut steps, mut tools, mut tokens, mut text, mut cost) = (0, 0, 0, 0, 0.0);
        for event in &run.fed {
            match event {
                TransportEvent::StepFinished { cost_usd, tokens: used, .. } => {
                    steps += 1;
                    tokens += used.total();
                    cost += if cost_usd.is_finite() { cost_usd.max(0.0) } else { 0.0 };
                }
                TransportEvent::SubagentStep { cost_usd, tokens: used, .. } => {
                    tokens += used.total();
                    cost += if cost_usd.is_finite() { cost_usd.max(0.0) } else { 0.0 };
                }
                TransportEvent::Tool(call) if matches!(call.status, ToolStatus::Completed | ToolStatus::Failed) => tools += 1,
                TransportEvent::Text { delta, reasoning: false, .. } => text += delta.len() as u64,
                _ => {}
            }
        }
        prop_assert_eq!(counts.events, run.fed.len() as u64);
        prop_assert_eq!((counts.steps, counts.tool_calls, counts.text), (steps, tools, text));
        prop_assert_eq!(counts.tokens.total(), tokens);
        prop_assert!((counts.cost_usd - cost).abs() < 1e-9, "{} {cost}", counts.cost_usd);
    }

    /// The order of the events within a step affects neither its cost nor the point at which the budget is spent.
    #[test]
    fn a_budget_ends_the_turn_with_the_step_that_exceeds_it(story in story()) {
        let run = drive(limits(), &story);
        let over = run.machine.counts.cost_usd > 1.0 || run.machine.counts.tokens.total() > 1000;
        let budget = run.judgement().is_some_and(|judgement| judgement.reason.starts_with("budget: "));
        prop_assert_eq!(over, budget);
        if budget {
            prop_assert_eq!(run.judgement().unwrap().verdict, Verdict::Failed);
            prop_assert!(run.ended_by_step().is_some());
        }
    }

    #[test]
    fn a_loop_ends_at_its_third_idle_step(story in story()) {
        let run = drive(limits(), &story);
        let idle = |reason: &&&str| !is_over(reason) && **reason != "tool-calls";
        let in_a_row = |who| run.reasons_of(who).iter().rev().take_while(idle).count();
        for who in [None, Some("ses_0"), Some("ses_1")] {
            prop_assert!(in_a_row(who) <= 3);
        }
        let looping = run.judgement().is_some_and(|judgement| judgement.verdict == Verdict::Looping);
        let budget = run.judgement().is_some_and(|judgement| judgement.reason.starts_with("budget: "));
        let third = run.ended_by_step().is_some_and(|(who, _)| in_a_row(who) == 3);
        prop_assert_eq!(looping, third && !budget);
    }

    #[test]
    fn each_request_is_answered_once(story in story()) {
        let run = drive(limits(), &story);
        let messages: BTreeSet<_> = run.fed.iter().filter_map(|event| match event {
            TransportEvent::Asked(request) => Some(request.id.clone()),
            _ => None,
        }).collect();
        let asked: BTreeSet<_> = run.asked.iter().cloned().collect();
        prop_assert_eq!(asked.len(), run.asked.len(), "one was answered twice");
        prop_assert_eq!(asked, messages);
    }

    #[test]
    fn a_running_tool_is_never_a_stall(story in story()) {
        let run = drive(limits(), &story);
        if run.judgement().is_some_and(|judgement| judgement.verdict == Verdict::Stalled) {
            prop_assert_eq!(run.running_tools(), BTreeSet::new());
        }
    }

    /// Repeated retries become a quota verdict when the longest allowed wait is over, and never before a retry would
    /// exceed it.
    #[test]
    fn waiting_for_the_provider_is_a_quota_in_time(gaps in prop::collection::vec(0..20_u64, 1..10), wait in 0..60_i64) {
        let mut machine = Machine::new(Limits { stall: Duration::from_secs(500), timeout: Duration::from_secs(1000), ..limits() });
        let (mut at, mut first) = (0, None);
        for gap in gaps {
            at += gap;
            if Duration::from_secs(at) >= machine.deadline() {
                break;
            }
            let first = *first.get_or_insert(at);
            let next = second(at as i64 + wait);
            let event = TransportEvent::Retrying { attempt: 1, message: "later".to_owned(), next: Some(next) };
            let step = machine.event(&event, Duration::from_secs(at), second(at as i64));
            let too_long = at - first + wait as u64 > 30;
            match step {
                Step::Go => prop_assert!(!too_long),
                Step::Stop(judgement) => {
                    prop_assert!(too_long);
                    prop_assert_eq!((judgement.verdict, judgement.retry_at), (Verdict::Quota, Some(next)));
                    return Ok(());
                }
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            }
        }
        let deadline = machine.deadline();
        prop_assert_eq!(deadline, Duration::from_secs(first.unwrap_or(0) + 30));
        let Step::Stop(judgement) = machine.tick(deadline) else {
            return Err(TestCaseError::fail("it waits for ever"));
        };
        prop_assert_eq!(judgement.verdict, Verdict::Quota);
    }
}
