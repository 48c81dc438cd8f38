//! `kugetsu continue`.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::complete::References;
use super::context::Context;
use super::output::Output;
use super::turn::{self, TurnArgs};
use super::worktree::WorktreeArgs;
use super::{CommandError, Outcome, prompt};
use kugetsu_engine::operations::{Mode, WorktreeRequest};

#[derive(Debug, Args)]
pub(super) struct ContinueArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF", add = ArgValueCompleter::new(References))]
    reference: String,

    /// The prompt; `-`, or no message when stdin is a pipe, reads it from stdin; without a message, a terminal opens your editor
    #[arg(value_name = "MESSAGE", value_parser = prompt::word)]
    message: Vec<String>,

    /// Start a session if there is none
    #[arg(long)]
    or_start: bool,

    #[command(flatten)]
    worktree: WorktreeArgs,

    #[command(flatten)]
    pub(super) turn: TurnArgs,
}

pub(super) fn run(args: ContinueArgs, context: &Context, output: Output) -> Outcome {
    let mode = if args.or_start {
        Mode::ContinueOrStart
    } else {
        Mode::Continue
    };
    let worktree: WorktreeRequest = args.worktree.into();
    if mode == Mode::Continue && worktree != WorktreeRequest::default() {
        return Err(CommandError::usage(
            "worktree flags apply only when a session is started",
            "leave them out, or add --or-start to start a session if there is none",
        ));
    }
    turn::run(
        args.reference,
        &args.message,
        mode,
        (worktree, None),
        args.turn,
        context,
        output,
    )
}
