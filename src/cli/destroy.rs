//! `kugetsu destroy`.

use std::io::IsTerminal as _;

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::output::{Output, confirm, count};
use super::{CliError, Outcome};
use crate::exit::ExitStatus;

#[derive(Debug, Args)]
pub(super) struct DestroyArgs {
    /// The issue; not with --base
    #[arg(value_name = "REF", required_unless_present = "base", conflicts_with = "base")]
    reference: Option<String>,

    /// The base of the clone's repository instead of an issue's session
    #[arg(long)]
    base: bool,

    /// The base of this repository
    #[arg(long, value_name = "INSTANCE/OWNER/REPO", requires = "base")]
    repo: Option<String>,

    /// Do it without asking
    #[arg(short, long)]
    yes: bool,
}

pub(super) fn run(args: &DestroyArgs, context: &Context, output: Output) -> Outcome {
    let broker = &context.broker;
    let (what, removed) = match &args.reference {
        Some(reference) => {
            let issue = context.issue(reference)?;
            broker.record(&issue)?;
            sure(args, &format!("Remove the session of {issue}?"))?;
            (issue.to_string(), broker.destroy(&issue)?)
        }
        None => {
            let repo = context.repo(args.repo.as_deref())?;
            sure(args, &format!("Remove the base session of {repo}?"))?;
            (format!("the base of {repo}"), broker.destroy_base(&repo)?)
        }
    };
    broker.store.expire_trash(broker.config.duration("trash_keep"))?;
    if output.json {
        output.object(&json!({
            "destroyed": what,
            "session": removed.session,
            "deleted_from_opencode": removed.deleted,
            "messages_exported": removed.messages,
        }));
        return Ok(ExitStatus::Ok);
    }
    let session = removed
        .session
        .as_ref()
        .map_or("no session", |session| session.as_str());
    output.text(if removed.deleted {
        format!(
            "removed {what}: {session} is deleted from opencode, its export of {} is in the trash",
            count(removed.messages as u64, "message")
        )
    } else {
        format!("removed {what}: its record is in the trash, opencode was left alone ({session})")
    });
    if let Some(reference) = &args.reference {
        output.note(format!("bring it back with: kugetsu restore {reference}"));
    }
    Ok(ExitStatus::Ok)
}

fn sure(args: &DestroyArgs, question: &str) -> Result<(), CliError> {
    if args.yes {
        return Ok(());
    }
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(CliError {
            status: ExitStatus::Blocked,
            message: "nobody is here to be asked, so nothing was changed".to_owned(),
            hint: Some("say that you mean it: -y".to_owned()),
        });
    }
    if confirm(question) {
        return Ok(());
    }
    Err(CliError {
        status: ExitStatus::Failed,
        message: "nothing was changed".to_owned(),
        hint: None,
    })
}
