//! `kugetsu query`. Reads records and status files; takes no lock and starts nothing.

use clap::Args;

use super::Outcome;
use super::context::Context;
use super::output::Output;
use kugetsu_api::exit::ExitStatus;

#[derive(Debug, Args)]
pub(super) struct QueryArgs {}

pub(super) fn run(_args: &QueryArgs, context: &Context, output: Output) -> Outcome {
    output.object(context.engine.query()?);
    Ok(ExitStatus::Ok)
}
