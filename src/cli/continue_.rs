//! `kugetsu continue`.

use clap::Args;

use super::context::Context;
use super::output::Output;
use super::turn::{self, TurnArgs};
use super::worktree::WorktreeArgs;
use super::{CommandError, Outcome};
use kugetsu_engine::operations::{Mode, WorktreeRequest};

#[derive(Debug, Args)]
pub(super) struct ContinueArgs {
    /// The session
    #[arg(value_name = "REF")]
    reference: String,

    /// What to do; `-`, or nothing where stdin is a pipe: read it from stdin
    #[arg(value_name = "MESSAGE")]
    message: Vec<String>,

    /// Begin the issue if it has no session yet
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
            "a session has its worktree from its start",
            "begin it where it has none yet: --or-start",
        ));
    }
    turn::run(
        args.reference,
        &args.message,
        mode,
        worktree,
        args.turn,
        context,
        output,
    )
}
