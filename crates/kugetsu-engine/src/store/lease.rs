//! Leases: the exclusive right to run a turn on a session, or to write its record.

use std::time::Duration;

use super::lock::{Attempt, Lock};
use super::{Holder, LeaseError, RecordKey, Store, StoreError, lock};
use kugetsu_api::{Address, RepoRef};

/// The exclusive right to one session. Dropping the value, or the end of the process, releases it.
#[derive(Debug)]
pub struct Lease {
    key: RecordKey,
    home: std::path::PathBuf,
    holder: Holder,
    lock: Lock,
}

impl Lease {
    /// The key of the leased session or base.
    pub fn key(&self) -> &RecordKey {
        &self.key
    }

    /// The holder that the lease file names.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Sets whether programs started from now on hold the lease too. If they do, the lease lasts until the last of them
    /// has ended, even if this process is killed first.
    pub(crate) fn inherit(&mut self, yes: bool) -> std::io::Result<()> {
        self.lock.inherit(yes)
    }

    /// Changes the holder that the lease file names.
    pub(crate) fn name(&mut self, holder: Holder) {
        self.lock.name(&holder);
        self.holder = holder;
    }

    /// Fails unless the lease is for this key of this store.
    pub(crate) fn covers(&self, store: &Store, wanted: &RecordKey) -> Result<(), StoreError> {
        if self.key == *wanted && self.home == store.home() {
            return Ok(());
        }
        Err(StoreError::WrongLease {
            held: self.key.clone(),
            wanted: wanted.clone(),
        })
    }
}

impl Store {
    /// Takes the lease of a session. Without `wait`, fails at once if the lease is held.
    pub fn lease_session(
        &self,
        address: &Address,
        holder: Holder,
        wait: Option<Duration>,
    ) -> Result<Lease, LeaseError> {
        self.lease(address.into(), holder, wait)
    }

    /// Takes the lease of a repository's base.
    pub fn lease_base(
        &self,
        repo: &RepoRef,
        holder: Holder,
        wait: Option<Duration>,
    ) -> Result<Lease, LeaseError> {
        self.lease(repo.into(), holder, wait)
    }

    /// The current holder of a lease: `None` if it is free, `Some(None)` if the holder is unknown. Holds a lock only
    /// during the check.
    pub fn lease_holder(&self, key: &RecordKey) -> Option<Option<Holder>> {
        let path = self.run_path(key, ".lease");
        let file = std::fs::File::open(&path).ok()?;
        match file.try_lock_shared() {
            Err(std::fs::TryLockError::WouldBlock) => Some(lock::read_holder(&path)),
            Ok(()) => {
                // Closing the file may not release the lock at once; see `Drop` of `Lock`.
                let _ = file.unlock();
                None
            }
            Err(std::fs::TryLockError::Error(_)) => None,
        }
    }

    pub(crate) fn lease(
        &self,
        key: RecordKey,
        holder: Holder,
        wait: Option<Duration>,
    ) -> Result<Lease, LeaseError> {
        let path = self.run_path(&key, ".lease");
        self.create_run_folder_of(&path)?;
        match Lock::acquire(&path, &holder, wait.unwrap_or_default())? {
            Attempt::Taken(lock) => Ok(Lease {
                key,
                home: self.home().to_owned(),
                holder,
                lock,
            }),
            Attempt::Held(holder) => Err(LeaseError::Held { key, holder }),
        }
    }
}
