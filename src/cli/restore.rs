//! `kugetsu restore`.

use clap::Args;

use super::Outcome;
use super::context::{Context, IssueOrBase};
use super::output::Output;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::SessionWithState;
use kugetsu_engine::operations::Subject;

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    subject: IssueOrBase,
}

pub(super) fn run(args: &RestoreArgs, context: &Context, output: Output) -> Outcome {
    let engine = &context.engine;
    match args.subject.subject(context)? {
        Subject::Base(repo) => {
            let record = engine.restore_base(&repo)?;
            if output.json {
                output.document(&record);
            } else {
                output.text(format!(
                    "restored the base of {} ({})",
                    record.repo, record.session
                ));
            }
        }
        Subject::Session(address) => {
            let record = engine.restore(&address)?;
            if output.json {
                let state = engine.state_of(&record);
                output.document(&SessionWithState { record, state });
            } else {
                let session = record
                    .session
                    .as_ref()
                    .map_or("no session", |session| session.as_str());
                output.text(format!(
                    "restored {address} ({session}) with its turns and its policy"
                ));
                if let Some(worktree) = &record.worktree {
                    output.text(format!(
                        "its worktree is {} on {}; files that git ignores were not kept",
                        worktree.path.display(),
                        worktree.branch
                    ));
                }
            }
        }
    }
    Ok(ExitStatus::Ok)
}
