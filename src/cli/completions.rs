//! `kugetsu completions`.

use clap::{Args, ValueEnum};
use clap_complete::env::Shells;

use super::output::Output;
use super::{CommandError, Outcome, complete};
use kugetsu_api::ErrorCode;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::CompletionsOutput;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Prints what a shell reads at its start, so that it asks kugetsu itself for completions later.
pub(super) fn run(args: &CompletionsArgs, output: Output) -> Outcome {
    let mut script = Vec::new();
    let failed = |error: std::io::Error| {
        CommandError::new(ErrorCode::Internal, "the script cannot be made").caused_by(error)
    };
    let shell = args
        .shell
        .to_possible_value()
        .map(|value| value.get_name().to_owned());
    let shells = Shells::builtins();
    shells
        .completer(shell.as_deref().unwrap_or_default())
        .ok_or_else(|| failed(std::io::Error::other("the shell is not known")))?
        .write_registration(complete::VARIABLE, "kugetsu", "kugetsu", "kugetsu", &mut script)
        .map_err(failed)?;
    output.file(&script, |script| CompletionsOutput { script });
    Ok(ExitStatus::Ok)
}
