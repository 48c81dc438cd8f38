//! Signals become wishes of the turn: the first one ends it, the second one at once.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::{CliError, ExitStatus};
use crate::turn::Interrupt;

/// Runs an operation that listens to signals. The status is that of the first signal, if one came. A detached one has no
/// terminal that could hang up, and goes on where somebody says so all the same.
pub(super) fn with_signals<T, F: Future<Output = T>>(
    detached: bool,
    operation: impl FnOnce(watch::Receiver<Interrupt>) -> F,
) -> Result<(T, Option<ExitStatus>), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(no_runtime)?;
    let (result, first, mut signals) = runtime.block_on(async {
        let (sender, receiver) = watch::channel(Interrupt::None);
        let mut signals = Signals::listen(detached).map_err(no_runtime)?;
        let mut first = None;
        let operation = operation(receiver);
        tokio::pin!(operation);
        loop {
            let (wish, status) = tokio::select! {
                result = &mut operation => return Ok::<_, CliError>((result, first, signals)),
                next = signals.next() => next,
            };
            let wish = if first.is_some() { Interrupt::Now } else { wish };
            first.get_or_insert(status);
            let _ = sender.send(wish);
        }
    })?;
    // The handlers stay for as long as the process, and somebody must listen: what comes after the operation, such as
    // printing or waiting for another turn, is ended as it would be without a handler.
    #[expect(
        clippy::disallowed_methods,
        reason = "what a signal does where nobody handles it"
    )]
    let _ = std::thread::Builder::new().spawn(move || {
        let (_, status) = runtime.block_on(signals.next());
        std::process::exit(status.code().into());
    });
    Ok((result, first))
}

/// The signals that a person, or another program, ends us with.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    detached: bool,
}

impl Signals {
    fn listen(detached: bool) -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            // A handler is there in any case, so a hang-up that is not listened to does nothing.
            hangup: signal(SignalKind::hangup())?,
            detached,
        })
    }

    async fn next(&mut self) -> (Interrupt, ExitStatus) {
        tokio::select! {
            _ = self.interrupt.recv() => (Interrupt::Interrupted, ExitStatus::Interrupted),
            _ = self.terminate.recv() => (Interrupt::Terminated, ExitStatus::Terminated),
            _ = self.hangup.recv(), if !self.detached => (Interrupt::Terminated, ExitStatus::Terminated),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn no_runtime(error: std::io::Error) -> CliError {
    CliError {
        status: ExitStatus::Failed,
        message: format!("the system gives no event loop or no signals: {error}"),
        hint: None,
    }
}
