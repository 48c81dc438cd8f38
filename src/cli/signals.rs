//! Signals become wishes of the turn: the first one ends it, the second one at once.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::{CommandError, ExitStatus};
use kugetsu_api::ErrorCode;
use kugetsu_engine::turn::Interrupt;

/// Runs an operation that listens to signals. The status is that of the first signal, if one came. A detached one has no
/// terminal that could hang up, and goes on where somebody says so all the same.
///
/// What comes after the operation, such as printing or waiting for another turn, is ended by a signal as it would be
/// without a handler. One that comes in the operation's last moments, when it looks no more, is a wish that came too
/// late. For one operation of a process: a second one's signals would end it.
pub(super) fn with_signals<T, F: Future<Output = T>>(
    detached: bool,
    operation: impl FnOnce(watch::Receiver<Interrupt>) -> F,
) -> Result<(T, Option<ExitStatus>), CommandError> {
    let (sender, receiver) = watch::channel(Interrupt::None);
    let received = Arc::default();
    listen(detached, sender, Arc::clone(&received)).map_err(no_runtime)?;
    let runtime = event_loop().map_err(no_runtime)?;
    let result = runtime.block_on(async { operation(receiver).await });
    // What blocks, such as a hook that was interrupted, is not waited for.
    runtime.shutdown_background();
    let mut received = locked(&received);
    received.over = true;
    Ok((result, received.first))
}

/// What has been heard during the operation.
#[derive(Default)]
struct ReceivedSignal {
    /// The status of the first signal that came.
    first: Option<ExitStatus>,
    /// The operation is over: a signal is no wish any more, it ends the process.
    over: bool,
}

/// Listens from now until the process ends, on a thread of its own: whatever the others do, a signal is heard.
fn listen(
    detached: bool,
    sender: watch::Sender<Interrupt>,
    received: Arc<Mutex<ReceivedSignal>>,
) -> std::io::Result<()> {
    let runtime = event_loop()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::listen(detached)?
    };
    let hear = move || {
        loop {
            let (wish, status) = runtime.block_on(signals.next());
            let mut received = locked(&received);
            if received.over {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "what a signal does where nobody handles it"
                )]
                std::process::exit(status.code().into());
            }
            let wish = if received.first.is_some() {
                Interrupt::Now
            } else {
                wish
            };
            received.first.get_or_insert(status);
            let _ = sender.send(wish);
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(hear)
        .map(drop)
}

pub(super) fn event_loop() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn locked(received: &Mutex<ReceivedSignal>) -> MutexGuard<'_, ReceivedSignal> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
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

fn no_runtime(error: std::io::Error) -> CommandError {
    CommandError::new(
        ErrorCode::System,
        "the system gives no event loop, no thread or no signals",
    )
    .caused_by(error)
}
