//! Reads entries of the trash before they are restored.

use std::path::PathBuf;

use super::TrashEntry;
use crate::fsx;
use crate::store::encoding::MAX_RECORD;
use crate::store::{Lease, RecordKey, Store, StoreError, layout};
use kugetsu_api::{BaseRecord, SessionId, SessionRecord};

impl Store {
    /// Moves the folder of a removed session after its record if a crash came between the two moves.
    pub fn finish_removal(&self, lease: &Lease) -> Result<(), StoreError> {
        // An interrupted restore leaves a folder in the trash without its record.
        super::finish_moves(self, lease.key())
    }

    /// The newest entry of a key that can be restored.
    pub fn newest_trashed(&self, key: &RecordKey) -> Result<TrashEntry, StoreError> {
        self.trash_list()?
            .into_iter()
            .rev()
            .find(|entry| super::key_of(entry).as_ref() == Some(key))
            .ok_or_else(|| StoreError::NotInTrash { key: key.clone() })
    }

    /// The path of a file in an entry's session folder.
    pub fn trashed_file(&self, entry: &TrashEntry, name: &str) -> PathBuf {
        self.trashed(entry).join("session").join(name)
    }

    /// The session's record in an entry.
    pub fn trashed_session(&self, entry: &TrashEntry) -> Result<SessionRecord, StoreError> {
        let path = self.trashed(entry).join("record.json");
        let bytes = fsx::read_bounded(&path, MAX_RECORD)?;
        serde_json::from_slice(&bytes).map_err(|error| StoreError::broken(&path, error.to_string()))
    }

    /// The base's record in an entry.
    pub fn trashed_base(&self, entry: &TrashEntry) -> Result<BaseRecord, StoreError> {
        let path = self.trashed(entry).join("record.json");
        let bytes = fsx::read_bounded(&path, MAX_RECORD)?;
        serde_json::from_slice(&bytes).map_err(|error| StoreError::broken(&path, error.to_string()))
    }

    /// The opencode sessions of all bases in the trash.
    pub fn trashed_base_sessions(&self) -> Result<Vec<SessionId>, StoreError> {
        let entries = self.trash_list()?;
        Ok(entries
            .iter()
            .filter(|entry| entry.repo.is_some())
            .filter_map(|entry| fsx::read_bounded(&self.trashed(entry).join("record.json"), MAX_RECORD).ok())
            .filter_map(|bytes| serde_json::from_slice::<BaseRecord>(&bytes).ok())
            .map(|base| base.session)
            .collect())
    }

    fn trashed(&self, entry: &TrashEntry) -> PathBuf {
        self.home().join(layout::TRASH).join(entry.id.to_string())
    }
}
