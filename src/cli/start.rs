//! `kugetsu start`.

use clap::Args;

use super::context::Context;
use super::output::Output;
use super::turn::{self, TurnArgs, sandbox_modes};
use super::worktree::WorktreeArgs;
use super::{Outcome, prompt};
use kugetsu_api::SandboxMode;
use kugetsu_engine::operations::Mode;

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF")]
    reference: String,

    /// The prompt; `-`, or no message when stdin is a pipe, reads it from stdin; on a terminal, no message means the
    /// text of the issue
    #[arg(value_name = "MESSAGE", value_parser = prompt::word)]
    message: Vec<String>,

    #[command(flatten)]
    worktree: WorktreeArgs,

    /// Whether the session is sandboxed, if the base does not require it; without a value: required [default: as the base says]
    #[arg(long, value_name = "MODE", num_args = 0..=1, default_missing_value = "required", require_equals = true, value_parser = sandbox_modes())]
    sandbox: Option<SandboxMode>,

    #[command(flatten)]
    pub(super) turn: TurnArgs,
}

pub(super) fn run(args: StartArgs, context: &Context, output: Output) -> Outcome {
    turn::run(
        args.reference,
        &args.message,
        Mode::Start,
        (args.worktree.into(), args.sandbox),
        args.turn,
        context,
        output,
    )
}
