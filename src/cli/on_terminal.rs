//! Programs that a person uses on this terminal, such as opencode's own interface or a pager.

use std::os::unix::process::ExitStatusExt as _;

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::signals::{event_loop, no_runtime};
use super::{CommandError, Outcome};
use kugetsu_api::exit::ExitStatus;
use kugetsu_engine::operations::EngineError;
use kugetsu_engine::turn::Interrupt;

/// A program that takes over the terminal.
pub(super) trait Foreground {
    /// Starts the program. An interrupt ends the preparations.
    async fn start(
        &mut self,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<tokio::process::Child, EngineError>;
}

/// Runs the program to its end. The exit status follows from the program's own.
pub(super) fn run(program: &mut impl Foreground) -> Outcome {
    let runtime = event_loop().map_err(no_runtime)?;
    let outcome = runtime.block_on(to_its_end(program));
    // Does not wait for blocking work that an interrupt has abandoned.
    runtime.shutdown_background();
    outcome
}

async fn to_its_end(program: &mut impl Foreground) -> Outcome {
    let failed = |error| CommandError::from(EngineError::Attach(error));
    // The handlers are installed before the program starts. The terminal sends its signals to the program as well,
    // which decides what they mean. kugetsu stays to clean up after it.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut quit = signal(SignalKind::quit()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let mut child = {
        let (sender, receiver) = watch::channel(Interrupt::None);
        let mut started = std::pin::pin!(program.start(receiver));
        loop {
            let came = tokio::select! {
                started = &mut started => break started?,
                _ = interrupt.recv() => Interrupt::Interrupted,
                _ = quit.recv() => Interrupt::Terminated,
                _ = terminate.recv() => Interrupt::Terminated,
                _ = hangup.recv() => Interrupt::Terminated,
            };
            let is_first = *sender.borrow() == Interrupt::None;
            let _ = sender.send(if is_first { came } else { Interrupt::Now });
        }
    };
    let mut signalled = None;
    loop {
        let number = tokio::select! {
            status = child.wait() => {
                let status = status.map_err(failed)?;
                return Ok(match (signalled, status.code(), status.signal()) {
                    (Some(signalled), _, _) => signalled,
                    (None, Some(0), _) => ExitStatus::Ok,
                    (None, _, Some(2)) => ExitStatus::Interrupted,
                    // The reader of its output, such as a pager, was closed early.
                    (None, _, Some(13)) => ExitStatus::Ok,
                    (None, _, _) => ExitStatus::Failed,
                });
            }
            _ = interrupt.recv() => continue,
            _ = quit.recv() => continue,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
        };
        // A second signal does not wait for the program.
        let number = if signalled.is_some() { Signal::KILL } else { number };
        signalled = Some(ExitStatus::Terminated);
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, number);
        }
    }
}
