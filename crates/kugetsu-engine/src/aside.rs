//! Blocking work (SQLite, locks, fsync, git) beside an event loop, which must never wait for a disk.

/// Runs blocking work on the blocking pool and waits for it. A panic there goes on here. Where this future is dropped, the
/// work goes on to its end all the same: whatever it holds, such as a lease, is held until then.
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
