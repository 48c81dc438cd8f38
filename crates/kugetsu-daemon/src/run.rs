//! Runs a daemon as the only purpose of a process: its signals, its service manager, and its end.

use std::time::{Duration, Instant};

use kugetsu_engine::settings::Settings;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{Daemon, DaemonError, DaemonOptions, Ended, Handle};

/// The threads of the event loop. Blocking work has threads of its own.
const THREADS: usize = 2;
/// How often the daemon checks if it has had no work for long enough.
const IDLE_POLL: Duration = Duration::from_millis(200);

/// Runs a daemon until a signal or a request ends it. `reload` reads the settings again, for SIGHUP.
pub fn run(
    options: DaemonOptions,
    reload: impl Fn() -> Result<Settings, String> + Send + 'static,
) -> Result<Ended, DaemonError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(DaemonError::System)?;
    let idle = options.idle;
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::System)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::System)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(DaemonError::System)?;
        let daemon = Daemon::open(options)?;
        let handle = daemon.handle();
        let (listen, metrics) = (daemon.url(), daemon.metrics_url());
        tracing::info!(pid = std::process::id(), listen, metrics, "the daemon runs");
        let running = tokio::spawn(daemon.run());
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let resting = tokio::spawn(end_when_idle(handle.clone(), idle));
        tokio::pin!(running);
        let ended = loop {
            tokio::select! {
                ended = &mut running => break ended,
                _ = terminate.recv() => stop(&handle),
                _ = interrupt.recv() => stop(&handle),
                _ = hangup.recv() => match reload() {
                    Ok(settings) => {
                        handle.reload(settings).await;
                        tracing::info!("the settings were read again");
                    }
                    Err(problem) => tracing::error!(problem, "the settings stay as they were"),
                },
            }
        };
        resting.abort();
        match ended {
            Ok(ended) => ended,
            Err(error) => Err(DaemonError::Api(std::io::Error::other(error))),
        }
    })?;
    // Does not wait for blocking work that nobody needs.
    runtime.shutdown_background();
    tracing::info!("the daemon has ended");
    Ok(ended)
}

fn stop(handle: &Handle) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    handle.stop(false);
}

async fn end_when_idle(handle: Handle, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return;
    };
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(IDLE_POLL).await;
        if handle.is_busy() {
            since = Instant::now();
        } else if since.elapsed() >= limit {
            tracing::info!(seconds = limit.as_secs(), "the daemon has had no work, and ends");
            handle.stop(true);
            return;
        }
    }
}
