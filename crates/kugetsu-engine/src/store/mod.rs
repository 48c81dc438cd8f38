//! Records, index, locks, leases and trash: everything that kugetsu keeps below its home folder.
//!
//! Records are authoritative. The index can be rebuilt from them, and no reader needs it, because the path of a record
//! follows from its key alone. Readers take no lock, because every file is replaced as a whole. A record is written
//! only under its lease, and the index and the trash only under the index's lock, which is held for milliseconds.

mod cached;
mod check;
mod encoding;
mod error;
mod families;
mod index;
mod lasting_log;
mod layout;
mod lease;
mod listing;
mod lock;
mod owner;
mod records;
mod retention;
mod servers;
#[cfg(test)]
mod tests;
mod trash;
mod turns;

/// The crash points of the store.
pub(crate) mod points {
    crate::crash::crash_points! {
        LEASE_LOCKED = "lease_locked";
        LEASE_WRITTEN = "lease_written";
        RECORD_SAVED = "record_saved";
        INDEX_LOCKED = "index_locked";
        INDEX_SAVED = "index_saved";
        TRASH_ENTRY_WRITTEN = "trash_entry_written";
        TRASH_RECORD_MOVED = "trash_record_moved";
        TRASH_FOLDER_MOVED = "trash_folder_moved";
        RESTORE_FOLDER_MOVED = "restore_folder_moved";
        RESTORE_RECORD_MOVED = "restore_record_moved";
        LOG_COMPRESSED = "log_compressed";
    }
}

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::Access;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

pub(crate) use cached::RecordCache;
pub use check::{Finding, Fixed};
pub use encoding::record_text;
pub use error::{LeaseError, StoreError};
pub(crate) use families::{Member, TurnOf, WaitEntry};
pub use index::{Index, IndexReport};
pub use kugetsu_api::{Holder, TrashEntry, TrashId};
pub use lasting_log::LastingLog;
pub(crate) use layout::COMPARISON;
pub use layout::RecordKey;
pub use lease::Lease;
pub use listing::{Broken, Listing};
pub use lock::{Lock, holder_of_turn, this_process};
pub use owner::refuse_shared_home;
pub use retention::{Collected, Retention, Sizes};
pub(crate) use servers::{ServedTurn, ServerFolder};
pub use trash::Restored;

use crate::fsx::{self, FsError};
use lock::Attempt;

/// The size limit of a live turn's files.
const MAX_RUN: u64 = 1 << 20;

/// kugetsu's home folder. Creating and cloning this value is cheap: nothing is read or written before a method needs
/// it.
#[derive(Clone, Debug)]
pub struct Store {
    home: Arc<Path>,
    lock_wait: Duration,
}

impl Store {
    /// The store in this folder, which is created with the first written file.
    pub fn open(home: PathBuf) -> Self {
        Self {
            home: home.into(),
            lock_wait: lock::SHORT_WAIT,
        }
    }

    /// The same store with another time limit for waiting for the index's lock (default 10 s).
    #[must_use]
    pub fn with_lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// The home folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The path of a key's record.
    pub fn record_path(&self, key: &RecordKey) -> PathBuf {
        self.sessions().join(key.record())
    }

    /// The folder of a key's other files: turns and logs.
    pub fn folder(&self, key: &RecordKey) -> PathBuf {
        self.sessions().join(key.folder())
    }

    /// A file of a key's live turn, below `run/`: `.status.json`, `.lease`. The folder may not exist yet.
    pub fn run_path(&self, key: &RecordKey, ending: &str) -> PathBuf {
        self.home.join(layout::RUN).join(key.run(ending))
    }

    /// The folder of a key's other files, created if it does not exist.
    pub fn make_folder(&self, key: &RecordKey) -> Result<PathBuf, StoreError> {
        let folder = self.folder(key);
        fsx::create_dir_all_durable(&self.home, &folder)?;
        Ok(folder)
    }

    /// Opens a log in a key's folder for appending, such as `<turn>.events.jsonl`.
    pub fn open_log(&self, key: &RecordKey, name: &str) -> Result<File, StoreError> {
        let path = self.folder(key).join(name);
        self.make_folder_of(&path)?;
        Ok(fsx::create_append(&path)?)
    }

    /// Fails if the disk of `path` has no room left for a file that another program is about to write.
    pub fn refuse_full_disk(&self, path: &Path) -> Result<(), StoreError> {
        refuse_full(path.parent().unwrap_or(&self.home), path)
    }

    /// Fails if the store cannot be written. Checks permissions, and makes and removes an empty folder; if the store
    /// does not exist yet, in the folder in which it would be created.
    pub fn refuse_unwritable(&self) -> Result<(), StoreError> {
        let Some(home) = self.home.ancestors().find(|folder| folder.exists()) else {
            return Ok(());
        };
        let refused = |folder: &Path, source| FsError::Io {
            action: "write to",
            path: folder.to_owned(),
            source,
        };
        let below = [layout::SESSIONS, layout::RUN, layout::TRASH].map(|name| self.home.join(name));
        for folder in std::iter::once(home).chain(below.iter().map(PathBuf::as_path)) {
            match rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => Err(refused(folder, errno.into()))?,
            }
        }
        // Some file systems, such as that of `/proc`, refuse new entries although the permissions allow them.
        let probe = home.join(format!(".kugetsu-doctor-{}", std::process::id()));
        std::fs::create_dir(&probe)
            .and_then(|()| std::fs::remove_dir(&probe))
            .map_err(|source| refused(home, source))?;
        refuse_full(home, &self.home)
    }

    /// Replaces a file of a key's live turn, below `run/`.
    pub fn write_run(&self, key: &RecordKey, ending: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.run_path(key, ending);
        self.create_run_folder_of(&path)?;
        Ok(fsx::write_atomic_relaxed(&path, bytes)?)
    }

    /// Like [`Store::write_run`], without syncing, for files that are worthless after their writer's death, such as a
    /// heartbeat.
    pub fn write_run_volatile(&self, key: &RecordKey, ending: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.run_path(key, ending);
        if !path.parent().is_some_and(Path::is_dir) {
            self.make_folder_of(&path)?;
        }
        fsx::refuse_symlinks(&self.home, &path)?;
        Ok(fsx::write_atomic_volatile(&path, bytes)?)
    }

    /// Like [`Store::write_run`], for a journal that must survive a reboot, because the work that it describes in
    /// opencode does.
    pub fn write_journal(&self, key: &RecordKey, ending: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.run_path(key, ending);
        self.make_folder_of(&path)?;
        fsx::refuse_symlinks(&self.home, &path)?;
        Ok(fsx::write_atomic(&path, bytes)?)
    }

    /// Reads a file of a key's live turn, if it exists.
    pub fn read_run(&self, key: &RecordKey, ending: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.run_path(key, ending);
        fsx::refuse_symlinks(&self.home, &path)?;
        match fsx::read_bounded(&path, MAX_RUN) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads and removes a file of a key's live turn. Of several concurrent callers, one gets the file.
    pub fn take_run(&self, key: &RecordKey, ending: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.run_path(key, ending);
        fsx::refuse_symlinks(&self.home, &path)?;
        Ok(fsx::take(&path, MAX_RUN)?)
    }

    /// Removes a file of a key's live turn, if it exists.
    pub fn remove_run(&self, key: &RecordKey, ending: &str) -> Result<(), StoreError> {
        Ok(fsx::remove_file_durable(&self.run_path(key, ending))?)
    }

    /// The lock of a working folder, for the turns in it. Returns the `user` that its holder named if the lock is held.
    pub fn folder_lock(&self, folder: &Path, user: String) -> Result<Result<Lock, String>, StoreError> {
        let name = hex::encode(&Sha256::digest(folder.as_os_str().as_encoded_bytes())[..8]);
        let path = self.home.join(layout::RUN).join(format!("folder-{name}.lock"));
        self.create_run_folder_of(&path)?;
        Ok(match Lock::acquire(&path, &this_process(user), Duration::ZERO)? {
            Attempt::Taken(lock) => Ok(lock),
            Attempt::Held(holder) => {
                Err(holder.map_or_else(|| "an unknown session".to_owned(), |holder| holder.what))
            }
        })
    }

    /// The lock that allows one process at a time to change the settings. Makes the home if there is none.
    pub fn settings_lock(&self) -> Result<Lock, StoreError> {
        self.index_lock("config")
    }

    /// Replaces the file with the settings.
    pub fn write_settings(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        Ok(fsx::write_atomic(path, bytes)?)
    }

    fn index_lock(&self, what: &str) -> Result<Lock, StoreError> {
        let lock = self.lock("index.lock", what, self.lock_wait)?;
        points::INDEX_LOCKED.pass();
        Ok(lock)
    }

    fn lock(&self, name: &str, what: &str, wait: Duration) -> Result<Lock, StoreError> {
        let path = self.home.join(name);
        self.make_folder_of(&path)?;
        lock_file(path, what, wait)
    }

    fn sessions(&self) -> PathBuf {
        self.home.join(layout::SESSIONS)
    }

    fn make_folder_of(&self, path: &Path) -> Result<(), StoreError> {
        Ok(fsx::create_dir_all_durable(
            &self.home,
            path.parent().unwrap_or(&self.home),
        )?)
    }

    /// Creates the folder of live turns. Nothing in it except journals matters after a reboot, so this does not wait
    /// for the disk.
    fn create_run_folder_of(&self, path: &Path) -> Result<(), StoreError> {
        Ok(fsx::create_dir_all_volatile(
            &self.home,
            path.parent().unwrap_or(&self.home),
        )?)
    }

    /// Renames a file that cannot be parsed to `<name>.broken-<time>`, where nothing reads or replaces it. Returns the
    /// new path.
    pub fn quarantine(&self, path: &Path) -> Result<PathBuf, StoreError> {
        fsx::refuse_symlinks(&self.home, path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let time = Timestamp::now().strftime("%Y%m%dT%H%M%S%.6fZ");
        let aside = path.with_file_name(format!("{name}.broken-{time}"));
        fsx::rename_durable(path, &aside)?;
        tracing::warn!(from = %path.display(), to = %aside.display(), "moved a broken file aside");
        Ok(aside)
    }
}

fn refuse_full(folder: &Path, path: &Path) -> Result<(), StoreError> {
    match rustix::fs::statvfs(folder) {
        // Some file systems do not report their size.
        Ok(disk) if disk.f_blocks > 0 && disk.f_bavail == 0 => Err(StoreError::Full {
            path: path.to_owned(),
            source: std::io::ErrorKind::StorageFull.into(),
        }),
        _ => Ok(()),
    }
}

/// Takes the lock of a file, or says who has held it for all of the time.
fn lock_file(path: PathBuf, what: &str, wait: Duration) -> Result<Lock, StoreError> {
    match Lock::acquire(&path, &this_process(what), wait)? {
        Attempt::Taken(lock) => Ok(lock),
        Attempt::Held(holder) => Err(lock::timed_out(path, wait, holder)),
    }
}
