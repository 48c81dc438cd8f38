//! Finding every record, without the index and without a lock.
//!
//! One walk over the folders finds the names; two or more threads then open them, each relative to its folder, so
//! that ten thousand records are read in a few milliseconds' worth of system calls. A file that cannot be read is
//! listed beside the others and stops nothing.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};

use super::layout::Entry;
use super::records::{self, Record};
use super::{Key, Store, StoreError};
use crate::fsx::FsError;
use crate::session::{BaseRecord, IssueRecord};

/// What a walk over the records found.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing<T> {
    /// The records, in the order of their canonical references.
    pub found: Vec<T>,
    /// Files and folders that could not be read, and why.
    pub broken: Vec<(PathBuf, String)>,
}

/// A record's file, before it is read.
pub(crate) struct Candidate {
    folder: Arc<Folder>,
    pub(crate) key: Key,
}

struct Folder {
    path: PathBuf,
    open: OwnedFd,
}

impl Candidate {
    fn name(&self) -> String {
        match &self.key {
            Key::Base(_) => "base.json".to_owned(),
            Key::Issue(issue) => format!("{}.json", issue.number()),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path.join(self.name())
    }
}

/// Names in the folders of the records.
#[derive(Default)]
pub(crate) struct Walk {
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) symlinks: Vec<PathBuf>,
    /// Folders that could not be read, and names like a record's that none has.
    pub(crate) broken: Vec<(PathBuf, String)>,
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

impl Store {
    /// Every issue's record.
    pub fn issues(&self) -> Result<Listing<IssueRecord>, StoreError> {
        self.listing(|key| matches!(key, Key::Issue(_)))
    }

    /// Every base's record.
    pub fn bases(&self) -> Result<Listing<BaseRecord>, StoreError> {
        self.listing(|key| matches!(key, Key::Base(_)))
    }

    fn listing<R: Record>(&self, wanted: impl Fn(&Key) -> bool) -> Result<Listing<R>, StoreError> {
        let mut walk = self.walk()?;
        walk.candidates.retain(|candidate| wanted(&candidate.key));
        let mut broken = walk.broken;
        broken.extend(
            walk.symlinks
                .into_iter()
                .map(|path| (path, "it is a symbolic link".to_owned())),
        );
        let mut read = read_all::<R>(&walk.candidates);
        read.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut found = Vec::with_capacity(read.len());
        for (key, result) in read {
            match result {
                Ok(record) => found.push(record),
                Err(StoreError::Broken { path, why }) => broken.push((path, why)),
                Err(error) => broken.push((self.record_path(&key), error.to_string())),
            }
        }
        broken.sort();
        Ok(Listing { found, broken })
    }

    /// Finds the names of all records, and whatever else is worth a word.
    pub(crate) fn walk(&self) -> Result<Walk, StoreError> {
        let mut walk = Walk::default();
        let path = self.sessions();
        match rustix::fs::open(&path, FOLDER, Mode::empty()) {
            Ok(open) => {
                descend(
                    &Arc::new(Folder {
                        path: path.clone(),
                        open,
                    }),
                    &path,
                    0,
                    &mut walk,
                );
                Ok(walk)
            }
            Err(rustix::io::Errno::NOENT) => Ok(walk),
            Err(rustix::io::Errno::NOTDIR) if path.is_symlink() => Err(StoreError::Symlink { path }),
            Err(errno) => Err(FsError::Io {
                action: "read the folder",
                path,
                source: errno.into(),
            }
            .into()),
        }
    }
}

fn descend(folder: &Arc<Folder>, root: &Path, depth: usize, walk: &mut Walk) {
    let failed = |errno: rustix::io::Errno| (folder.path.clone(), std::io::Error::from(errno).to_string());
    let entries = match rustix::fs::Dir::read_from(&folder.open) {
        Ok(entries) => entries,
        Err(errno) => return walk.broken.push(failed(errno)),
    };
    let repo = (depth >= 3)
        .then(|| folder.path.strip_prefix(root).ok())
        .flatten()
        .map(Path::to_owned);
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(errno) => return walk.broken.push(failed(errno)),
        };
        let Ok(name) = entry.file_name().to_str() else {
            let name = entry.file_name().to_string_lossy();
            walk.broken
                .push((folder.path.join(&*name), "its name is no UTF-8".to_owned()));
            continue;
        };
        if name == "." || name == ".." {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            let looked = rustix::fs::statat(&folder.open, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
            kind = looked.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
        }
        let shape = if depth >= 3 { Entry::of(name) } else { Entry::Other };
        match (kind, shape) {
            (FileType::Symlink, _) => walk.symlinks.push(folder.path.join(name)),
            (FileType::Directory, Entry::Other) => {
                match rustix::fs::openat(&folder.open, name, FOLDER, Mode::empty()) {
                    Ok(open) => {
                        let path = folder.path.join(name);
                        descend(&Arc::new(Folder { path, open }), root, depth + 1, walk);
                    }
                    // Removed in between.
                    Err(rustix::io::Errno::NOENT) => {}
                    Err(errno) => {
                        walk.broken
                            .push((folder.path.join(name), std::io::Error::from(errno).to_string()));
                    }
                }
            }
            (_, Entry::Record | Entry::Base) => {
                match repo.as_ref().and_then(|repo| Key::of_record(&repo.join(name))) {
                    Some(key) => walk.candidates.push(Candidate {
                        folder: Arc::clone(folder),
                        key,
                    }),
                    None => walk
                        .broken
                        .push((folder.path.join(name), "its name is that of no record".to_owned())),
                }
            }
            _ => {}
        }
    }
}

/// Below this many, another thread costs more than it saves.
const FEW: usize = 100;

fn read_all<R: Record>(candidates: &[Candidate]) -> Vec<(Key, Result<R, StoreError>)> {
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(1, 8);
    if candidates.len() < FEW || threads == 1 {
        return read_some(candidates);
    }
    std::thread::scope(|scope| {
        let parts: Vec<_> = candidates
            .chunks(candidates.len().div_ceil(threads))
            .map(|part| scope.spawn(move || read_some(part)))
            .collect();
        let joined = parts.into_iter().map(|part| match part.join() {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.flatten().collect()
    })
}

fn read_some<R: Record>(candidates: &[Candidate]) -> Vec<(Key, Result<R, StoreError>)> {
    let mut bytes = Vec::with_capacity(8 * 1024);
    let mut read = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let result = match rustix::fs::openat(&candidate.folder.open, candidate.name(), FILE, Mode::empty()) {
            // Removed since the walk.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(rustix::io::Errno::LOOP) => Err(StoreError::Symlink {
                path: candidate.path(),
            }),
            Err(errno) => Err(FsError::Io {
                action: "read",
                path: candidate.path(),
                source: errno.into(),
            }
            .into()),
            Ok(open) => read_open(&File::from(open), candidate, &mut bytes),
        };
        read.push((candidate.key.clone(), result));
    }
    read
}

fn read_open<R: Record>(file: &File, candidate: &Candidate, bytes: &mut Vec<u8>) -> Result<R, StoreError> {
    records::read_open(file, &candidate.path(), &candidate.key, bytes)
}
