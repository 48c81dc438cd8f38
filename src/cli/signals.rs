//! Turns signals into interrupts of the operation: the first signal ends the operation in order, the second one by force.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::{CommandError, ExitStatus};
use kugetsu_api::ErrorCode;
use kugetsu_engine::turn::Interrupt;

/// Runs an operation that signals interrupt. Returns the status of the first signal, if one came. A detached operation
/// ignores SIGHUP, because it has no terminal that could hang up.
///
/// A second signal ends the operation by force, and a third one the process: something that cannot be interrupted hangs.
///
/// After the operation, while its result is printed for instance, a signal ends the process as it would without a handler.
/// A signal in the operation's last moments, when nothing looks for interrupts any more, has no effect. A process may call
/// this for one operation only: signals would end the process during a second one.
pub(super) fn with_signals<T>(
    detached: bool,
    operation: impl AsyncFnOnce(watch::Receiver<Interrupt>) -> T,
) -> Result<(T, Option<ExitStatus>), CommandError> {
    let (sender, receiver) = watch::channel(Interrupt::None);
    let received = Arc::default();
    listen(detached, sender, Arc::clone(&received)).map_err(no_runtime)?;
    take_over();
    let runtime = event_loop().map_err(no_runtime)?;
    let result = runtime.block_on(operation(receiver));
    // Does not wait for blocking work that an interrupt has abandoned.
    runtime.shutdown_background();
    let mut received = locked(&received);
    received.over = true;
    Ok((result, received.first))
}

/// What signals do before an operation handles them, while a person works on a draft.
struct Drafting {
    is_listening: bool,
    /// An editor runs, for which Ctrl-C is meant.
    edits: bool,
    /// Tells the thread that listens that the editor has ended. The thread drops what it receives when it has dealt with
    /// the signals until then.
    editor_ended: Option<mpsc::UnboundedSender<Settling>>,
    /// What to do before a signal ends this process.
    last_words: Option<Box<dyn FnOnce() + Send>>,
    /// An operation handles the signals from now on.
    taken_over: bool,
}

/// The thread that waits for the end of this value's life goes on after it.
type Settling = std::sync::mpsc::Sender<()>;

static DRAFTING: Mutex<Drafting> = Mutex::new(Drafting {
    is_listening: false,
    edits: false,
    editor_ended: None,
    last_words: None,
    taken_over: false,
});

/// While this exists, a signal that ends the process says where the draft is.
#[derive(Debug)]
pub(super) struct LastWords(());

impl LastWords {
    pub(super) fn new(words: impl FnOnce() + Send + 'static) -> Result<Self, CommandError> {
        let was_listening = {
            let mut drafting = locked(&DRAFTING);
            drafting.last_words = Some(Box::new(words));
            std::mem::replace(&mut drafting.is_listening, true)
        };
        if !was_listening {
            listen_while_drafting().map_err(no_runtime)?;
        }
        Ok(Self(()))
    }

    /// Runs an editor. Meanwhile, Ctrl-C is for the editor alone.
    pub(super) fn during<T>(&self, editor: impl FnOnce() -> T) -> T {
        locked(&DRAFTING).edits = true;
        let result = editor();
        // A Ctrl-C that has ended the editor may still be on its way to this process.
        let listener = locked(&DRAFTING).editor_ended.clone();
        let (settling, settled) = std::sync::mpsc::channel();
        if listener.is_some_and(|listener| listener.send(settling).is_ok()) {
            let _ = settled.recv();
        }
        locked(&DRAFTING).edits = false;
        result
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        locked(&DRAFTING).last_words = None;
    }
}

/// Says that an operation handles the signals from now on.
pub(super) fn take_over() {
    locked(&DRAFTING).taken_over = true;
}

fn listen_while_drafting() -> std::io::Result<()> {
    let runtime = event_loop()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::listen(false)?
    };
    let (sender, mut editor_ended) = mpsc::unbounded_channel();
    locked(&DRAFTING).editor_ended = Some(sender);
    let listen = async move {
        let mut settling: Option<Settling> = None;
        loop {
            let next = tokio::select! {
                biased;
                next = signals.next() => Some(next),
                ended = editor_ended.recv(), if settling.is_none() => {
                    settling = ended;
                    // The signals that have come are looked for once more.
                    tokio::task::yield_now().await;
                    continue;
                }
                () = std::future::ready(()), if settling.is_some() => None,
            };
            let mut drafting = locked(&DRAFTING);
            let Some((interrupt, status)) = next else {
                drafting.edits = false;
                settling = None;
                continue;
            };
            if drafting.taken_over {
                return;
            }
            if drafting.edits && interrupt == Interrupt::Interrupted {
                continue;
            }
            if let Some(last_words) = drafting.last_words.take() {
                last_words();
            }
            end_process(status);
        }
    };
    let listen = move || runtime.block_on(listen);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(listen)
        .map(drop)
}

/// Lets the first signal run this function and then end the process, as it would without a handler.
pub(super) fn before_death(tidy_up: impl FnOnce() + Send + 'static) -> Result<(), CommandError> {
    let runtime = event_loop().map_err(no_runtime)?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::listen(false).map_err(no_runtime)?
    };
    let listen = move || {
        let (_, status) = runtime.block_on(signals.next());
        tidy_up();
        end_process(status);
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(listen)
        .map(drop)
        .map_err(no_runtime)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a signal ends the process here, as it would without a handler"
)]
fn end_process(status: ExitStatus) -> ! {
    std::process::exit(status.code().into())
}

/// The signals that arrived during the operation.
#[derive(Default)]
struct ReceivedSignals {
    /// The status of the first signal.
    first: Option<ExitStatus>,
    /// How many came.
    count: u32,
    /// The operation is over, so a signal ends the process.
    over: bool,
    /// The newest one, and when it came.
    newest: Option<(ExitStatus, Instant)>,
}

/// The time within which a signal that comes again is the same one. `timeout` signals its program and then its process
/// group, and a wrapper may pass on what the terminal has sent already.
const ECHO: Duration = Duration::from_millis(100);

impl ReceivedSignals {
    /// Notes a signal. Whether it is the one before it once more.
    fn is_echo(&mut self, status: ExitStatus) -> bool {
        let now = Instant::now();
        let before = self.newest.replace((status, now));
        before.is_some_and(|(before, at)| before == status && now.duration_since(at) < ECHO)
    }
}

/// Listens until the process ends, on a thread of its own that no work of another thread can delay.
fn listen(
    detached: bool,
    sender: watch::Sender<Interrupt>,
    received: Arc<Mutex<ReceivedSignals>>,
) -> std::io::Result<()> {
    let runtime = event_loop()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals::listen(detached)?
    };
    let listen = move || {
        loop {
            let (interrupt, status) = runtime.block_on(signals.next());
            let mut received = locked(&received);
            if received.is_echo(status) {
                continue;
            }
            // The guards of this process end what it has started, and the next command finds what it was doing.
            if received.over || received.count >= 2 {
                end_process(status);
            }
            let interrupt = if received.first.is_some() {
                Interrupt::Now
            } else {
                interrupt
            };
            received.first.get_or_insert(status);
            received.count += 1;
            let _ = sender.send(interrupt);
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(listen)
        .map(drop)
}

/// An event loop with a thread for blocking work, which stays: without any, tokio panics where the system starts no
/// thread, and with one, work waits for its turn.
pub(super) fn event_loop() -> std::io::Result<tokio::runtime::Runtime> {
    // tokio panics if this fails later; it reports nothing itself.
    let probe = std::thread::Builder::new().spawn(|| ())?;
    let _ = probe.join();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(FOR_EVER)
        .build()?;
    runtime.spawn_blocking(|| ());
    Ok(runtime)
}

/// Longer than any command runs.
const FOR_EVER: Duration = Duration::from_hours(24 * 365);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signals with which a person or another program ends kugetsu.
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
            // The handler is always installed, so a hang-up that is not listened to has no effect.
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

pub(super) fn no_runtime(error: std::io::Error) -> CommandError {
    CommandError::new(
        ErrorCode::System,
        "the system provides no event loop, thread or signal handler",
    )
    .caused_by(error)
}
