//! Leases: the exclusive right to run a turn on a session, or to write its record.

use std::time::Duration;

use super::lock::{Attempt, Lock};
use super::{Holder, LeaseError, RecordKey, Store, StoreError, lock};
use kugetsu_api::{Address, RepoRef};

/// The exclusive right to one session. Dropping it, or dying, gives it back.
#[derive(Debug)]
pub struct Lease {
    key: RecordKey,
    home: std::path::PathBuf,
    holder: Holder,
    lock: Lock,
}

impl Lease {
    /// What it is for.
    pub fn key(&self) -> &RecordKey {
        &self.key
    }

    /// Who took it.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Whether the programs that are started from now on hold it as well: then it lasts until the last of them has ended,
    /// even if this process is killed before.
    pub(crate) fn inherit(&mut self, yes: bool) -> std::io::Result<()> {
        self.lock.inherit(yes)
    }

    /// Names somebody else as its holder.
    pub(crate) fn name(&mut self, holder: Holder) {
        self.lock.name(&holder);
        self.holder = holder;
    }

    /// Refuses to be used for anything else.
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
    /// Takes the lease of an issue's session. Without `wait`, a lease that someone else holds is refused at once.
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

    /// Who holds a lease at the moment: `None` when nobody does. Takes no lock for longer than the look.
    pub fn lease_holder(&self, key: &RecordKey) -> Option<Option<Holder>> {
        let path = self.run_path(key, ".lease");
        let file = std::fs::File::open(&path).ok()?;
        match file.try_lock_shared() {
            Err(std::fs::TryLockError::WouldBlock) => Some(lock::read_holder(&path)),
            Ok(()) => {
                // Closing it may not give it back at once, as said where a lock is dropped.
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
        self.make_run_folder_of(&path)?;
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
