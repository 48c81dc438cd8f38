//! Locks: an open, locked file that says who holds it.
//!
//! The kernel drops the lock with its holder, so nothing is ever stale. A lock's file is never removed: whoever waits
//! on a removed file would hold a lock that nobody else sees.

use std::fs::{File, TryLockError};
use std::io::{Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use super::StoreError;
use crate::fsx;
use kugetsu_api::Holder;

/// How long a writer waits for a short lock.
pub(crate) const SHORT_WAIT: Duration = Duration::from_secs(10);

/// How long even an attempt without waiting goes on.
const PATIENCE: Duration = Duration::from_millis(30);

/// This process as a holder, from now on; `what` says what for, in a few words.
pub fn this_process(what: impl Into<String>) -> Holder {
    Holder {
        pid: std::process::id(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        since: Timestamp::now(),
        what: what.into(),
        turn: None,
    }
}

/// This process as a holder for one turn, from now on.
pub fn holder_of_turn(what: impl Into<String>, turn: Uuid) -> Holder {
    Holder {
        turn: Some(turn),
        ..this_process(what)
    }
}

/// A lock of the whole store. Dropping it releases it.
#[derive(Debug)]
pub struct Lock {
    pub(crate) file: File,
    /// Other processes hold it as well, and may hold it longer.
    shared: bool,
}

/// What came of an attempt.
pub(crate) enum Attempt {
    Taken(Lock),
    Held(Option<Holder>),
}

impl Lock {
    /// Takes the lock, or says within `wait` who holds it. The folder of `path` must be there.
    pub(crate) fn acquire(path: &Path, holder: &Holder, wait: Duration) -> Result<Attempt, StoreError> {
        // A look at a lock takes it for an instant, and whoever has just taken it has not written its name yet: a
        // lock is called held only after some attempts.
        let deadline = Instant::now() + wait.max(PATIENCE);
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(lock) = Self::try_once(path, holder)? {
                return Ok(Attempt::Taken(lock));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Attempt::Held(read_holder(path)));
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(25));
        }
    }

    fn try_once(path: &Path, holder: &Holder) -> Result<Option<Self>, StoreError> {
        let file = fsx::open_lock(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => {
                return Err(StoreError::Io {
                    action: "lock",
                    path: path.to_owned(),
                    source,
                });
            }
        }
        // Someone may have removed the file in between, against the rule: then this lock is worth nothing.
        let same = match (file.metadata(), std::fs::symlink_metadata(path)) {
            (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
            _ => false,
        };
        if !same {
            return Ok(None);
        }
        let mut lock = Self { file, shared: false };
        super::points::LEASE_LOCKED.pass();
        lock.name(holder);
        super::points::LEASE_WRITTEN.pass();
        Ok(Some(lock))
    }

    /// The lock belongs to the open file, which the processes that inherit it share (`flock(2)`).
    pub(crate) fn inherit(&mut self, yes: bool) -> std::io::Result<()> {
        use rustix::io::FdFlags;
        self.shared |= yes;
        let flags = if yes { FdFlags::empty() } else { FdFlags::CLOEXEC };
        Ok(rustix::io::fcntl_setfd(&self.file, flags)?)
    }

    /// Writes who holds it. A courtesy: on a full disk the lock is as good without it.
    pub(crate) fn name(&mut self, holder: &Holder) {
        let _ = (|| {
            let mut bytes = serde_json::to_vec(holder)?;
            bytes.push(b'\n');
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(&bytes)
        })();
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.shared {
            // Still locked here, so this is nobody else's name.
            let _ = self.file.set_len(0);
            // Closing the file is not enough: a program that another thread is just starting has it open as well, until it
            // is executed.
            let _ = self.file.unlock();
        }
    }
}

/// Who wrote its name into a lock's file; nothing when it cannot be read, or is half written.
pub(crate) fn read_holder(path: &Path) -> Option<Holder> {
    serde_json::from_slice(&fsx::read_bounded(path, 64 * 1024).ok()?).ok()
}

/// A timeout as an error.
pub(crate) fn timed_out(lock: PathBuf, waited: Duration, holder: Option<Holder>) -> StoreError {
    StoreError::LockTimeout { lock, waited, holder }
}
