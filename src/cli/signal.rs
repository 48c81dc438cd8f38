//! `kugetsu signal`.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::context::Context;
use super::output::Output;
use super::{CliError, Outcome};
use crate::exit::ExitStatus;
use crate::turn::control::Signal;

#[derive(Debug, Args)]
pub(super) struct SignalArgs {
    /// The issue
    #[arg(value_name = "REF")]
    reference: String,

    /// What is wanted of its turn
    #[arg(value_name = "SIGNAL", value_enum)]
    wish: Wish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wish {
    /// End opencode's work before its next step, and keep the place: the turn stays, and keeps the session
    Pause,
    /// Let a paused turn go on where it stopped
    Resume,
    /// End the turn; `kugetsu stop` does it and waits
    Stop,
    /// Between turns: rebase the issue's worktree onto the branch that it was made from
    Rebase,
}

pub(super) fn run(args: &SignalArgs, context: &Context, output: Output) -> Outcome {
    let issue = context.issue(&args.reference)?;
    let signal = match args.wish {
        Wish::Pause => Signal::Pause,
        Wish::Resume => Signal::Resume,
        Wish::Stop => Signal::Stop,
        Wish::Rebase => {
            context.broker.record(&issue)?;
            return Err(CliError::usage(
                format!("{issue} has no worktree of its own, so there is nothing to rebase"),
                "give an issue a worktree when it begins: kugetsu start --worktree",
            ));
        }
    };
    let live = context.broker.signal(&issue, signal)?;
    if output.json {
        output.object(&json!({
            "ref": issue,
            "turn": live.turn,
            "signal": signal,
            "pid": live.supervisor.pid,
        }));
    } else {
        output.text(format!("{issue}: sent {} to turn {}", signal.as_str(), live.turn));
    }
    Ok(ExitStatus::Ok)
}
