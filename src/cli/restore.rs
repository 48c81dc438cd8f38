//! `kugetsu restore`.

use clap::Args;

use super::Outcome;
use super::context::Context;
use super::list::with_state;
use super::output::Output;
use crate::broker::state_of;
use crate::exit::ExitStatus;

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The issue
    #[arg(value_name = "REF")]
    reference: String,
}

pub(super) fn run(args: &RestoreArgs, context: &Context, output: Output) -> Outcome {
    let issue = context.issue(&args.reference)?;
    let record = context.broker.restore(&issue)?;
    if output.json {
        output.object(&with_state(&record, state_of(&record)));
    } else {
        let session = record
            .session
            .as_ref()
            .map_or("no session", |session| session.as_str());
        output.text(format!("restored {issue} ({session})"));
    }
    Ok(ExitStatus::Ok)
}
