//! `kugetsu signal`.

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use super::complete::References;
use super::context::Context;
use super::output::Output;
use super::signals::with_signals;
use super::turn_id::short;
use super::{CommandError, Outcome};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{RebaseOutput, RebaseResult, SignalOutput};
use kugetsu_api::{Address, Signal};
use kugetsu_engine::Rebased;

#[derive(Debug, Args)]
pub(super) struct SignalArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF", add = ArgValueCompleter::new(References))]
    reference: String,

    /// The signal to send
    #[arg(value_name = "SIGNAL", value_enum)]
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// End opencode before its next step; the turn stays paused and keeps the session
    Pause,
    /// Continue a paused turn
    Resume,
    /// Stop the turn; `kugetsu stop` also waits for its end
    Stop,
    /// Rebase the session's worktree onto the branch that it started from, or onto what its clone has checked out if it
    /// started from a commit; only between turns
    Rebase,
}

pub(super) fn run(args: &SignalArgs, context: &Context, output: Output) -> Outcome {
    let address = context.address(&args.reference)?;
    let signal = match args.action {
        Action::Pause => Signal::Pause,
        Action::Resume => Signal::Resume,
        Action::Stop => Signal::Stop,
        Action::Rebase => return rebase(&address, context, output),
    };
    let live = context.engine.signal(&address, signal)?;
    if output.json {
        output.object(SignalOutput {
            address,
            turn: live.turn,
            signal,
            pid: live.supervisor.pid,
        });
    } else {
        output.text(format!(
            "{address}: sent {} to turn {}",
            signal.as_str(),
            short(live.turn)
        ));
    }
    Ok(ExitStatus::Ok)
}

fn rebase(address: &Address, context: &Context, output: Output) -> Outcome {
    let (rebased, signal) = with_signals(false, async |interrupts| {
        context.engine.rebase(address, interrupts).await
    })?;
    let (onto, rebased) = rebased.map_err(|error| CommandError::from(error).after(signal))?;
    let (result, files, status) = match &rebased {
        Rebased::UpToDate => (RebaseResult::UpToDate, &[][..], ExitStatus::Ok),
        Rebased::Onto(_) => (RebaseResult::Rebased, &[][..], ExitStatus::Ok),
        Rebased::Conflicts(files) => (RebaseResult::Blocked, &files[..], ExitStatus::Blocked),
    };
    if output.json {
        output.object(RebaseOutput {
            address: address.clone(),
            signal: "rebase".to_owned(),
            onto,
            result,
            conflicts: files.to_vec(),
            exit_status: status.code(),
        });
        return Ok(status);
    }
    match &rebased {
        Rebased::UpToDate => output.text(format!("{address}: its branch already contains all of {onto}")),
        Rebased::Onto(commit) => output.text(format!("{address}: rebased onto {onto} ({commit})")),
        Rebased::Conflicts(files) => {
            output.note(format!(
                "kugetsu: {address} cannot be rebased onto {onto}: conflicts in {}; nothing was changed",
                files.join(", ")
            ));
            output.note(format!(
                "  let the session resolve them: kugetsu continue {address} \"rebase onto {onto}\""
            ));
        }
    }
    Ok(status)
}
