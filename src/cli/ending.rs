//! Reports a turn that has ended: its exit status, its result, its summary.

use super::init::note_of_default;
use super::output::{Output, count};
use super::tone::Tone;
use crate::terminal::{Stream, one_line};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::TurnOutput;
use kugetsu_api::{Address, Changes, Refused, Verdict};
use kugetsu_engine::duration::print_duration;
use kugetsu_engine::money::print_usd;
use kugetsu_engine::operations::TurnReport;
use kugetsu_engine::turn::Interrupt;

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
        changes: turn.changes.clone(),
        refused: turn.refused.clone(),
    }
}

/// The notes of a turn for programs. People see the note about the base before the first turn.
fn notes(report: &TurnReport) -> Vec<String> {
    let record = &report.record;
    let base = note_of_default(record.address.repo(), &record.base);
    base.into_iter()
        .chain(report.early_notes.iter().chain(&report.notes).cloned())
        .collect()
}

/// Reports the end of a turn on stderr. `told` is true if the notes from before the turn were shown as they came.
pub(super) fn summary(report: &TurnReport, told: bool, output: Output) {
    let turn = &report.turn;
    if let Some(lost) = &report.adopted {
        output.note(format!("kugetsu: the turn before was lost: {}", lost.reason));
    }
    if let Some(fallback) = &report.fallback {
        output.note(format!("kugetsu: {fallback}"));
    }
    let early = report.early_notes.iter().filter(|_| !told);
    for note in early.chain(&report.notes) {
        output.note(format!("kugetsu: {note}"));
    }
    let mut parts = vec![
        count(turn.events, "event"),
        count(turn.tool_calls, "tool call"),
        count(turn.tokens.total(), "token"),
        print_usd(turn.cost_usd),
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
    let rest = format!(" in {}: {}", print_duration(report.took), parts.join(", "));
    output.note_line(&[
        (Tone::Plain, &format!("kugetsu: {} ", report.record.address)),
        (turn.verdict.into(), turn.verdict.as_str()),
        (Tone::Plain, &rest),
    ]);
    if !turn.reason.is_empty() {
        output.note(format!("  {}", turn.reason));
    }
    if let Some(changes) = &turn.changes {
        for line in describe_changes(changes, FILES_SHOWN) {
            output.note(format!("  {line}"));
        }
    }
    for line in describe_refused(&turn.refused) {
        output.note(format!("  {line}"));
    }
    if Stream::Stderr.is_terminal()
        && let Some(next) = next_command(report)
    {
        output.note(format!("  next: {next}"));
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

/// What a person may want to do after the turn.
fn next_command(report: &TurnReport) -> Option<String> {
    let address = &report.record.address;
    let changes = report.turn.changes.as_ref();
    match report.turn.verdict {
        Verdict::Completed if changes.is_some_and(|changes| !changes.is_empty()) => {
            Some(format!("kugetsu diff {address}"))
        }
        Verdict::Completed => Some(format!("kugetsu continue {address} MESSAGE")),
        // The request and its answer are named below.
        Verdict::Blocked => None,
        Verdict::Aborted | Verdict::Timeout | Verdict::Stalled | Verdict::Lost => {
            Some(format!("kugetsu continue {address} \"go on\""))
        }
        _ => Some(format!("kugetsu logs {address}")),
    }
}

/// The number of changed files that the summary of a turn names.
const FILES_SHOWN: usize = 10;

/// The commits and the changed files, on lines of their own; no lines if nothing has changed.
pub(super) fn describe_changes(changes: &Changes, files_shown: usize) -> Vec<String> {
    let mut lines = Vec::new();
    if changes.commit_count > 0 {
        let newest = changes.commits.first().map_or_else(String::new, |commit| {
            let last = if changes.commit_count == 1 {
                ""
            } else {
                "the last one "
            };
            format!(
                ": {last}{} {}",
                short_commit(&commit.id),
                one_line(&commit.subject)
            )
        });
        lines.push(format!("{}{newest}", count(changes.commit_count, "commit")));
    } else if changes.before != changes.after {
        let after = changes.after.as_deref().map_or("no commit", short_commit);
        lines.push(format!("another commit is checked out: {after}"));
    }
    if changes.file_count == 0 {
        return lines;
    }
    lines.push(format!(
        "{} changed, +{} -{}:",
        count(changes.file_count, "file"),
        changes.lines_added,
        changes.lines_removed
    ));
    let shown = &changes.files[..changes.files.len().min(files_shown)];
    lines.extend(shown.iter().map(|file| {
        let counts = match (file.added, file.removed) {
            (None, None) => "binary or gone".to_owned(),
            (added, removed) => {
                format!("+{} -{}", added.unwrap_or_default(), removed.unwrap_or_default())
            }
        };
        format!("  {} ({counts})", one_line(&file.path))
    }));
    let more = changes.file_count.saturating_sub(shown.len() as u64);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines
}

fn short_commit(id: &str) -> &str {
    &id[..id.floor_char_boundary(10)]
}

/// A warning about the refused tool calls; no lines if none was refused.
pub(super) fn describe_refused(refused: &Refused) -> Vec<String> {
    if refused.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!(
        "warning: {} refused by the session's permissions:",
        match refused.count {
            1 => "1 tool call was".to_owned(),
            n => format!("{n} tool calls were"),
        }
    )];
    let shown = refused.calls.iter().take(FILES_SHOWN);
    lines.extend(shown.map(|call| format!("  {}", one_line(&call.call))));
    let more = refused.count.saturating_sub(lines.len() as u64 - 1);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines
}

/// Warns that text is missing from a turn's output.
pub(super) fn warn_of_gap(address: &Address, why: &str, output: Output) {
    output.note(format!(
        "  the output and the turn's log may be incomplete: {why}"
    ));
    output.note(format!("  for the whole text: kugetsu attach {address}"));
}
