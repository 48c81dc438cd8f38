//! The trash: sessions and bases that destroy and prune removed, until they expire.
//!
//! `trash/<time>-<id>/` holds the removed files and `entry.json`, which records their original places. `entry.json` is
//! written first. The move of the record decides: before it, the key still has its session; after it, the entry can be
//! restored. [`Store::check`](super::Store::check) finds what a crash interrupted, and `fix` finishes it or undoes it.
//! Every step happens under the index's lock.
//!
//! The folder of an issue also holds the sessions of its roles, which stay in place and may be running. The issue's own
//! files are therefore moved name by name, through `session.part`: while that folder exists, the move is incomplete.

mod entries;

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::encoding;
use super::{Lease, Lock, RecordKey, Store, StoreError, layout};
use crate::fsx::{self, FsError};
use kugetsu_api::{Address, BaseRecord, RepoRef, SCHEMA, TrashEntry, TrashId};

const ENTRY: &str = "entry.json";
const RECORD: &str = "record.json";
const MAX_ENTRY: u64 = 1 << 20;

/// The result of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The entry that it came from.
    pub entry: TrashEntry,
    /// The record, at its original place.
    pub record: PathBuf,
}

/// The files of one entry.
struct Place {
    folder: PathBuf,
    trashed_record: PathBuf,
    trashed_folder: PathBuf,
    partial_folder: PathBuf,
    record: PathBuf,
    session_folder: PathBuf,
}

/// The key of the removed record; `None` if the entry names neither a session nor a base.
pub(super) fn key_of(entry: &TrashEntry) -> Option<RecordKey> {
    match (&entry.address, &entry.repo) {
        (Some(address), _) => Some(address.into()),
        (None, Some(repo)) => Some(repo.into()),
        (None, None) => None,
    }
}

impl Place {
    fn of(entry: &TrashEntry, store: &Store) -> Option<Self> {
        let key = key_of(entry)?;
        let folder = store.trash_folder().join(entry.id.as_str());
        Some(Self {
            trashed_record: folder.join(RECORD),
            trashed_folder: folder.join("session"),
            partial_folder: folder.join("session.part"),
            record: store.record_path(&key),
            session_folder: store.folder(&key),
            folder,
        })
    }
}

/// An incomplete removal, left by a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfinished {
    /// The record was not moved: the key still has its session.
    NotBegun,
    /// The record was moved, the folder was not.
    FolderLeft,
}

impl Store {
    fn trash_folder(&self) -> PathBuf {
        self.home.join(layout::TRASH)
    }

    /// Moves a session's record and folder to the trash.
    pub fn trash_session(&self, lease: &Lease, address: &Address, why: &str) -> Result<TrashId, StoreError> {
        self.trash(lease, &address.into(), why)
    }

    /// Moves a base's record and folder to the trash.
    pub fn trash_base(&self, lease: &Lease, repo: &RepoRef, why: &str) -> Result<TrashId, StoreError> {
        self.trash(lease, &repo.into(), why)
    }

    /// Replaces a base by another one and puts a copy of the old record into the trash. At every moment, the repository
    /// has one of the two. The folder with the logs of both stays.
    pub fn replace_base(&self, lease: &Lease, record: &BaseRecord, why: &str) -> Result<TrashId, StoreError> {
        let key = RecordKey::from(&record.repo);
        lease.covers(self, &key)?;
        let lock = self.index_lock("replace a base")?;
        let entry = TrashEntry {
            folder: None,
            ..self.new_entry(&key, why)
        };
        let folder = self.trash_folder().join(entry.id.as_str());
        let copied = self.stage(&entry, &key, &folder).and_then(|()| {
            let old = fsx::read_bounded(&self.record_path(&key), MAX_ENTRY)?;
            Ok(fsx::write_atomic(&folder.join(RECORD), &old)?)
        });
        drop(lock);
        if let Err(error) = copied.and_then(|()| self.save_base(lease, record)) {
            // The old record is still there. Best effort: a leftover copy does no harm.
            let _ = fsx::remove_dir_all_durable(&folder);
            return Err(error);
        }
        Ok(entry.id)
    }

    /// The entries that can be restored, oldest first.
    pub fn trash_list(&self) -> Result<Vec<TrashEntry>, StoreError> {
        let entries = self.trash_entries()?;
        Ok(entries
            .into_iter()
            .filter(|entry| Place::of(entry, self).is_some_and(|place| exists(&place.trashed_record)))
            .collect())
    }

    /// Restores the newest entry of a session. Does not replace a session that was created at its address since.
    pub fn restore_session(&self, lease: &Lease, address: &Address) -> Result<Restored, StoreError> {
        self.restore(lease, &address.into())
    }

    /// Restores the newest entry of a base.
    pub fn restore_base(&self, lease: &Lease, repo: &RepoRef) -> Result<Restored, StoreError> {
        self.restore(lease, &repo.into())
    }

    /// Permanently removes entries older than this. Returns the removed entries.
    pub fn expire_trash(&self, older_than: Duration) -> Result<Vec<TrashEntry>, StoreError> {
        let _lock = self.index_lock("expire the trash")?;
        let expired = self.expired_trash(older_than)?;
        for entry in &expired {
            fsx::remove_dir_all_durable(&self.trash_folder().join(entry.id.as_str()))?;
        }
        Ok(expired)
    }

    /// The entries that are older than this.
    pub fn expired_trash(&self, older_than: Duration) -> Result<Vec<TrashEntry>, StoreError> {
        let now = Timestamp::now();
        let mut entries = self.trash_entries()?;
        entries.retain(|entry| {
            let age = Duration::try_from(now.duration_since(entry.when)).unwrap_or_default();
            age > older_than && self.unfinished(entry).is_none()
        });
        Ok(entries)
    }

    fn trash(&self, lease: &Lease, key: &RecordKey, why: &str) -> Result<TrashId, StoreError> {
        lease.covers(self, key)?;
        let lock = self.index_lock("move to the trash")?;
        let entry = self.new_entry(key, why);
        let id = entry.id.clone();
        let folder = self.trash_folder().join(id.as_str());
        let staged = self.stage(&entry, key, &folder);
        if let Err(error) = staged.and_then(|()| self.move_record_out(&entry)) {
            // Best effort, because `check` finds leftovers. A folder that still holds the record is never removed.
            if !exists(&folder.join(RECORD)) {
                let _ = fsx::remove_dir_all_durable(&folder);
            }
            return Err(error);
        }
        if let Some(place) = Place::of(&entry, self) {
            self.move_folder_out(&place)?;
        }
        self.remove_from_index(&lock, key)?;
        Ok(id)
    }

    fn new_entry(&self, key: &RecordKey, why: &str) -> TrashEntry {
        let when = Timestamp::now();
        let unique = uuid::Uuid::new_v4().simple().to_string();
        TrashEntry {
            schema: SCHEMA,
            id: TrashId::new(format!(
                "{}-{}",
                when.strftime("%Y%m%dT%H%M%S%.3fZ"),
                &unique[..8]
            )),
            address: if let RecordKey::Session(address) = key {
                Some(address.clone())
            } else {
                None
            },
            repo: if let RecordKey::Base(repo) = key {
                Some(repo.clone())
            } else {
                None
            },
            when,
            why: why.to_owned(),
            record: key.record(),
            folder: has_own(&self.folder(key)).then(|| key.folder()),
            restored: None,
        }
    }

    fn stage(&self, entry: &TrashEntry, key: &RecordKey, folder: &Path) -> Result<(), StoreError> {
        let file = folder.join(ENTRY);
        fsx::refuse_symlinks(&self.home, &self.record_path(key))?;
        self.make_folder_of(&file)?;
        fsx::write_atomic(&file, &encoding::encode(entry, &file)?)?;
        crate::store::points::TRASH_ENTRY_WRITTEN.pass();
        Ok(())
    }

    fn move_record_out(&self, entry: &TrashEntry) -> Result<(), StoreError> {
        let Some(place) = Place::of(entry, self) else {
            return Ok(());
        };
        fsx::rename_durable(&place.record, &place.trashed_record)?;
        crate::store::points::TRASH_RECORD_MOVED.pass();
        Ok(())
    }

    fn move_folder_out(&self, place: &Place) -> Result<(), StoreError> {
        let begun = exists(&place.partial_folder);
        if (begun || has_own(&place.session_folder)) && !exists(&place.trashed_folder) {
            fsx::refuse_symlinks(&self.home, &place.session_folder)?;
            self.move_own(&place.session_folder, &place.partial_folder)?;
            fsx::rename_durable(&place.partial_folder, &place.trashed_folder)?;
        }
        fsx::remove_empty_dir(&place.session_folder)?;
        crate::store::points::TRASH_FOLDER_MOVED.pass();
        Ok(())
    }

    /// Moves the contents of a session's folder, except the sessions of its roles.
    fn move_own(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        if exists(from) {
            fsx::move_entries(&self.home, from, to, layout::ROLES)?;
        }
        Ok(())
    }

    fn restore(&self, lease: &Lease, key: &RecordKey) -> Result<Restored, StoreError> {
        lease.covers(self, key)?;
        let lock = self.index_lock("restore from the trash")?;
        let newest = self
            .trash_list()?
            .into_iter()
            .rev()
            .find(|entry| key_of(entry).as_ref() == Some(key));
        let nothing = || StoreError::NotInTrash { key: key.clone() };
        let mut entry = newest.ok_or_else(nothing)?;
        let place = Place::of(&entry, self).ok_or_else(nothing)?;
        if exists(&place.record) {
            return Err(StoreError::Exists {
                key: key.clone(),
                path: place.record,
            });
        }
        // An earlier restore was interrupted: start again.
        if exists(&place.partial_folder) {
            self.finish_entry(&lock, &entry)?;
        }
        // This comes first, so that a crash after the record's move cannot make the entry look as if its removal never
        // began.
        entry.restored = Some(Timestamp::now());
        let file = place.folder.join(ENTRY);
        fsx::write_atomic(&file, &encoding::encode(&entry, &file)?)?;
        self.make_folder_of(&place.record)?;
        if exists(&place.trashed_folder) {
            fsx::refuse_symlinks(&self.home, &place.session_folder)?;
            if has_own(&place.session_folder) {
                // Logs of an attempt that never got a record stay with the entry.
                let aside = place
                    .folder
                    .join(format!("replaced-{}", Timestamp::now().as_millisecond()));
                self.move_own(&place.session_folder, &aside)?;
            }
            fsx::rename_durable(&place.trashed_folder, &place.partial_folder)?;
            self.move_own(&place.partial_folder, &place.session_folder)?;
            fsx::remove_empty_dir(&place.partial_folder)?;
        }
        crate::store::points::RESTORE_FOLDER_MOVED.pass();
        fsx::rename_durable(&place.trashed_record, &place.record)?;
        crate::store::points::RESTORE_RECORD_MOVED.pass();
        drop(lock);
        self.add_to_index(key)?;
        remove_if_empty(&place.folder)?;
        Ok(Restored {
            entry,
            record: place.record,
        })
    }

    /// Every entry that can be parsed, oldest first.
    pub(crate) fn trash_entries(&self) -> Result<Vec<TrashEntry>, StoreError> {
        let folder = self.trash_folder();
        fsx::refuse_symlinks(&self.home, &folder)?;
        let names = match std::fs::read_dir(&folder) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(FsError::Io {
                    action: "read the folder",
                    path: folder,
                    source,
                }
                .into());
            }
        };
        let mut entries: Vec<TrashEntry> = Vec::new();
        for name in names.filter_map(Result::ok).map(|found| found.file_name()) {
            let path = folder.join(&name).join(ENTRY);
            let parsed = fsx::refuse_symlinks(&self.home, &path)
                .and_then(|()| fsx::read_bounded(&path, MAX_ENTRY))
                .ok()
                .and_then(|bytes| serde_json::from_slice::<TrashEntry>(&bytes).ok());
            // The folder's name determines the paths of its files, so it must match the entry's id.
            if let Some(entry) = parsed.filter(|entry| name == entry.id.as_str()) {
                entries.push(entry);
            } else {
                tracing::warn!(path = %path.display(), "not an entry of the trash");
            }
        }
        entries.sort_by(|a, b| (a.when, &a.id).cmp(&(b.when, &b.id)));
        Ok(entries)
    }

    /// The incomplete removal that a crash left of an entry, if any.
    pub(crate) fn unfinished(&self, entry: &TrashEntry) -> Option<Unfinished> {
        let place = Place::of(entry, self)?;
        match (exists(&place.trashed_record), entry.restored) {
            (false, None) => Some(Unfinished::NotBegun),
            (true, _)
                if entry.folder.is_some()
                    && !exists(&place.trashed_folder)
                    && !exists(&place.record)
                    && (exists(&place.partial_folder) || has_own(&place.session_folder)) =>
            {
                Some(Unfinished::FolderLeft)
            }
            _ => None,
        }
    }

    /// Finishes or undoes an incomplete removal.
    pub(crate) fn finish_entry(&self, lock: &Lock, entry: &TrashEntry) -> Result<(), StoreError> {
        let Some(place) = Place::of(entry, self) else {
            return Ok(());
        };
        match self.unfinished(entry) {
            None => Ok(()),
            Some(Unfinished::NotBegun) => Ok(fsx::remove_dir_all_durable(&place.folder)?),
            Some(Unfinished::FolderLeft) => {
                self.move_folder_out(&place)?;
                if let Some(key) = key_of(entry) {
                    self.remove_from_index(lock, &key)?;
                }
                Ok(())
            }
        }
    }
}

/// Moves the folder of an earlier session after its record if a crash left it behind: a new session must not inherit
/// it.
pub(crate) fn finish_leftover(store: &Store, key: &RecordKey) -> Result<(), StoreError> {
    if exists(&store.folder(key)) {
        finish_moves(store, key)?;
    }
    Ok(())
}

/// Finishes or undoes every interrupted move of a key's folder.
fn finish_moves(store: &Store, key: &RecordKey) -> Result<(), StoreError> {
    let lock = store.index_lock("finish what was interrupted")?;
    for entry in store.trash_entries()? {
        if key_of(&entry).as_ref() == Some(key) && store.unfinished(&entry) == Some(Unfinished::FolderLeft) {
            store.finish_entry(&lock, &entry)?;
        }
    }
    Ok(())
}

/// Removes an entry that holds nothing but its own description.
fn remove_if_empty(folder: &Path) -> Result<(), StoreError> {
    let holds_more = std::fs::read_dir(folder)
        .map_err(|source| FsError::Io {
            action: "read the folder",
            path: folder.to_owned(),
            source,
        })?
        .filter_map(Result::ok)
        .any(|found| found.file_name() != ENTRY && !fsx::is_temp_name(&found.file_name()));
    if holds_more {
        Ok(())
    } else {
        Ok(fsx::remove_dir_all_durable(folder)?)
    }
}

/// Whether a session's folder holds more than the sessions of its roles. An unreadable folder counts as yes.
fn has_own(folder: &Path) -> bool {
    fsx::names_in(folder, layout::ROLES).map_or(true, |names| !names.is_empty())
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
