//! `kugetsu stop`.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::complete::References;
use super::context::Context;
use super::each::for_each;
use super::output::Output;
use super::turn_id::short;
use super::{CommandError, Outcome};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::StopOutput;
use kugetsu_api::{Address, ErrorCode};
use kugetsu_engine::operations::Stopped;

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// The addresses of sessions, such as 14 or owner/repo#14
    #[arg(id = "reference", value_name = "REF", required = true, add = ArgValueCompleter::new(References))]
    references: Vec<String>,

    /// Also end the turns that its tools began, and all turns below those, even if its own turn has ended
    #[arg(long)]
    with_delegates: bool,
}

pub(super) fn run(args: &StopArgs, context: &Context, output: Output) -> Outcome {
    let addresses = context.addresses(&args.references)?;
    if args.with_delegates {
        let (addresses, stopped): (Vec<_>, Vec<_>) =
            context.engine.stop_with_delegates(&addresses).into_iter().unzip();
        let mut stopped = stopped.into_iter();
        return for_each(&addresses, output, |address| {
            if let Some(stopped) = stopped.next() {
                let stopped = stopped.map_err(|error| CommandError::from(error).about(address))?;
                report(address, &stopped, output);
            }
            Ok(ExitStatus::Ok)
        });
    }
    // All at once, because each may take as long as its grace period.
    let engine = &context.engine;
    let stopped = std::thread::scope(|scope| {
        let stop = |address| scope.spawn(move || engine.stop(address));
        let running: Vec<_> = addresses.iter().map(stop).collect();
        let ends = running.into_iter().map(std::thread::ScopedJoinHandle::join);
        ends.collect::<Vec<_>>()
    });
    let mut stopped = stopped.into_iter();
    for_each(&addresses, output, |address| {
        match stopped.next() {
            Some(Ok(stopped)) => report(address, &stopped?, output),
            // A panic, which has been printed.
            _ => {
                return Err(CommandError::new(
                    ErrorCode::Internal,
                    "the turn could not be stopped",
                ));
            }
        }
        Ok(ExitStatus::Ok)
    })
}

fn report(address: &Address, stopped: &Stopped, output: Output) {
    let turn = &stopped.report.turn;
    if output.json {
        output.object(StopOutput {
            address: address.clone(),
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
}
