//! `kugetsu attach`: opencode's own terminal interface on a session.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use tokio::sync::watch;

use super::complete::References;
use super::context::Context;
use super::on_terminal::{self, Foreground};
use super::output::Output;
use super::{CommandError, Outcome};
use crate::ssh::quote;
use crate::terminal::Stream;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::AttachOutput;
use kugetsu_engine::operations::{Attachment, EngineError};
use kugetsu_engine::turn::Interrupt;

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF", add = ArgValueCompleter::new(References))]
    reference: String,

    /// Print the shell command instead of running it; takes no lease
    #[arg(long)]
    print: bool,
}

impl Foreground for Attachment {
    async fn start(
        &mut self,
        _interrupts: watch::Receiver<Interrupt>,
    ) -> Result<tokio::process::Child, EngineError> {
        Self::start(self).map_err(EngineError::Attach)
    }
}

pub(super) fn run(args: &AttachArgs, context: &Context, output: Output) -> Outcome {
    let address = context.address(&args.reference)?;
    let engine = &context.engine;
    if args.print {
        let command = engine.attach_command(&address)?;
        print(&command, output);
        return Ok(ExitStatus::Ok);
    }
    if !(std::io::stdin().is_terminal() && Stream::Stdout.is_terminal()) {
        return Err(no_terminal());
    }
    let mut attachment = engine.attach(&address)?;
    let ended = on_terminal::run(&mut attachment);
    // However opencode ended, its processes end here, and then the lease is released.
    let swept = attachment.end();
    let status = ended?;
    swept?;
    Ok(status)
}

/// The error for an `attach` without a terminal.
pub(super) fn no_terminal() -> CommandError {
    CommandError::usage(
        "attach needs a terminal on stdin and stdout",
        "print the command instead: kugetsu attach REF --print; over ssh, use: ssh -t",
    )
}

fn print(command: &kugetsu_engine::operations::AttachCommand, output: Output) {
    let mut shell = OsString::from("cd ");
    shell.push(quote(command.directory.as_os_str()));
    shell.push(" &&");
    for (name, value) in &command.environment {
        shell.push(" ");
        shell.push(name);
        shell.push("=");
        shell.push(quote(value));
    }
    for argument in
        std::iter::once(command.program.as_os_str()).chain(command.args.iter().map(OsString::as_os_str))
    {
        shell.push(" ");
        shell.push(quote(argument));
    }
    let text = |argument: &OsStr| argument.to_string_lossy().into_owned();
    if output.json {
        output.object(AttachOutput {
            directory: text(command.directory.as_os_str()),
            program: text(command.program.as_os_str()),
            environment: command
                .environment
                .iter()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
            arguments: command.args.iter().map(|argument| text(argument)).collect(),
            shell: text(&shell),
        });
    } else {
        output.text(text(&shell));
    }
}
