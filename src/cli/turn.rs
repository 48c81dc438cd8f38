//! What `start` and `continue` share: the flags of a turn, running it, telling how it ended.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::context::{Context, duration};
use super::output::{Output, count, money};
use super::printer::{Printer, Show};
use super::signals::with_signals;
use super::{CliError, Outcome, prompt};
use crate::broker::{Mode, TransportChoice, TurnReport, TurnRequest, WorktreeWish};
use crate::config::{Config, print_duration};
use crate::exit::ExitStatus;
use crate::session::Verdict;
use crate::store::Key;
use crate::turn::Limits;

/// How a turn is shown on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputForm {
    /// The answer's text as it comes.
    Text,
    /// One object at the end.
    Json,
    /// Every event as a JSON line.
    StreamJson,
}

/// The flags of everything that runs a turn.
#[derive(Debug, Args)]
pub(super) struct TurnArgs {
    /// How the turn reaches opencode: auto, run or serve
    #[arg(long, value_name = "HOW")]
    transport: Option<TransportChoice>,

    /// What to print: the answer as text, one object at the end, or every event as a JSON line
    #[arg(long, value_enum)]
    output: Option<OutputForm>,

    #[command(flatten)]
    limits: LimitArgs,

    /// Wait until a turn that runs on the session has ended, at most this long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "3650d", require_equals = true, value_parser = wait_duration)]
    wait: Option<Duration>,

    /// The model, as provider/model, instead of the session's own
    #[arg(long)]
    model: Option<String>,

    /// The agent instead of the session's own
    #[arg(long)]
    agent: Option<String>,

    /// Write opencode's log at DEBUG and kugetsu's own trace to the session's debug.log
    #[arg(long)]
    debug: bool,
}

/// What a turn may take.
#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// How long the turn may take [config: timeout]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,

    /// How long it may go without progress of any kind [config: stall_timeout]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    stall_timeout: Option<Duration>,

    /// How long to wait for a provider that asks to come back later [config: max_quota_wait]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_quota_wait: Option<Duration>,

    /// Steps in a row without a finish reason after which the turn is looping [config: max_steps_without_progress]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_steps_without_progress: Option<u32>,

    /// End the turn when it has cost more than this many US dollars
    #[arg(long, value_name = "USD", value_parser = usd)]
    max_cost: Option<f64>,

    /// End the turn when it has used more than this many tokens
    #[arg(long, value_name = "N")]
    max_tokens: Option<u64>,

    /// How long opencode may take to end before it is killed [config: grace]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    grace: Option<Duration>,
}

fn usd(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("it is an amount of US dollars such as 0.50".to_owned()),
    }
}

fn wait_duration(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok()) {
        Some(days) => Ok(Duration::from_hours(24 * u64::from(days))),
        None => duration(text),
    }
}

impl LimitArgs {
    pub(super) fn limits(&self, config: &Config) -> Limits {
        let time = |flag: Option<Duration>, name| flag.unwrap_or_else(|| config.duration(name));
        Limits {
            timeout: time(self.timeout, "timeout"),
            stall: time(self.stall_timeout, "stall_timeout"),
            idle_steps: self
                .max_steps_without_progress
                .unwrap_or_else(|| config.number("max_steps_without_progress")),
            cost_usd: self.max_cost,
            tokens: self.max_tokens,
            quota_wait: time(self.max_quota_wait, "max_quota_wait"),
            grace: time(self.grace, "grace"),
            ..Limits::default()
        }
    }
}

/// Runs a turn and tells of it.
pub(super) fn run(
    reference: String,
    message: &[String],
    mode: Mode,
    worktree: WorktreeWish,
    args: TurnArgs,
    context: &Context,
    output: Output,
) -> Outcome {
    let issue = context.issue(&reference)?;
    let prompt = prompt::read(message)?;
    let broker = &context.broker;
    if args.debug {
        super::output::trace_to(broker.store.open_log(&Key::from(&issue), "debug.log")?);
    }
    let form = args.output.unwrap_or(if output.json {
        OutputForm::Json
    } else {
        OutputForm::Text
    });
    let request = TurnRequest {
        issue,
        typed: reference,
        prompt,
        mode,
        transport: match args.transport {
            Some(choice) => choice,
            None => broker
                .config
                .get("transport")
                .parse()
                .map_err(|problem: String| CliError::usage(problem, "see: kugetsu config"))?,
        },
        limits: args.limits.limits(&broker.config),
        wait: args.wait,
        model: args.model,
        agent: args.agent,
        debug: args.debug,
        worktree,
    };
    let mut printer = None;
    let (report, signal) = with_signals(|interrupts| {
        broker.deliver(&request, interrupts, |feed| {
            printer = match form {
                OutputForm::Text => Some(Printer::start(feed, Show::Text)),
                OutputForm::StreamJson => Some(Printer::start(feed, Show::Lines)),
                OutputForm::Json => None,
            };
        })
    })?;
    if let Some(printer) = printer {
        printer.finish();
    }
    let report = report?;
    let status = match (report.turn.verdict, signal) {
        (Verdict::Aborted, Some(signal)) => signal,
        (verdict, _) => verdict.exit_status(),
    };
    if form == OutputForm::Json {
        output.object(&result(&report, status));
    }
    summary(&report, output);
    Ok(status)
}

fn result(report: &TurnReport, status: ExitStatus) -> serde_json::Value {
    let turn = &report.turn;
    json!({
        "ref": report.record.issue,
        "session": report.record.session,
        "turn": turn.turn,
        "verdict": turn.verdict,
        "reason": turn.reason,
        "exit_status": status.code(),
        "answer": report.answer,
        "transport": turn.transport,
        "opencode": turn.opencode,
        "directory": report.record.directory,
        "worktree": report.record.worktree,
        "notes": report.notes,
        "started": turn.started,
        "ended": turn.ended,
        "steps": turn.steps,
        "tool_calls": turn.tool_calls,
        "cost_usd": turn.cost_usd,
        "tokens": turn.tokens,
        "totals": report.record.totals,
        "retry_at": report.retry_at,
    })
}

fn summary(report: &TurnReport, output: Output) {
    let turn = &report.turn;
    if let Some(lost) = &report.adopted {
        output.note(format!("kugetsu: the turn before was lost: {}", lost.reason));
    }
    for note in &report.notes {
        output.note(format!("kugetsu: {note}"));
    }
    if report.record.base != *report.record.issue.repo() {
        output.note(format!(
            "kugetsu: {} has no base of its own; the session is a fork of the default base {}",
            report.record.issue.repo(),
            report.record.base
        ));
    }
    let took = Duration::try_from(turn.ended.duration_since(turn.started)).unwrap_or_default();
    output.note(format!(
        "kugetsu: {} {} in {}, {}, {}, {}, {}",
        report.record.issue,
        turn.verdict,
        print_duration(took),
        count(turn.steps, "step"),
        count(turn.tool_calls, "tool call"),
        count(turn.tokens.total(), "token"),
        money(turn.cost_usd),
    ));
    if !turn.reason.is_empty() {
        output.note(format!("  {}", turn.reason));
    }
    if let Some(at) = report.retry_at {
        output.note(format!("  try again after {at}"));
    }
}
