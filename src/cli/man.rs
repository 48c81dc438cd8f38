//! `kugetsu man`.

use clap::{Args, Command};

use super::output::Output;
use super::{CliError, Outcome};
use crate::exit::ExitStatus;

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// The page of this command instead of the main one
    command: Option<String>,
}

pub(super) fn run(args: &ManArgs, command: Command, output: Output) -> Outcome {
    // Built, a command knows the one above it and its global options.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let command = match &args.command {
        None => command,
        Some(name) => command
            .find_subcommand(name)
            .cloned()
            .ok_or_else(|| CliError::usage(format!("there is no command `{name}`"), "see: kugetsu --help"))?,
    };
    let mut page = Vec::new();
    let source = format!("kugetsu {}", command.get_version().unwrap_or_default());
    clap_mangen::Man::new(command)
        // An empty word would be no word at all, and the source stand where a reader looks for the date.
        .date("\"\"")
        .source(source)
        .manual("kugetsu")
        .render(&mut page)
        .map_err(|error| {
            CliError::usage(format!("the page cannot be made: {error}"), "see: kugetsu --help")
        })?;
    output.file("page", &page);
    Ok(ExitStatus::Ok)
}
