//! Tells when files grow, so that their readers need not look all the time.
//!
//! On Linux, the system tells (inotify). Elsewhere, and where the system cannot, a [`Watch`] tells nothing, so readers look
//! from time to time as well.

#[cfg(target_os = "linux")]
pub(crate) use inotify::Growth;
#[cfg(not(target_os = "linux"))]
pub(crate) use nothing::Growth;

#[cfg(not(target_os = "linux"))]
mod nothing {
    use std::path::Path;

    pub(crate) struct Growth;

    pub(crate) struct Watch;

    impl Growth {
        pub(crate) fn new() -> Self {
            Self
        }

        #[expect(clippy::unused_self, reason = "elsewhere it is used")]
        pub(crate) fn watch(&self, _: &Path) -> Watch {
            Watch
        }
    }

    impl Watch {
        #[expect(clippy::unused_self, reason = "elsewhere it is used")]
        pub(crate) async fn grown(&mut self) {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(target_os = "linux")]
mod inotify {
    use std::collections::HashMap;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
    use rustix::io::Errno;
    use tokio::sync::watch;

    /// The files that are watched. One watch serves all readers of a file.
    pub(crate) struct Growth(Option<Arc<Inner>>);

    struct Inner {
        inotify: OwnedFd,
        /// By the system's number of the watch.
        files: Mutex<HashMap<i32, watch::Sender<()>>>,
    }

    /// A file that is watched until this value is dropped.
    pub(crate) struct Watch(Option<Watched>);

    struct Watched {
        inner: Arc<Inner>,
        number: i32,
        grown: watch::Receiver<()>,
    }

    impl Growth {
        /// Starts a thread that waits for what the system tells, as long as the process lives.
        pub(crate) fn new() -> Self {
            let started = inotify::init(CreateFlags::CLOEXEC)
                .map_err(std::io::Error::from)
                .and_then(|inotify| {
                    let inner = Arc::new(Inner {
                        inotify,
                        files: Mutex::default(),
                    });
                    let listening = Arc::clone(&inner);
                    std::thread::Builder::new()
                        .name("growth".to_owned())
                        .spawn(move || listen(&listening))?;
                    Ok(inner)
                });
            match started {
                Ok(inner) => Self(Some(inner)),
                Err(error) => {
                    tracing::warn!(%error, "the system does not tell when files grow");
                    Self(None)
                }
            }
        }

        /// Watches a file. If it cannot be watched, the watch tells nothing.
        pub(crate) fn watch(&self, path: &Path) -> Watch {
            let watched = self.0.as_ref().and_then(|inner| {
                // Held meanwhile, so that nobody removes the watch that the system may give a second time.
                let mut files = inner.files();
                let flags = WatchFlags::MODIFY | WatchFlags::DONT_FOLLOW;
                let number = inotify::add_watch(&inner.inotify, path, flags).ok()?;
                let sender = files.entry(number).or_insert_with(|| watch::Sender::new(()));
                Some(Watched {
                    inner: Arc::clone(inner),
                    number,
                    grown: sender.subscribe(),
                })
            });
            Watch(watched)
        }
    }

    impl Inner {
        fn files(&self) -> MutexGuard<'_, HashMap<i32, watch::Sender<()>>> {
            self.files.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn tell(&self, number: i32) {
            if let Some(sender) = self.files().get(&number) {
                sender.send_replace(());
            }
        }

        fn tell_all(&self) {
            for sender in self.files().values() {
                sender.send_replace(());
            }
        }
    }

    impl Watch {
        /// Waits until the file has grown since the last time, or since the watch began.
        pub(crate) async fn grown(&mut self) {
            if let Some(watched) = &mut self.0
                && watched.grown.changed().await.is_ok()
            {
                return;
            }
            std::future::pending::<()>().await;
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            let mut files = self.inner.files();
            let is_last = files
                .get(&self.number)
                .is_some_and(|sender| sender.receiver_count() <= 1);
            if is_last {
                files.remove(&self.number);
                let _ = inotify::remove_watch(&self.inner.inotify, self.number);
            }
        }
    }

    /// Tells what the system tells. Blocks.
    fn listen(inner: &Inner) {
        let mut buffer = [MaybeUninit::uninit(); 4 << 10];
        let mut reader = inotify::Reader::new(&inner.inotify, &mut buffer);
        loop {
            match reader.next() {
                // Something was lost: whoever waits looks at its file itself.
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => inner.tell_all(),
                Ok(event) => inner.tell(event.wd()),
                Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "what the system tells of files cannot be read");
                    return;
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use std::time::Duration;

        use super::*;

        const SOON: Duration = Duration::from_secs(60);

        fn append(path: &Path) {
            use std::io::Write as _;
            let mut file = std::fs::File::options()
                .append(true)
                .create(true)
                .open(path)
                .unwrap();
            file.write_all(b"more").unwrap();
        }

        #[tokio::test]
        async fn all_readers_of_a_file_hear_that_it_has_grown() {
            let folder = tempfile::tempdir().unwrap();
            let (one, other) = (folder.path().join("one"), folder.path().join("other"));
            append(&one);
            append(&other);
            let growth = Growth::new();
            let mut readers = [growth.watch(&one), growth.watch(&one)];
            let mut of_other = growth.watch(&other);
            for _ in 0..3 {
                append(&one);
                for reader in &mut readers {
                    tokio::time::timeout(SOON, reader.grown()).await.unwrap();
                }
            }
            let [first, mut second] = readers;
            drop(first);
            append(&one);
            tokio::time::timeout(SOON, second.grown()).await.unwrap();
            let nothing = tokio::time::timeout(Duration::from_millis(20), of_other.grown()).await;
            assert!(nothing.is_err(), "the other file has not grown");
            drop((second, of_other));
            let inner = growth.0.as_ref().unwrap();
            assert!(inner.files().is_empty(), "nothing is watched that nobody reads");
        }

        #[tokio::test]
        async fn a_file_that_is_not_there_is_waited_for_in_vain() {
            let growth = Growth::new();
            let mut watch = growth.watch(Path::new("/nowhere/at/all"));
            let nothing = tokio::time::timeout(Duration::from_millis(20), watch.grown()).await;
            assert!(nothing.is_err());
        }
    }
}
