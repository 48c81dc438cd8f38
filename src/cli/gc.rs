//! `kugetsu gc`.

use clap::Args;

use super::Outcome;
use super::context::Context;
use super::list::broken_file;
use super::output::{Output, count, size};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::GcOutput;

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &GcArgs, context: &Context, output: Output) -> Outcome {
    let (logs, trash) = context.engine.collect_garbage(args.dry_run)?;
    let status = if logs.failed.is_empty() {
        ExitStatus::Ok
    } else {
        ExitStatus::CannotWrite
    };
    if output.json {
        output.object(GcOutput {
            dry_run: args.dry_run,
            compressed: logs.compressed,
            removed: logs.removed,
            shortened: logs.shortened,
            trash: trash.into_iter().map(|entry| entry.id).collect(),
            logs_bytes: logs.before,
            freed_bytes: logs.freed,
            broken: logs.failed.into_iter().map(broken_file).collect(),
            exit_status: status.code(),
        });
        return Ok(status);
    }
    if args.dry_run {
        for path in &logs.removed {
            output.text(format!("remove    {}", path.display()));
        }
        for path in &logs.compressed {
            output.text(format!("compress  {}", path.display()));
        }
        for path in &logs.shortened {
            output.text(format!("shorten   {}", path.display()));
        }
        for entry in &trash {
            output.text(format!("remove    trash entry {}", entry.id));
        }
    }
    let would = if args.dry_run { "would be " } else { "" };
    output.text(format!(
        "{} of logs: {} {would}removed, {} {would}compressed, {} {would}shortened, {} {would}freed; {} of the trash \
         {would}removed",
        size(logs.before),
        count(logs.removed.len() as u64, "log"),
        logs.compressed.len(),
        logs.shortened.len(),
        size(logs.freed),
        count_entries(trash.len()),
    ));
    for (path, why) in &logs.failed {
        output.note(format!("kugetsu: {}: {why}", path.display()));
    }
    Ok(status)
}

pub(super) fn count_entries(number: usize) -> String {
    match number {
        1 => "1 entry".to_owned(),
        number => format!("{number} entries"),
    }
}
