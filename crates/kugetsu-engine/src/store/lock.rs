//! Locks: open, locked files that name their holder.
//!
//! The kernel releases the lock when its holder ends, so a lock is never stale. A lock's file is never removed: a
//! process that waits on a removed file would hold a lock that no other process sees.

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

/// The shortest duration of an attempt, even of one that does not wait.
const MIN_ATTEMPT: Duration = Duration::from_millis(30);

/// This process as a holder, from now on; `what` names the purpose in a few words.
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

/// A locked file that names its holder. Dropping it releases the lock.
#[derive(Debug)]
pub struct Lock {
    pub(crate) file: File,
    /// True once child processes may have inherited the lock; they may hold it longer than this process.
    shared: bool,
}

/// The result of an attempt.
pub(crate) enum Attempt {
    Taken(Lock),
    Held(Option<Holder>),
}

impl Lock {
    /// Takes the lock, or returns its holder after `wait`. The folder of `path` must exist.
    pub(crate) fn acquire(path: &Path, holder: &Holder, wait: Duration) -> Result<Attempt, StoreError> {
        // A check of a lock takes the lock for an instant, and a process that has just taken it has not written its
        // name yet. So a lock counts as held only after several attempts.
        let deadline = Instant::now() + wait.max(MIN_ATTEMPT);
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
        // If another process has removed the file in between, against the rule, this lock protects nothing.
        let same_file = match (file.metadata(), std::fs::symlink_metadata(path)) {
            (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
            _ => false,
        };
        if !same_file {
            return Ok(None);
        }
        let mut lock = Self { file, shared: false };
        super::points::LEASE_LOCKED.pass();
        lock.name(holder);
        super::points::LEASE_WRITTEN.pass();
        Ok(Some(lock))
    }

    /// Sets whether child processes inherit the lock. The lock belongs to the open file, and the child processes share
    /// that file (`flock(2)`).
    pub(crate) fn inherit(&mut self, yes: bool) -> std::io::Result<()> {
        use rustix::io::FdFlags;
        self.shared |= yes;
        let flags = if yes { FdFlags::empty() } else { FdFlags::CLOEXEC };
        Ok(rustix::io::fcntl_setfd(&self.file, flags)?)
    }

    /// Writes the holder's name into the file. Ignores a failure, for example on a full disk, because the lock works
    /// without the name.
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
            // The file is still locked, so the name in it is this holder's.
            let _ = self.file.set_len(0);
            // Closing the file is not enough: a program that another thread is just starting also has the file open
            // until the program is executed.
            let _ = self.file.unlock();
        }
    }
}

/// The holder named in a lock's file; `None` if the name cannot be read or is half written.
pub(crate) fn read_holder(path: &Path) -> Option<Holder> {
    serde_json::from_slice(&fsx::read_bounded(path, 64 * 1024).ok()?).ok()
}

/// The error for a timeout.
pub(crate) fn timed_out(lock: PathBuf, waited: Duration, holder: Option<Holder>) -> StoreError {
    StoreError::LockTimeout { lock, waited, holder }
}
