//! What `start` and `continue` share: the flags of a turn, running it, telling how it ended.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use uuid::Uuid;

use super::context::{Context, duration};
use super::output::{Output, count, money};
use super::printer::{Printer, Show};
use super::signals::with_signals;
use super::{CliError, Outcome, detach, prompt, wait};
use crate::broker::{Mode, TransportChoice, TurnReport, TurnRequest};
use crate::config::{Config, print_duration};
use crate::exit::ExitStatus;
use crate::session::{IssueRef, Verdict};
use crate::store::Key;
use crate::turn::{Interrupt, Limits};

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

impl OutputForm {
    /// The form that was asked for, one way or the other.
    pub(super) fn chosen(form: Option<Self>, output: Output) -> Self {
        form.unwrap_or(if output.json { Self::Json } else { Self::Text })
    }
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

    /// Print the turn's id and return as soon as the turn is on record; it goes on by itself
    #[arg(long)]
    detach: bool,

    /// The turn's id, a UUID of your choice: asked for again, the same turn is waited for, not run twice
    #[arg(long, value_name = "UUID")]
    turn_id: Option<Uuid>,

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
    args: TurnArgs,
    context: &Context,
    output: Output,
) -> Outcome {
    let issue = context.issue(&reference)?;
    let prompt = match &context.detached {
        Some(detached) => detached.prompt(),
        None => prompt::read(message)?,
    };
    let broker = &context.broker;
    let form = OutputForm::chosen(args.output, output);
    if let Some(turn) = args.turn_id
        && context.detached.is_none()
        && broker.is_recorded(&issue, turn)?
    {
        return recorded(&issue, turn, args.detach, form, context, output);
    }
    if args.detach && context.detached.is_none() {
        return detach::launch(&issue, prompt, context, output);
    }
    if args.debug {
        super::output::trace_to(broker.store.open_log(&Key::from(&issue), "debug.log")?);
    }
    let request = TurnRequest {
        issue,
        typed: reference,
        turn: args.turn_id,
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
    };
    let mut printer = None;
    let (report, signal) = with_signals(context.detached.is_some(), |interrupts| {
        broker.deliver(&request, interrupts, |feed| {
            printer = match form {
                _ if context.detached.is_some() => None,
                OutputForm::Text => Some(Printer::start(feed, Show::Text)),
                OutputForm::StreamJson => Some(Printer::start(feed, Show::Lines)),
                OutputForm::Json => None,
            };
            if let Some(detached) = &context.detached {
                detached.ready(&request.issue, context);
            }
        })
    })?;
    if let Some(printer) = printer {
        printer.finish();
    }
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            return match detach::say_recorded(&error, context) {
                Some(_) if context.detached.is_some() => Ok(ExitStatus::Ok),
                Some(turn) => recorded(&request.issue, turn, false, form, context, output),
                None => Err(error.into()),
            };
        }
    };
    let status = exit_of(&report, signal);
    if form == OutputForm::Json {
        output.object(&result(&report, status));
    }
    summary(&report, output);
    Ok(status)
}

/// The exit status of a command whose turn ended so; `signal`: of the signal that this process had.
pub(super) fn exit_of(report: &TurnReport, signal: Option<ExitStatus>) -> ExitStatus {
    match (report.turn.verdict, signal, report.interrupt) {
        (Verdict::Aborted, Some(signal), _) => signal,
        (Verdict::Aborted, None, Interrupt::Interrupted) => ExitStatus::Interrupted,
        (Verdict::Aborted, None, _) => ExitStatus::Terminated,
        (verdict, ..) => verdict.exit_status(),
    }
}

/// A turn that was asked for before: its end is waited for, or, detached, only its id is told.
fn recorded(
    issue: &IssueRef,
    turn: Uuid,
    detach: bool,
    form: OutputForm,
    context: &Context,
    output: Output,
) -> Outcome {
    if detach {
        return detach::tell(issue, turn, None, output);
    }
    wait::until_end(issue, turn, None, form, context, output)
}

pub(super) fn result(report: &TurnReport, status: ExitStatus) -> serde_json::Value {
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

pub(super) fn summary(report: &TurnReport, output: Output) {
    let turn = &report.turn;
    if let Some(lost) = &report.adopted {
        output.note(format!("kugetsu: the turn before was lost: {}", lost.reason));
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
