//! Finds and repairs damage to the store for `doctor`. A repair never discards written data.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::index::{Index, OnDisk};
use super::listing::Folder;
use super::trash::Unfinished;
use super::{LeaseError, RecordKey, Store, StoreError, TrashId, layout, lock, records, this_process};
use crate::fsx;
use kugetsu_api::{BaseRecord, SCHEMA, SessionRecord};

/// A temporary file normally lives for milliseconds; an older one is left over from a crash.
const STALE_TEMP: Duration = Duration::from_mins(1);

/// One problem in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// Records exist, but no index.
    IndexMissing,
    /// The index cannot be parsed.
    IndexBroken {
        /// The parse error.
        why: String,
    },
    /// An index entry names a file that does not exist.
    EntryWithoutFile {
        /// The entry.
        name: String,
        /// The file, relative to `sessions/`.
        file: String,
    },
    /// A record is missing from the index.
    FileWithoutEntry {
        /// The record's key.
        key: RecordKey,
    },
    /// The default base has no record.
    DefaultBaseMissing {
        /// The record's expected file, relative to `sessions/`.
        file: String,
    },
    /// A record that cannot be parsed or is in the wrong place.
    Broken {
        /// The file.
        path: PathBuf,
        /// The problem.
        why: String,
    },
    /// A file with a newer schema.
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
    },
    /// A temporary file left over from a crash.
    StaleTemp {
        /// The file.
        path: PathBuf,
    },
    /// A symbolic link in place of a file or folder of the store.
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// A file or folder that cannot be read.
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        why: String,
    },
    /// A move to the trash that a crash interrupted.
    UnfinishedRemoval {
        /// The entry.
        id: TrashId,
        /// Whether the record had been moved.
        record_moved: bool,
    },
}

/// The outcome of [`Store::fix`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// The problem is fixed, or was already gone.
    Done,
    /// The file was moved to this path.
    MovedAside(PathBuf),
    /// Only a person can decide.
    NotByMachine,
}

impl Finding {
    /// Whether rebuilding the index fixes this finding, together with every other finding of this kind.
    pub fn is_of_index(&self) -> bool {
        matches!(
            self,
            Self::IndexMissing
                | Self::IndexBroken { .. }
                | Self::EntryWithoutFile { .. }
                | Self::FileWithoutEntry { .. }
                | Self::DefaultBaseMissing { .. }
        )
    }

    /// Whether [`Store::fix`] can fix it.
    pub fn is_fixable(&self) -> bool {
        !matches!(
            self,
            Self::Newer { .. } | Self::Symlink { .. } | Self::Unreadable { .. }
        )
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::IndexMissing => f.write_str("records exist, but index.json is missing"),
            Self::IndexBroken { why } => write!(f, "index.json cannot be read: {why}"),
            Self::EntryWithoutFile { name, file } => {
                write!(f, "the index lists {name}, but sessions/{file} does not exist")
            }
            Self::FileWithoutEntry { key } => write!(f, "the index lacks {key}"),
            Self::DefaultBaseMissing { file } => {
                write!(
                    f,
                    "the index names the default base sessions/{file}, which does not exist"
                )
            }
            Self::Newer { path, found } => {
                write!(
                    f,
                    "{} has schema {found}; this kugetsu supports up to {SCHEMA}",
                    path.display()
                )
            }
            Self::StaleTemp { path } => write!(f, "{} was left by a crash", path.display()),
            Self::Symlink { path } => {
                write!(f, "{} is a symbolic link, which is not followed", path.display())
            }
            Self::Broken { path, why } | Self::Unreadable { path, why } => {
                write!(f, "{} cannot be read: {why}", path.display())
            }
            Self::UnfinishedRemoval {
                id,
                record_moved: true,
            } => write!(
                f,
                "trash/{id}: the removal is incomplete: the folder is still in its old place"
            ),
            Self::UnfinishedRemoval {
                id,
                record_moved: false,
            } => write!(f, "trash/{id}: the removal never began"),
        }
    }
}

impl Store {
    /// Checks the whole store without changing it. A concurrent write by another process may appear as a finding, so
    /// `fix` checks again before it acts.
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let keys = self.check_records(&mut findings);
        self.check_index(&keys, &mut findings);
        for folder in [layout::SESSIONS, layout::RUN, layout::TRASH] {
            check_files(&self.home.join(folder), true, &mut findings);
        }
        check_files(&self.home, false, &mut findings);
        match self.trash_entries() {
            Ok(entries) => findings.extend(entries.iter().filter_map(|entry| {
                let unfinished = self.unfinished(entry)?;
                Some(Finding::UnfinishedRemoval {
                    id: entry.id.clone(),
                    record_moved: unfinished == Unfinished::FolderLeft,
                })
            })),
            Err(error) => findings.push(self.finding(error)),
        }
        findings
    }

    fn check_records(&self, findings: &mut Vec<Finding>) -> Vec<RecordKey> {
        let walk = match self.walk() {
            Ok(walk) => walk,
            Err(error) => {
                findings.push(self.finding(error));
                return Vec::new();
            }
        };
        findings.extend(
            walk.broken
                .into_iter()
                .map(|(path, why)| Finding::Unreadable { path, why }),
        );
        let mut keys = Vec::new();
        for key in walk.folders.iter().flat_map(Folder::keys) {
            let read = match &key {
                RecordKey::Session(address) => self
                    .session_record(address)
                    .map(|record| record.map(|record| record.schema)),
                RecordKey::Base(repo) => self.base(repo).map(|record| record.map(|record| record.schema)),
            };
            match read {
                Ok(Some(found)) if found > SCHEMA => {
                    findings.push(Finding::Newer {
                        path: self.record_path(&key),
                        found,
                    });
                }
                Ok(_) => {}
                Err(error) => findings.push(self.finding(error)),
            }
            keys.push(key);
        }
        keys
    }

    fn check_index(&self, keys: &[RecordKey], findings: &mut Vec<Finding>) {
        let index = match self.index_on_disk() {
            Ok(OnDisk::Good(index)) => index,
            Ok(OnDisk::Missing) => {
                if !keys.is_empty() {
                    findings.push(Finding::IndexMissing);
                }
                return;
            }
            Ok(OnDisk::Bad(StoreError::Broken { why, .. })) => {
                return findings.push(Finding::IndexBroken { why });
            }
            Ok(OnDisk::Bad(error)) | Err(error) => return findings.push(self.finding(error)),
        };
        let mut expected = Index::default();
        for key in keys {
            let (name, file) = Index::entry(key);
            if index.map(key).get(&name) != Some(&file) {
                findings.push(Finding::FileWithoutEntry { key: key.clone() });
            }
            expected.map_mut(key).insert(name, file);
        }
        for (has, listed) in [
            (&index.bases, &expected.bases),
            (&index.issues, &expected.issues),
            (&index.sessions, &expected.sessions),
        ] {
            findings.extend(has.iter().filter(|(name, _)| !listed.contains_key(*name)).map(
                |(name, file)| Finding::EntryWithoutFile {
                    name: name.clone(),
                    file: file.clone(),
                },
            ));
        }
        if let Some(file) = index
            .base
            .filter(|file| !expected.bases.values().any(|known| known == file))
        {
            findings.push(Finding::DefaultBaseMissing { file });
        }
    }

    fn finding(&self, error: StoreError) -> Finding {
        match error {
            StoreError::Broken { path, why } => Finding::Broken { path, why },
            StoreError::Newer { path, found, .. } => Finding::Newer { path, found },
            StoreError::Symlink { path } => Finding::Symlink { path },
            StoreError::Permission { path } => Finding::Unreadable {
                path,
                why: "no permission".to_owned(),
            },
            StoreError::Io { path, source, .. } => Finding::Unreadable {
                path,
                why: source.to_string(),
            },
            other => Finding::Unreadable {
                path: self.home.to_path_buf(),
                why: other.in_full(),
            },
        }
    }

    /// Fixes one finding if it still exists.
    pub fn fix(&self, finding: &Finding) -> Result<Fixed, StoreError> {
        match finding {
            Finding::IndexMissing
            | Finding::IndexBroken { .. }
            | Finding::EntryWithoutFile { .. }
            | Finding::FileWithoutEntry { .. }
            | Finding::DefaultBaseMissing { .. } => {
                let report = self.rebuild_index()?;
                Ok(report.moved_aside.map_or(Fixed::Done, Fixed::MovedAside))
            }
            Finding::Broken { path, .. } => {
                let Some(key) = path
                    .strip_prefix(self.sessions())
                    .ok()
                    .and_then(RecordKey::of_record)
                else {
                    return Ok(Fixed::NotByMachine);
                };
                let holder = this_process("move a broken record aside");
                let _lease = self
                    .lease(key.clone(), holder, None)
                    .map_err(|error| match error {
                        LeaseError::Store(error) => error,
                        LeaseError::Held { holder, .. } => {
                            lock::timed_out(self.run_path(&key, ".lease"), Duration::ZERO, holder)
                        }
                    })?;
                if Self::still_broken(path, &key)? {
                    let aside = self.quarantine(path)?;
                    self.rebuild_index()?;
                    return Ok(Fixed::MovedAside(aside));
                }
                Ok(Fixed::Done)
            }
            Finding::StaleTemp { path } => {
                if is_stale(path) {
                    fsx::refuse_symlinks(&self.home, path)?;
                    fsx::remove_file_durable(path)?;
                }
                Ok(Fixed::Done)
            }
            Finding::UnfinishedRemoval { id, .. } => {
                let lock = self.index_lock("finish what was interrupted")?;
                for entry in self.trash_entries()? {
                    if entry.id == *id {
                        self.finish_entry(&lock, &entry)?;
                    }
                }
                Ok(Fixed::Done)
            }
            Finding::Newer { .. } | Finding::Symlink { .. } | Finding::Unreadable { .. } => {
                Ok(Fixed::NotByMachine)
            }
        }
    }

    /// Whether a record's file exists and cannot be parsed.
    fn still_broken(path: &Path, key: &RecordKey) -> Result<bool, StoreError> {
        let bytes = match fsx::read_bounded(path, super::encoding::MAX_RECORD) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(false),
            Err(fsx::FsError::TooLarge { .. } | fsx::FsError::NotAFile { .. }) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let read = match key {
            RecordKey::Session(_) => records::parse_as::<SessionRecord>(path, &bytes, key).map(drop),
            RecordKey::Base(_) => records::parse_as::<BaseRecord>(path, &bytes, key).map(drop),
        };
        Ok(matches!(read, Err(StoreError::Broken { .. })))
    }
}

/// Finds symbolic links and leftover temporary files in a folder.
fn check_files(folder: &Path, deep: bool, findings: &mut Vec<Finding>) {
    // An unreadable folder is reported where its records are read.
    let Ok(names) = std::fs::read_dir(folder) else {
        return;
    };
    for found in names.filter_map(Result::ok) {
        let path = found.path();
        match found.file_type() {
            Ok(kind) if kind.is_symlink() => findings.push(Finding::Symlink { path }),
            Ok(kind) if kind.is_dir() && deep => check_files(&path, deep, findings),
            Ok(_) if fsx::is_temp_name(&found.file_name()) && is_stale(&path) => {
                findings.push(Finding::StaleTemp { path });
            }
            _ => {}
        }
    }
}

/// Whether a temporary file was left by a crash.
pub(super) fn is_stale(path: &Path) -> bool {
    let age = |metadata: std::fs::Metadata| {
        let written = metadata.modified().ok()?;
        SystemTime::now().duration_since(written).ok()
    };
    path.symlink_metadata()
        .ok()
        .and_then(age)
        .is_some_and(|age| age > STALE_TEMP)
}
