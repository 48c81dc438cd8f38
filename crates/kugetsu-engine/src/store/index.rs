//! The index: a list of all records, and the default base. It serves other programs and people. kugetsu itself needs
//! only the default base, and finds that without the index as well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::listing::Folder;
use super::records::Probe;
use super::{Lock, RecordKey, Store, StoreError, layout};
use crate::fsx;
use kugetsu_api::{Address, RepoRef, SCHEMA};

/// Enough for a million entries.
const MAX_INDEX: u64 = 512 << 20;

/// The content of `index.json`. Files are relative to `sessions/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The schema of this file.
    pub schema: u32,
    /// The file of the default base.
    pub base: Option<String>,
    /// The file of every base, by its repository.
    #[serde(default)]
    pub bases: BTreeMap<String, String>,
    /// The file of every session whose address is an issue, by its address.
    #[serde(default)]
    pub issues: BTreeMap<String, String>,
    /// The file of every other session (roles of issues, sessions without an issue), by its address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sessions: BTreeMap<String, String>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            base: None,
            bases: BTreeMap::new(),
            issues: BTreeMap::new(),
            sessions: BTreeMap::new(),
        }
    }
}

/// The result of [`Store::rebuild_index`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IndexReport {
    /// The number of bases.
    pub bases: usize,
    /// The number of sessions whose address is an issue.
    pub issues: usize,
    /// The number of other sessions (roles of issues, sessions without an issue).
    pub sessions: usize,
    /// Records that were missing from the index.
    pub added: Vec<String>,
    /// Entries whose record is gone.
    pub dropped: Vec<String>,
    /// The new path of the old index, if it could not be parsed.
    pub moved_aside: Option<PathBuf>,
}

/// The index on disk.
pub(crate) enum OnDisk {
    Missing,
    Good(Index),
    Bad(StoreError),
}

impl Index {
    fn entries(&self) -> impl Iterator<Item = (&String, &String)> {
        self.bases.iter().chain(&self.issues).chain(&self.sessions)
    }

    /// The name and the file of a key's entry.
    pub(crate) fn entry(key: &RecordKey) -> (String, String) {
        let name = match key {
            RecordKey::Base(repo) => repo.to_string(),
            RecordKey::Session(address) => address.to_string(),
        };
        (name, key.record().to_string_lossy().into_owned())
    }

    pub(crate) fn map(&self, key: &RecordKey) -> &BTreeMap<String, String> {
        match key {
            RecordKey::Base(_) => &self.bases,
            RecordKey::Session(Address::Issue(_)) => &self.issues,
            RecordKey::Session(_) => &self.sessions,
        }
    }

    pub(crate) fn map_mut(&mut self, key: &RecordKey) -> &mut BTreeMap<String, String> {
        match key {
            RecordKey::Base(_) => &mut self.bases,
            RecordKey::Session(Address::Issue(_)) => &mut self.issues,
            RecordKey::Session(_) => &mut self.sessions,
        }
    }
}

impl Store {
    /// The index; empty if there is none yet.
    pub fn index(&self) -> Result<Index, StoreError> {
        match self.index_on_disk()? {
            OnDisk::Missing => Ok(Index::default()),
            OnDisk::Good(index) => Ok(index),
            OnDisk::Bad(error) => Err(error),
        }
    }

    /// The repository of the default base, which serves repositories without a base of their own. Without a usable
    /// index, the records of the bases decide.
    pub fn default_base(&self) -> Result<Option<RepoRef>, StoreError> {
        if let Ok(OnDisk::Good(index)) = self.index_on_disk() {
            let Some(file) = index.base else { return Ok(None) };
            if let Some(RecordKey::Base(repo)) = RecordKey::of_record(Path::new(&file))
                && !matches!(self.base(&repo), Ok(None))
            {
                return Ok(Some(repo));
            }
        }
        self.chosen_base()
    }

    /// Sets or clears the default base.
    pub fn set_default_base(&self, repo: Option<&RepoRef>) -> Result<(), StoreError> {
        let lock = self.index_lock("set the default base")?;
        let base = repo.map(|repo| Index::entry(&repo.into()).1);
        self.change_index(&lock, true, |index| {
            let changed = index.base != base;
            index.base = base;
            changed
        })
    }

    /// Rebuilds the index from the records. Moves a broken index aside first, and keeps an index of a newer schema.
    pub fn rebuild_index(&self) -> Result<IndexReport, StoreError> {
        let lock = self.index_lock("rebuild the index")?;
        self.rebuild_locked(&lock)
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.home.join(layout::INDEX)
    }

    pub(crate) fn index_on_disk(&self) -> Result<OnDisk, StoreError> {
        let path = self.index_path();
        let bytes = match fsx::read_bounded(&path, MAX_INDEX) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(OnDisk::Missing),
            Err(error) => return Err(error.into()),
        };
        let newer = |found| StoreError::Newer {
            path: path.clone(),
            found,
            known: SCHEMA,
        };
        Ok(match serde_json::from_slice::<Index>(&bytes) {
            Ok(index) if index.schema > SCHEMA => OnDisk::Bad(newer(index.schema)),
            Ok(index) => OnDisk::Good(index),
            Err(error) => match serde_json::from_slice::<Probe>(&bytes) {
                Ok(Probe { schema }) if schema > SCHEMA => OnDisk::Bad(newer(schema)),
                _ => OnDisk::Bad(StoreError::broken(&path, error.to_string())),
            },
        })
    }

    /// Adds a record that was just written, if it is missing. Searches the text first, because parsing ten thousand
    /// entries on every write would cost more than the write.
    pub(crate) fn add_to_index(&self, key: &RecordKey) -> Result<(), StoreError> {
        let (name, file) = Index::entry(key);
        if let Ok(bytes) = fsx::read_bounded(&self.index_path(), MAX_INDEX)
            && let Ok(text) = std::str::from_utf8(&bytes)
            && text.trim_end().ends_with('}')
            && text.contains(&format!("\"{name}\": \"{file}\""))
        {
            return Ok(());
        }
        let lock = self.index_lock("add a record")?;
        // A power cut may undo this entry; the next write of the record, or `fix`, adds it again.
        let durable = matches!(key, RecordKey::Base(_));
        self.change_index(&lock, durable, |index| {
            index.map_mut(key).insert(name, file.clone()).as_ref() != Some(&file)
        })
    }

    /// Removes the entry of a removed record. If the default base is removed, no default base remains.
    pub(crate) fn remove_from_index(&self, lock: &Lock, key: &RecordKey) -> Result<(), StoreError> {
        let (name, file) = Index::entry(key);
        self.change_index(lock, true, |index| {
            let was_default = matches!(key, RecordKey::Base(_)) && index.base.as_ref() == Some(&file);
            if was_default {
                index.base = None;
            }
            index.map_mut(key).remove(&name).is_some() || was_default
        })
    }

    /// Changes the index under its lock. Rebuilds a missing or broken index from the records first. Leaves an index
    /// that a newer version wrote unchanged, because the records are the truth.
    fn change_index(
        &self,
        lock: &Lock,
        durable: bool,
        change: impl FnOnce(&mut Index) -> bool,
    ) -> Result<(), StoreError> {
        let mut index = match self.index_on_disk()? {
            OnDisk::Good(index) => index,
            OnDisk::Bad(error @ StoreError::Newer { .. }) => {
                tracing::warn!("the index is not updated: {error}");
                return Ok(());
            }
            OnDisk::Missing | OnDisk::Bad(_) => {
                self.rebuild_locked(lock)?;
                self.index()?
            }
        };
        if change(&mut index) {
            self.write_index(&index, durable)?;
        }
        Ok(())
    }

    fn write_index(&self, index: &Index, durable: bool) -> Result<(), StoreError> {
        let path = self.index_path();
        let bytes = super::encoding::encode(index, &path)?;
        if durable {
            fsx::write_atomic(&path, &bytes)?;
        } else {
            fsx::write_atomic_relaxed(&path, &bytes)?;
        }
        super::points::INDEX_SAVED.pass();
        Ok(())
    }

    pub(crate) fn rebuild_locked(&self, _lock: &Lock) -> Result<IndexReport, StoreError> {
        let mut report = IndexReport::default();
        let old = match self.index_on_disk()? {
            OnDisk::Good(index) => Some(index),
            OnDisk::Missing => None,
            OnDisk::Bad(error @ StoreError::Newer { .. }) => return Err(error),
            OnDisk::Bad(_) => {
                report.moved_aside = Some(self.quarantine(&self.index_path())?);
                None
            }
        };
        let mut index = Index::default();
        for key in self.walk()?.folders.iter().flat_map(Folder::keys) {
            let (name, file) = Index::entry(&key);
            index.map_mut(&key).insert(name, file);
        }
        index.base = match &old {
            Some(old)
                if old
                    .base
                    .as_ref()
                    .is_none_or(|base| index.bases.values().any(|file| file == base)) =>
            {
                old.base.clone()
            }
            _ => self.chosen_base()?.map(|repo| Index::entry(&(&repo).into()).1),
        };
        report.bases = index.bases.len();
        report.issues = index.issues.len();
        report.sessions = index.sessions.len();
        let before = old.clone().unwrap_or_default();
        let missing_in = |a: &Index, b: &Index| -> Vec<String> {
            let present: std::collections::BTreeSet<_> = b.entries().collect();
            a.entries()
                .filter(|entry| !present.contains(entry))
                .map(|(name, _)| name.clone())
                .collect()
        };
        report.added = missing_in(&index, &before);
        report.dropped = missing_in(&before, &index);
        if old.as_ref() != Some(&index) {
            self.write_index(&index, true)?;
        }
        Ok(report)
    }

    /// The base that was made the default base last, according to the records.
    fn chosen_base(&self) -> Result<Option<RepoRef>, StoreError> {
        let bases = self.bases()?.found.into_iter();
        let chosen = bases.filter(|base| base.default_since.is_some());
        Ok(chosen.max_by_key(|base| base.default_since).map(|base| base.repo))
    }
}
