//! `kugetsu completions`.

use clap::{Args, Command};
use clap_complete::Shell;

use super::Outcome;
use crate::exit::ExitStatus;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, command: &mut Command) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "kugetsu", &mut script);
    super::output::bytes(&script);
    Ok(ExitStatus::Ok)
}
