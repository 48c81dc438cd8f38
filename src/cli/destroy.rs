//! `kugetsu destroy`.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::complete::References;
use super::context::Context;
use super::each::for_each;
use super::output::{Output, can_ask, confirm, count};
use super::{CommandError, Outcome};
use kugetsu_api::ErrorCode;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{DestroyOutput, RemovedWorktreeView};
use kugetsu_engine::operations::Subject;

#[derive(Debug, Args)]
pub(super) struct DestroyArgs {
    /// The sessions; not with --base
    #[arg(id = "reference", value_name = "REF", required_unless_present = "base", conflicts_with = "base", add = ArgValueCompleter::new(References))]
    references: Vec<String>,

    /// The base of the clone's repository instead of a session
    #[arg(long)]
    base: bool,

    /// The base of this repository
    #[arg(long, value_name = "[INSTANCE/]OWNER/REPO", requires = "base")]
    repo: Option<String>,

    /// Do it without asking
    #[arg(short, long)]
    yes: bool,

    /// Also remove a worktree with work that is not committed or not pushed (the trash keeps it), and a sandboxed session
    /// whose messages are lost
    #[arg(long, conflicts_with = "base")]
    force: bool,
}

pub(super) fn run(args: &DestroyArgs, context: &Context, output: Output) -> Outcome {
    if args.base {
        let repo = context.base_repo(args.repo.as_deref())?;
        let typed = match &args.repo {
            Some(repo) => format!("--base --repo {repo}"),
            None => "--base".to_owned(),
        };
        return one(&Subject::Base(repo), &typed, args, context, output);
    }
    let addresses = context.addresses(&args.references)?;
    for_each(&addresses, output, |address| {
        let subject = Subject::Session(address.clone());
        one(&subject, &address.to_string(), args, context, output)
    })
}

fn one(subject: &Subject, typed: &str, args: &DestroyArgs, context: &Context, output: Output) -> Outcome {
    let engine = &context.engine;
    let (what, removed) = match subject {
        Subject::Session(address) => {
            // Obstacles are reported before the user is asked.
            let record = engine.record(address)?;
            engine.refuse_own_turn(address)?;
            if !args.force {
                engine.refuse_risk(&record)?;
            }
            let and = record.worktree.as_ref().map_or_else(String::new, |worktree| {
                format!(" and the worktree {}", worktree.path.display())
            });
            sure(args.yes, &format!("Remove the session of {address}{and}?"))?;
            (address.to_string(), engine.destroy(address, args.force)?)
        }
        Subject::Base(repo) => {
            engine.own_base(repo)?;
            sure(args.yes, &format!("Remove the base session of {repo}?"))?;
            (format!("the base of {repo}"), engine.destroy_base(repo)?)
        }
    };
    engine.expire_trash()?;
    if output.json {
        output.object(DestroyOutput {
            destroyed: what,
            session: removed.session,
            deleted_from_opencode: removed.deleted,
            messages_exported: removed.messages,
            messages_lost: removed.messages_lost,
            worktree: removed.worktree.map(|worktree| RemovedWorktreeView {
                path: worktree.path,
                branch: worktree.branch,
                branch_deleted: worktree.branch_deleted,
                saved_commits: worktree.saved.branch,
                saved_changes: worktree.saved.changes,
            }),
        });
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
    } else if removed.messages_lost {
        format!("removed {what}: its record is in the trash, its messages are lost with the sandbox's database ({session})")
    } else {
        format!("removed {what}: its record is in the trash, opencode was left alone ({session})")
    });
    if let Some(worktree) = &removed.worktree {
        let what = match (worktree.saved.branch, worktree.saved.changes) {
            (true, true) => "; its commits and what was not committed are in the trash",
            (true, false) => "; its commits are in the trash",
            (false, true) => "; what was not committed is in the trash",
            (false, false) => "",
        };
        let path = worktree.path.display();
        let branch = &worktree.branch;
        output.text(if worktree.branch_deleted {
            format!("removed the worktree {path} and its branch {branch}{what}")
        } else {
            format!("removed the worktree {path}; its branch {branch} stays{what}")
        });
    }
    if !removed.messages_lost {
        output.note(format!("bring it back with: kugetsu restore {typed}"));
    } else if let Some(bundle) = &removed.bundle {
        output.note(format!(
            "see its work with: git bundle list-heads {}",
            bundle.display()
        ));
    }
    Ok(ExitStatus::Ok)
}

/// Asks, unless `yes` was given.
pub(super) fn sure(yes: bool, question: &str) -> Result<(), CommandError> {
    if yes {
        return Ok(());
    }
    if !can_ask() {
        return Err(CommandError::new(
            ErrorCode::NeedsConfirmation,
            "confirmation is needed, and there is no terminal to ask on; nothing was changed",
        )
        .hint("to confirm, add -y"));
    }
    if confirm(question) {
        return Ok(());
    }
    Err(CommandError::new(ErrorCode::NotConfirmed, "nothing was changed"))
}
