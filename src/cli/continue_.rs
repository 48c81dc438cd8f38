//! `kugetsu continue`.

use clap::Args;

use super::Outcome;
use super::context::Context;
use super::output::Output;
use super::turn::{self, TurnArgs};
use crate::broker::Mode;

#[derive(Debug, Args)]
pub(super) struct ContinueArgs {
    /// The issue
    #[arg(value_name = "REF")]
    reference: String,

    /// What to do; `-`, or nothing where stdin is a pipe: read it from stdin
    #[arg(value_name = "MESSAGE")]
    message: Vec<String>,

    /// Begin the issue if it has no session yet
    #[arg(long)]
    or_start: bool,

    #[command(flatten)]
    turn: TurnArgs,
}

pub(super) fn run(args: ContinueArgs, context: &Context, output: Output) -> Outcome {
    let mode = if args.or_start {
        Mode::ContinueOrStart
    } else {
        Mode::Continue
    };
    turn::run(args.reference, &args.message, mode, args.turn, context, output)
}
