//! What `doctor` finds wrong with the store, and how it is put right. Nothing that was written is ever thrown away.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::index::{Index, OnDisk};
use super::listing::Folder;
use super::trash::Half;
use super::{LeaseError, RecordKey, Store, StoreError, TrashId, layout, lock, records, this_process};
use crate::fsx;
use kugetsu_api::{BaseRecord, SCHEMA, SessionRecord};

/// A temporary file lives for milliseconds; one that is older was left by a crash.
const STALE_TEMP: Duration = Duration::from_mins(1);

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// There are records, and no index.
    IndexMissing,
    /// The index cannot be understood.
    IndexBroken {
        /// What is wrong with it.
        why: String,
    },
    /// An entry of the index names a file that is not there.
    EntryWithoutFile {
        /// The entry.
        name: String,
        /// Its file, below `sessions/`.
        file: String,
    },
    /// A record is not in the index.
    FileWithoutEntry {
        /// Whose record it is.
        key: RecordKey,
    },
    /// The default base has no record.
    DefaultBaseMissing {
        /// Its file, below `sessions/`.
        file: String,
    },
    /// A record that cannot be understood, or stands in the wrong place.
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file of a newer schema.
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
    },
    /// A temporary file that a crash left.
    StaleTemp {
        /// The file.
        path: PathBuf,
    },
    /// A symbolic link where the store keeps a file or a folder.
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// A file or folder that cannot be read.
    Unreadable {
        /// What was read.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// A move to the trash that a crash interrupted.
    HalfTrashed {
        /// The entry.
        id: TrashId,
        /// Whether the record was moved already.
        record_moved: bool,
    },
}

/// What [`Store::fix`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// It is right now.
    Done,
    /// The file is here now.
    MovedAside(PathBuf),
    /// Only a person can say what is right.
    NotByMachine,
}

impl Finding {
    /// Whether making the index anew puts it right, together with every other finding of this kind.
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

    /// Whether [`Store::fix`] can put it right.
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
            Self::IndexMissing => f.write_str("there are records, and no index.json"),
            Self::IndexBroken { why } => write!(f, "index.json cannot be read: {why}"),
            Self::EntryWithoutFile { name, file } => {
                write!(f, "the index has {name}, and there is no sessions/{file}")
            }
            Self::FileWithoutEntry { key } => write!(f, "the index lacks {key}"),
            Self::DefaultBaseMissing { file } => {
                write!(
                    f,
                    "the index names the default base sessions/{file}, which is not there"
                )
            }
            Self::Newer { path, found } => {
                write!(
                    f,
                    "{} has schema {found}, and this kugetsu knows {SCHEMA}",
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
            Self::HalfTrashed {
                id,
                record_moved: true,
            } => write!(f, "trash/{id}: its folder was not moved yet"),
            Self::HalfTrashed {
                id,
                record_moved: false,
            } => write!(f, "trash/{id}: nothing was moved there"),
        }
    }
}

impl Store {
    /// Looks at everything, and changes nothing. What another process does at the same moment may show as a finding:
    /// `fix` looks again before it acts.
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
                let half = self.half_done(entry)?;
                Some(Finding::HalfTrashed {
                    id: entry.id.clone(),
                    record_moved: half == Half::FolderLeft,
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
        for (has, wanted) in [
            (&index.bases, &expected.bases),
            (&index.issues, &expected.issues),
            (&index.sessions, &expected.sessions),
        ] {
            findings.extend(has.iter().filter(|(name, _)| !wanted.contains_key(*name)).map(
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

    /// Puts one finding right, when it is still there.
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
            Finding::HalfTrashed { id, .. } => {
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

    /// Whether a record's file is there and cannot be understood.
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

/// Finds links and left temporary files in a folder.
fn check_files(folder: &Path, deep: bool, findings: &mut Vec<Finding>) {
    // What cannot be read shows where records are looked for.
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

fn is_stale(path: &Path) -> bool {
    let age = |metadata: std::fs::Metadata| {
        let written = metadata.modified().ok()?;
        SystemTime::now().duration_since(written).ok()
    };
    path.symlink_metadata()
        .ok()
        .and_then(age)
        .is_some_and(|age| age > STALE_TEMP)
}
