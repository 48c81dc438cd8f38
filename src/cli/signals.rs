//! Signals become wishes of the turn: the first one ends it, the second one at once.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};
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
    runtime.block_on(async {
        let (sender, receiver) = watch::channel(Interrupt::None);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_runtime)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(no_runtime)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(no_runtime)?;
        let mut first = None;
        let operation = operation(receiver);
        tokio::pin!(operation);
        loop {
            let (wish, status) = tokio::select! {
                result = &mut operation => return Ok((result, first)),
                _ = interrupt.recv() => (Interrupt::Interrupted, ExitStatus::Interrupted),
                _ = terminate.recv() => (Interrupt::Terminated, ExitStatus::Terminated),
                // A handler is there in any case, so a hang-up that is not listened to does nothing.
                _ = hangup.recv(), if !detached => (Interrupt::Terminated, ExitStatus::Terminated),
            };
            let wish = if first.is_some() { Interrupt::Now } else { wish };
            first.get_or_insert(status);
            let _ = sender.send(wish);
        }
    })
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn no_runtime(error: std::io::Error) -> CliError {
    CliError {
        status: ExitStatus::Failed,
        message: format!("the system gives no event loop or no signals: {error}"),
        hint: None,
    }
}
