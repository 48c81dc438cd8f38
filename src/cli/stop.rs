//! `kugetsu stop`.

use clap::Args;

use super::Outcome;
use super::context::Context;
use super::output::Output;
use super::turn_id::short;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::StopOutput;

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF")]
    reference: String,
}

pub(super) fn run(args: &StopArgs, context: &Context, output: Output) -> Outcome {
    let address = context.address(&args.reference)?;
    let stopped = context.engine.stop(&address)?;
    let turn = &stopped.report.turn;
    if output.json {
        output.object(StopOutput {
            address,
            turn: turn.turn,
            verdict: turn.verdict,
            reason: turn.reason.clone(),
            forced: stopped.forced,
        });
    } else {
        let how = if stopped.forced { ", by SIGTERM" } else { "" };
        output.text(format!(
            "{address}: turn {} ended as {}{how}",
            short(turn.turn),
            turn.verdict
        ));
    }
    Ok(ExitStatus::Ok)
}
