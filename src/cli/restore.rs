//! `kugetsu restore`.

use clap::Args;
use serde_json::json;

use super::Outcome;
use super::context::Context;
use super::list::with_state;
use super::output::Output;
use crate::exit::ExitStatus;

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The issue; not with --base
    #[arg(value_name = "REF", required_unless_present = "base", conflicts_with = "base")]
    reference: Option<String>,

    /// The base of the clone's repository instead of an issue's session
    #[arg(long)]
    base: bool,

    /// The base of this repository
    #[arg(long, value_name = "INSTANCE/OWNER/REPO", requires = "base")]
    repo: Option<String>,
}

pub(super) fn run(args: &RestoreArgs, context: &Context, output: Output) -> Outcome {
    let broker = &context.broker;
    let Some(reference) = &args.reference else {
        let record = broker.restore_base(&context.repo(args.repo.as_deref())?)?;
        if output.json {
            output.object(&json!(record));
        } else {
            output.text(format!(
                "restored the base of {} ({})",
                record.repo, record.session
            ));
        }
        return Ok(ExitStatus::Ok);
    };
    let issue = context.issue(reference)?;
    let record = broker.restore(&issue)?;
    if output.json {
        output.object(&with_state(&record, broker.state_of(&record)));
    } else {
        let session = record
            .session
            .as_ref()
            .map_or("no session", |session| session.as_str());
        output.text(format!("restored {issue} ({session})"));
    }
    Ok(ExitStatus::Ok)
}
