//! `--detach`: the turn continues in a process of its own, independent of terminals and connections.
//!
//! The command starts kugetsu again. The new process receives the arguments and the prompt on its stdin, so that no
//! process list shows them, and reports on its stdout in one line that the turn is on record, or why it is not. Then
//! the new process closes all streams that it inherited, and the command ends. The new process leads a session of its
//! own from its first moment, so no signal of a terminal reaches it.

use std::ffi::OsString;
use std::io::{BufRead as _, Read as _};
use std::process::Stdio;

use clap::Parser as _;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use super::context::Context;
use super::detached::{DetachReport, Detached};
use super::form::OutputForm;
use super::output::Output;
use super::signals::with_signals;
use super::{Cli, CommandError, Outcome, prompt};
use crate::terminal::Stream;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::DetachedOutput;
use kugetsu_api::{Address, ErrorCode};
use kugetsu_engine::operations::EngineError;
use kugetsu_engine::turn::Interrupt;

/// The first argument of a process that supervises a detached turn.
pub(super) const COMMAND: &str = "supervise-detached";

/// The input of the new process.
#[derive(Serialize, Deserialize)]
struct DetachedCommand {
    args: Vec<OsString>,
    prompt: String,
    issue_title: Option<String>,
    /// The turn whose tool gave the command.
    tool_of: Option<Uuid>,
}

/// Runs the command of this process again, detached, and prints the result.
pub(super) fn launch(
    address: &Address,
    (prompt, issue_title): (String, Option<String>),
    form: OutputForm,
    context: &Context,
    output: Output,
) -> Outcome {
    let input = DetachedCommand {
        args: context.arguments.clone(),
        prompt,
        issue_title,
        tool_of: context.engine.parent_turn(),
    };
    let input = serde_json::to_vec(&input)
        .map_err(|error| failed("the arguments cannot be passed on").caused_by(error))?;
    let environment = context.engine.environment().clone();
    let (report, signal) = with_signals(false, async move |mut interrupts| {
        let mut child = tokio::process::Command::new(environment.program())
            .env_clear()
            .envs(environment.variables())
            .arg0("kugetsu")
            .args([COMMAND, &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(mut stdin) = child.stdin.take() {
            // A process that has died gives no report, which is handled below.
            let _ = stdin.write_all(&input).await;
        }
        let mut report = Vec::new();
        let Some(mut stdout) = child.stdout.take() else {
            return Ok(report);
        };
        let reading = stdout.read_to_end(&mut report);
        tokio::pin!(reading);
        loop {
            tokio::select! {
                biased;
                Ok(()) = interrupts.changed() => {
                    let how = match *interrupts.borrow_and_update() {
                        Interrupt::Now => Signal::KILL,
                        _ => Signal::TERM,
                    };
                    if let Some(pid) = pid {
                        let _ = kill_process(pid, how);
                    }
                }
                read = &mut reading => {
                    read?;
                    break;
                }
            }
        }
        Ok::<_, std::io::Error>(report)
    })?;
    let line = match &report {
        Ok(report) => report.lines().next().and_then(Result::ok).unwrap_or_default(),
        Err(_) => String::new(),
    };
    let parsed = serde_json::from_str::<DetachReport>(&line);
    // A signal may have come too late to prevent the turn.
    let interrupted = |status| signal.unwrap_or(status);
    match parsed {
        Ok(DetachReport::Ready { turn, pid }) => {
            print_turn(address, turn, Some(pid), form, output).map(interrupted)
        }
        Ok(DetachReport::Recorded { turn }) => print_turn(address, turn, None, form, output).map(interrupted),
        _ if let Some(signal) = signal => Ok(signal),
        Ok(DetachReport::Failed(error)) => Err(CommandError::received(error)),
        Err(_) => Err(match report {
            Err(error) => failed("the supervisor cannot be started").caused_by(error),
            Ok(_) => failed("the supervisor died before the turn was recorded"),
        }),
    }
}

/// Prints the turn's id.
pub(super) fn print_turn(
    address: &Address,
    turn: Uuid,
    pid: Option<u32>,
    form: OutputForm,
    output: Output,
) -> Outcome {
    if form == OutputForm::Text {
        output.text(turn.to_string());
        if Stream::Stderr.is_terminal() {
            output.note(format!("  next: kugetsu wait {address}"));
        }
    } else {
        output.object(DetachedOutput {
            address: address.clone(),
            turn,
            pid,
            detached: true,
        });
    }
    Ok(ExitStatus::Ok)
}

fn failed(message: &str) -> CommandError {
    CommandError::new(ErrorCode::DetachFailed, message).hint("try again without --detach")
}

/// The main function of the new process.
pub(super) fn child_main() -> ExitStatus {
    // Fails only if this process already leads a session.
    let _ = rustix::process::setsid();
    let mut input = Vec::new();
    let input = match std::io::stdin().lock().read_to_end(&mut input) {
        Ok(_) => serde_json::from_slice::<DetachedCommand>(&input).ok(),
        Err(_) => None,
    };
    let parsed = input.and_then(|input| {
        let detached = Detached::new(input.prompt, input.issue_title);
        let arguments = prompt::marked(input.args.into_iter());
        Some((Cli::try_parse_from(arguments).ok()?, detached, input.tool_of))
    });
    let Some((cli, detached, tool_of)) = parsed else {
        let output = Output::new(false);
        output.note("kugetsu: kugetsu uses this command to run a detached turn; it is not meant to be typed");
        return ExitStatus::Usage;
    };
    let output = Output::new(cli.json);
    let mut context = match Context::from_environment(false) {
        Ok(context) => context,
        Err(error) => {
            detached.report(&failure_report(&error));
            return error.exit_status();
        }
    };
    context.detached = Some(detached);
    context = context.for_tool_of(tool_of);
    match super::dispatch(cli.verb, &context, output) {
        Ok(status) => status,
        Err(error) => {
            let error = context.with_subject(error);
            match &context.detached {
                Some(detached) if detached.is_awaited() => detached.report(&failure_report(&error)),
                _ => output.note(error.for_people()),
            }
            error.exit_status()
        }
    }
}

fn failure_report(error: &CommandError) -> DetachReport {
    DetachReport::Failed(error.for_programs().body.error)
}

/// Reports that a turn with this id is already on record, if that is why no turn ran.
pub(super) fn report_recorded(error: &EngineError, context: &Context) -> Option<Uuid> {
    let EngineError::Recorded(turn) = error else {
        return None;
    };
    if let Some(detached) = &context.detached {
        detached.report(&DetachReport::Recorded { turn: *turn });
    }
    Some(*turn)
}
