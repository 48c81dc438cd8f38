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
    let command = match &args.command {
        None => command,
        Some(name) => command
            .find_subcommand(name)
            .cloned()
            .map(|found| found.display_name(format!("kugetsu-{name}")))
            .ok_or_else(|| CliError::usage(format!("there is no command `{name}`"), "see: kugetsu --help"))?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|error| {
            CliError::usage(format!("the page cannot be made: {error}"), "see: kugetsu --help")
        })?;
    output.file("page", &page);
    Ok(ExitStatus::Ok)
}
