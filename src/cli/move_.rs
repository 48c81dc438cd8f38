//! `kugetsu move`.

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use super::context::Context;
use super::output::Output;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{MoveOutput, MovedView};

#[derive(Debug, Args)]
pub(super) struct MoveArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF", required_unless_present = "repo", conflicts_with = "repo")]
    reference: Option<String>,

    /// The base of this repository and all sessions of its clone, instead of one session
    #[arg(long, value_name = "REPO")]
    repo: Option<String>,

    /// The folder in which the clone is now
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,

    /// Also if the folder is a clone of another repository
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &MoveArgs, context: &Context, output: Output) -> Outcome {
    let engine = &context.engine;
    let folder = context.here.join(&args.dir);
    let moved = match &args.reference {
        Some(reference) => {
            let address = context.address(reference)?;
            vec![engine.move_session(&address, &folder, args.force)?]
        }
        None => {
            let repo = context.repo(args.repo.as_deref())?;
            engine.move_repo(&repo, &folder, args.force)?
        }
    };
    if output.json {
        output.object(MoveOutput {
            moved: moved
                .into_iter()
                .map(|moved| MovedView {
                    subject: moved.subject.reference(),
                    from: moved.from,
                    to: moved.to,
                })
                .collect(),
        });
        return Ok(ExitStatus::Ok);
    }
    for moved in &moved {
        let to = moved.to.display();
        output.text(if moved.from == moved.to {
            format!("{} is in {to}", moved.subject)
        } else {
            format!("{} moved from {} to {to}", moved.subject, moved.from.display())
        });
    }
    Ok(ExitStatus::Ok)
}
