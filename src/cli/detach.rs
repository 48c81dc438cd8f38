//! `--detach`: the turn goes on in a process of its own, which no terminal and no connection takes along.
//!
//! The command starts our own program again. What it is to do, the arguments and the prompt, goes to it on its stdin,
//! so that no process list shows them; what came of it comes back on its stdout, one line: the turn is on record, or why
//! not. Then the new process lets go of everything that it had from us, and the command ends. The new process leads a
//! session of its own from its first moment, so no signal of a terminal reaches it.

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
use super::output::Output;
use super::signals::with_signals;
use super::{Cli, CommandError, Outcome};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::DetachedOutput;
use kugetsu_api::{Address, ErrorCode};
use kugetsu_engine::operations::EngineError;
use kugetsu_engine::turn::Interrupt;

/// The word after the program's name that makes it the supervisor of a detached turn.
pub(super) const COMMAND: &str = "supervise-detached";

/// What the new process is to do.
#[derive(Serialize, Deserialize)]
struct Order {
    args: Vec<OsString>,
    prompt: String,
}

/// Runs the command of this process again, detached, and says what came of it.
pub(super) fn launch(issue: &Address, prompt: String, context: &Context, output: Output) -> Outcome {
    let order = Order {
        args: std::env::args_os().collect(),
        prompt,
    };
    let order = serde_json::to_vec(&order)
        .map_err(|error| failed("the arguments cannot be passed on").caused_by(error))?;
    let environment = context.engine.environment().clone();
    let (answer, signal) = with_signals(false, async move |mut interrupts| {
        let mut child = tokio::process::Command::new(environment.program())
            .env_clear()
            .envs(environment.variables())
            .arg0("kugetsu")
            .args([COMMAND, &issue.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(mut stdin) = child.stdin.take() {
            // One that died meanwhile says so by its silence.
            let _ = stdin.write_all(&order).await;
        }
        let mut answer = Vec::new();
        let Some(mut stdout) = child.stdout.take() else {
            return Ok(answer);
        };
        let reading = stdout.read_to_end(&mut answer);
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
        Ok::<_, std::io::Error>(answer)
    })?;
    let line = match &answer {
        Ok(answer) => answer.lines().next().and_then(Result::ok).unwrap_or_default(),
        Err(_) => String::new(),
    };
    let report = serde_json::from_str::<DetachReport>(&line);
    // A signal may have come too late for the turn not to begin.
    let interrupted = |status| signal.unwrap_or(status);
    match report {
        Ok(DetachReport::Ready { turn, pid }) => tell(issue, turn, Some(pid), output).map(interrupted),
        Ok(DetachReport::Recorded { turn }) => tell(issue, turn, None, output).map(interrupted),
        _ if let Some(signal) = signal => Ok(signal),
        Ok(DetachReport::Failed(error)) => Err(CommandError::told(error)),
        Err(_) => Err(match answer {
            Err(error) => failed("the supervisor cannot be started").caused_by(error),
            Ok(_) => failed("the supervisor died before the turn was recorded"),
        }),
    }
}

/// The turn's id.
pub(super) fn tell(issue: &Address, turn: Uuid, pid: Option<u32>, output: Output) -> Outcome {
    if output.json {
        output.object(DetachedOutput {
            address: issue.clone(),
            turn,
            pid,
            detached: true,
        });
    } else {
        output.text(turn.to_string());
    }
    Ok(ExitStatus::Ok)
}

fn failed(message: &str) -> CommandError {
    CommandError::new(ErrorCode::DetachFailed, message).hint("try it without --detach")
}

/// The new process.
pub(super) fn child_main() -> ExitStatus {
    // Fails only where we lead a session already.
    let _ = rustix::process::setsid();
    let mut order = Vec::new();
    let order = match std::io::stdin().lock().read_to_end(&mut order) {
        Ok(_) => serde_json::from_slice::<Order>(&order).ok(),
        Err(_) => None,
    };
    let parsed = order.and_then(|order| Some((Cli::try_parse_from(order.args).ok()?, order.prompt)));
    let Some((cli, prompt)) = parsed else {
        let output = Output::new(false);
        output.note("kugetsu: this is how kugetsu runs a detached turn; it is nothing to type");
        return ExitStatus::Usage;
    };
    let output = Output::new(cli.json);
    let detached = Detached::new(prompt);
    let mut context = match Context::from_environment() {
        Ok(context) => context,
        Err(error) => {
            detached.report(&failure(&error));
            return error.exit_status();
        }
    };
    context.detached = Some(detached);
    match super::dispatch(cli.verb, &context, output) {
        Ok(status) => status,
        Err(error) => {
            let error = context.complete(error);
            match &context.detached {
                Some(detached) if detached.is_awaited() => detached.report(&failure(&error)),
                _ => output.note(error.for_people()),
            }
            error.exit_status()
        }
    }
}

fn failure(error: &CommandError) -> DetachReport {
    DetachReport::Failed(error.for_programs().body.error)
}

/// Reports that a turn of this id is on record, if that is why no turn ran.
pub(super) fn report_recorded(error: &EngineError, context: &Context) -> Option<Uuid> {
    let EngineError::Recorded(turn) = error else {
        return None;
    };
    if let Some(detached) = &context.detached {
        detached.report(&DetachReport::Recorded { turn: *turn });
    }
    Some(*turn)
}
