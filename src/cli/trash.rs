//! `kugetsu trash`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Outcome;
use super::context::{Context, duration};
use super::destroy::sure;
use super::gc::count_entries;
use super::output::{Output, size};
use super::table::{Cell, Column};
use kugetsu_api::TrashEntry;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::{TrashEmptyOutput, TrashEntryView, TrashListOutput};

#[derive(Debug, Args)]
pub(super) struct TrashArgs {
    #[command(subcommand)]
    action: TrashAction,
}

#[derive(Debug, Subcommand)]
enum TrashAction {
    /// List what destroy, prune and init --force removed, and what restore can bring back
    List,
    /// Remove what is in the trash for good
    Empty(EmptyArgs),
}

#[derive(Debug, Args)]
struct EmptyArgs {
    /// Only what has been in the trash for longer than this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older: Option<Duration>,

    /// Do it without asking
    #[arg(short, long)]
    yes: bool,
}

pub(super) fn run(args: &TrashArgs, context: &Context, output: Output) -> Outcome {
    match &args.action {
        TrashAction::List => list(context, output),
        TrashAction::Empty(args) => empty(args, context, output),
    }
}

fn list(context: &Context, output: Output) -> Outcome {
    let entries = context.engine.trash()?;
    if output.json {
        let view = |(entry, size_bytes, restorable)| TrashEntryView {
            entry,
            size_bytes,
            restorable,
        };
        output.object(TrashListOutput {
            entries: entries.into_iter().map(view).collect(),
        });
        return Ok(ExitStatus::Ok);
    }
    if entries.is_empty() {
        output.note("the trash is empty");
        return Ok(ExitStatus::Ok);
    }
    let rows = entries
        .iter()
        .map(|(entry, bytes, restorable)| {
            vec![
                Cell::from(name(entry)),
                entry.when.strftime("%F %T UTC").to_string().into(),
                size(*bytes).into(),
                if *restorable { "yes" } else { "no" }.into(),
                entry.why.as_str().into(),
            ]
        })
        .collect();
    let columns = [
        Column::new("REF"),
        Column::new("REMOVED").spare(2),
        Column::new("SIZE").spare(1),
        Column::new("RESTORE"),
        Column::prose("BY"),
    ];
    output.table(&columns, rows);
    Ok(ExitStatus::Ok)
}

fn empty(args: &EmptyArgs, context: &Context, output: Output) -> Outcome {
    let engine = &context.engine;
    let older = args.older.unwrap_or_default();
    let count = engine.old_trash(older)?.len();
    if count > 0 {
        let question = format!(
            "Remove {} for good? Nothing can bring them back.",
            count_entries(count)
        );
        sure(args.yes, &question)?;
    }
    let removed = engine.empty_trash(older)?;
    if output.json {
        output.object(TrashEmptyOutput { removed });
    } else {
        output.text(format!("removed {} for good", count_entries(removed.len())));
    }
    Ok(ExitStatus::Ok)
}

fn name(entry: &TrashEntry) -> String {
    match (&entry.address, &entry.repo) {
        (Some(address), _) => address.to_string(),
        (None, Some(repo)) => format!("the base of {repo}"),
        (None, None) => entry.id.to_string(),
    }
}
