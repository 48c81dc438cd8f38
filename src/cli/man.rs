//! `kugetsu man`.

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Command};

use super::output::Output;
use super::{CommandError, Outcome};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::ManOutput;

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The command [default: the main page]
    command: Option<String>,
}

/// Sets the possible page names, which only the complete command tree knows.
pub(super) fn with_pages(command: Command) -> Command {
    let pages: Vec<_> = command
        .get_subcommands()
        .filter(|one| !one.is_hide_set())
        .map(|one| {
            PossibleValue::new(one.get_name().to_owned()).aliases(one.get_all_aliases().map(str::to_owned))
        })
        .collect();
    command.mut_subcommand("man", |man| {
        man.mut_arg("command", |arg| {
            arg.value_parser(PossibleValuesParser::new(pages))
        })
    })
}

pub(super) fn run(args: &ManArgs, command: Command, output: Output) -> Outcome {
    // Once built, a command knows its parent and its global options.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let command = match &args.command {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| {
            CommandError::usage(format!("there is no command `{name}`"), "see: kugetsu --help")
        })?,
    };
    let mut page = Vec::new();
    let source = format!("kugetsu {}", command.get_version().unwrap_or_default());
    clap_mangen::Man::new(command)
        // With an empty date, `man` would show the source in the place of the date.
        .date("\"\"")
        .source(source)
        .manual("kugetsu")
        .render(&mut page)
        .map_err(|error| {
            CommandError::usage(format!("the page cannot be made: {error}"), "see: kugetsu --help")
        })?;
    output.file(&page, |page| ManOutput { page });
    Ok(ExitStatus::Ok)
}
