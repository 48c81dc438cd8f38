//! `kugetsu move`.

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use super::context::Context;
use super::output::Output;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{LeftView, MoveOutput, MovedView};
use kugetsu_engine::operations::MovedRepo;

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
    let MovedRepo { moved, left } = match &args.reference {
        Some(reference) => {
            let address = context.address(reference)?;
            MovedRepo {
                moved: vec![engine.move_session(&address, &folder, args.force)?],
                left: Vec::new(),
            }
        }
        None => {
            let repo = context.repo(args.repo.as_deref())?;
            engine.move_repo(&repo, &folder, args.force)?
        }
    };
    if output.json {
        let moved = moved.into_iter().map(|moved| MovedView {
            subject: moved.subject.reference(),
            from: moved.from,
            to: moved.to,
        });
        let left = left
            .into_iter()
            .map(|(address, directory)| LeftView { address, directory });
        output.object(MoveOutput {
            moved: moved.collect(),
            left: left.collect(),
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
    for (address, folder) in &left {
        output.text(format!(
            "{address} stays in {}, which did not move with the clone; to move it: kugetsu move {address} --dir FOLDER",
            folder.display()
        ));
    }
    Ok(ExitStatus::Ok)
}
