//! `kugetsu attach`: opencode's own terminal interface on a session.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::os::unix::process::ExitStatusExt as _;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::complete::References;
use super::context::Context;
use super::output::Output;
use super::{CommandError, Outcome};
use crate::ssh::quote;
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::AttachOutput;
use kugetsu_engine::operations::{Attachment, EngineError};

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// The address of the session, such as 14 or owner/repo#14
    #[arg(value_name = "REF", add = ArgValueCompleter::new(References))]
    reference: String,

    /// Print the shell command instead of running it; takes no lease
    #[arg(long)]
    print: bool,
}

pub(super) fn run(args: &AttachArgs, context: &Context, output: Output) -> Outcome {
    let address = context.address(&args.reference)?;
    let engine = &context.engine;
    if args.print {
        let command = engine.attach_command(&address)?;
        print(&command, output);
        return Ok(ExitStatus::Ok);
    }
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return Err(no_terminal());
    }
    let mut attachment = engine.attach(&address)?;
    let ended = run_on_terminal(&mut attachment);
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
            arguments: command.args.iter().map(|argument| text(argument)).collect(),
            shell: text(&shell),
        });
    } else {
        output.text(text(&shell));
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run_on_terminal(attachment: &mut Attachment) -> Outcome {
    let failed = |error| CommandError::from(EngineError::Attach(error));
    // The handlers are installed before opencode starts. The terminal sends its signals to opencode as well, which
    // decides what they mean. kugetsu stays to hold the lease.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut quit = signal(SignalKind::quit()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let mut child = attachment.start().map_err(failed)?;
    let mut signalled = None;
    loop {
        let number = tokio::select! {
            status = child.wait() => {
                let status = status.map_err(failed)?;
                return Ok(match (signalled, status.code(), status.signal()) {
                    (Some(signalled), _, _) => signalled,
                    (None, Some(0), _) => ExitStatus::Ok,
                    (None, _, Some(2)) => ExitStatus::Interrupted,
                    (None, _, _) => ExitStatus::Failed,
                });
            }
            _ = interrupt.recv() => continue,
            _ = quit.recv() => continue,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
        };
        // A second signal does not wait for opencode.
        let number = if signalled.is_some() { Signal::KILL } else { number };
        signalled = Some(ExitStatus::Terminated);
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, number);
        }
    }
}
