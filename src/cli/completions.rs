//! `kugetsu completions`.

use clap::{Args, Command};
use clap_complete::Shell;

use super::Outcome;
use super::output::Output;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::CompletionsOutput;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, command: &mut Command, output: Output) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "kugetsu", &mut script);
    output.file(&script, |script| CompletionsOutput { script });
    Ok(ExitStatus::Ok)
}
