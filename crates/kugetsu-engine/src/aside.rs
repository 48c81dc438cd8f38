//! Blocking work (SQLite, locks, fsync, git) off the event loop, which must never wait for a disk.

/// Runs blocking work on the blocking pool and waits for it. Propagates a panic. If this future is dropped, the work
/// still continues to its end, and holds everything that it owns, such as a lease, until then.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and drops this future at its next await.
            Err(_) => std::future::pending().await,
        },
    }
}
