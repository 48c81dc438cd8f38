//! Reports a turn that has ended: its exit status, its result, its summary.

use super::init::note_of_default;
use super::output::{Output, count, money};
use super::tone::Tone;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::TurnOutput;
use kugetsu_api::{Address, Verdict};
use kugetsu_engine::duration::print_duration;
use kugetsu_engine::operations::TurnReport;
use kugetsu_engine::turn::Interrupt;
use std::time::Duration;

/// The exit status of a command whose turn has ended. `signal` is the status for a signal that this process received.
pub(super) fn exit_of(report: &TurnReport, signal: Option<ExitStatus>) -> ExitStatus {
    match (report.turn.verdict, signal, report.interrupt) {
        (Verdict::Aborted, Some(signal), _) => signal,
        (Verdict::Aborted, None, Interrupt::Interrupted) => ExitStatus::Interrupted,
        (Verdict::Aborted, None, _) => ExitStatus::Terminated,
        _ => report.turn.exit_status(),
    }
}

pub(super) fn result(report: &TurnReport, status: ExitStatus) -> TurnOutput {
    let turn = &report.turn;
    TurnOutput {
        address: report.record.address.clone(),
        session: report.record.session.clone(),
        turn: turn.turn,
        verdict: turn.verdict,
        reason: turn.reason.clone(),
        exit_status: status.code(),
        answer: report.answer.clone(),
        transport: turn.transport,
        opencode: turn.opencode.clone(),
        directory: report.record.directory.clone(),
        worktree: report.record.worktree.clone(),
        notes: notes(report),
        started: turn.started,
        ended: turn.ended,
        steps: turn.steps,
        tool_calls: turn.tool_calls,
        cost_usd: turn.cost_usd,
        tokens: turn.tokens,
        totals: report.record.totals,
        events: turn.events,
        restarts: turn.restarts,
        answered: turn.answered,
        pending: report.record.pending.clone(),
        retry_at: turn.retry_at,
        log_gap: turn.log_gap.clone(),
        proof: turn.proof.clone(),
    }
}

/// The notes of a turn for programs. People see the note about the base before the first turn.
fn notes(report: &TurnReport) -> Vec<String> {
    let record = &report.record;
    let base = note_of_default(record.address.repo(), &record.base);
    base.into_iter().chain(report.notes.iter().cloned()).collect()
}

pub(super) fn summary(report: &TurnReport, output: Output) {
    let turn = &report.turn;
    if let Some(lost) = &report.adopted {
        output.note(format!("kugetsu: the turn before was lost: {}", lost.reason));
    }
    if let Some(fallback) = &report.fallback {
        output.note(format!("kugetsu: {fallback}"));
    }
    for note in &report.notes {
        output.note(format!("kugetsu: {note}"));
    }
    let took = Duration::try_from(turn.ended.duration_since(turn.started)).unwrap_or_default();
    let mut parts = vec![
        count(turn.events, "event"),
        count(turn.tool_calls, "tool call"),
        count(turn.tokens.total(), "token"),
        money(turn.cost_usd),
    ];
    if turn.restarts > 0 {
        parts.push(count(u64::from(turn.restarts), "restart"));
    }
    let answered = turn.answered;
    if answered != kugetsu_api::Answered::default() {
        parts.push(format!(
            "{} from the file, {} from the caller, {} by default",
            count(answered.file, "answer"),
            answered.supervisor,
            answered.default
        ));
    }
    let rest = format!(" in {}: {}", print_duration(took), parts.join(", "));
    output.note_line(&[
        (Tone::Plain, &format!("kugetsu: {} ", report.record.address)),
        (turn.verdict.into(), turn.verdict.as_str()),
        (Tone::Plain, &rest),
    ]);
    if !turn.reason.is_empty() {
        output.note(format!("  {}", turn.reason));
    }
    if let Some(why) = &turn.log_gap {
        warn_of_gap(&report.record.address, why, output);
    }
    if let Some(at) = turn.retry_at {
        output.note(format!("  try again after {at}"));
    }
    if turn.verdict == Verdict::Blocked {
        let address = &report.record.address;
        output.note(format!(
            "  answer it with: kugetsu answer {address} allow|deny|LABEL, then: kugetsu continue {address}"
        ));
    } else if turn.verdict != Verdict::Completed && turn.verdict != Verdict::Aborted {
        for line in &turn.proof.last_events {
            output.note(format!("  last: {line}"));
        }
    }
}

/// Warns that text is missing from a turn's output.
pub(super) fn warn_of_gap(address: &Address, why: &str, output: Output) {
    output.note(format!(
        "  the output and the turn's log may be incomplete: {why}"
    ));
    output.note(format!("  for the whole text: kugetsu attach {address}"));
}
