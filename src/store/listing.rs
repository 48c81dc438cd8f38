//! Finding every record, without the index and without a lock.
//!
//! One walk over the folders finds the names; two or more threads then open the files, each relative to its folder,
//! since with ten thousand of them every system call and every copy counts. A file that cannot be read is listed
//! beside the others and stops nothing.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use super::layout::{self, Entry};
use super::records::{self, MAX_RECORD, Record};
use super::{Key, Store, StoreError};
use crate::fsx::FsError;
use crate::session::{BaseRecord, IssueRecord, IssueRef, RepoRef};

/// What a walk over the records found.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing<T> {
    /// The records, in the order of their canonical references.
    pub found: Vec<T>,
    /// Files and folders that could not be read, and why.
    pub broken: Vec<(PathBuf, String)>,
}

/// The names of the records of one repository.
pub(crate) struct Folder {
    path: PathBuf,
    open: OwnedFd,
    repo: RepoRef,
    base: bool,
    /// In ascending order.
    issues: Vec<u64>,
}

impl Folder {
    /// The keys whose records are here.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        let issues = self
            .issues
            .iter()
            .filter_map(|number| IssueRef::new(self.repo.clone(), *number).ok());
        self.base
            .then(|| Key::Base(self.repo.clone()))
            .into_iter()
            .chain(issues.map(Key::Issue))
    }
}

/// Names in the folders of the records.
#[derive(Default)]
pub(crate) struct Walk {
    /// In the order of their repositories.
    pub(crate) folders: Vec<Folder>,
    symlinks: Vec<PathBuf>,
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

/// One file to read: its folder, and the issue's number, or nothing for the base.
type Wanted<'a> = (&'a Folder, Option<u64>);

impl Store {
    /// Every issue's record.
    pub fn issues(&self) -> Result<Listing<IssueRecord>, StoreError> {
        let walk = self.walk()?;
        let numbers = |folder| Folder::issues(folder).map(move |number| (folder, Some(number)));
        let wanted: Vec<_> = walk.folders.iter().flat_map(numbers).collect();
        Ok(listing(&walk, &wanted))
    }

    /// Every base's record.
    pub fn bases(&self) -> Result<Listing<BaseRecord>, StoreError> {
        let walk = self.walk()?;
        let wanted: Vec<_> = walk
            .folders
            .iter()
            .filter(|folder| folder.base)
            .map(|folder| (folder, None))
            .collect();
        Ok(listing(&walk, &wanted))
    }

    /// Finds the names of all records.
    pub(crate) fn walk(&self) -> Result<Walk, StoreError> {
        let mut walk = Walk::default();
        let path = self.sessions();
        match rustix::fs::open(&path, FOLDER, Mode::empty()) {
            Ok(open) => {
                walk.descend(path.clone(), open, &path, 0);
                walk.folders.sort_unstable_by(|a, b| a.repo.cmp(&b.repo));
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

impl Folder {
    fn issues(&self) -> impl Iterator<Item = u64> {
        self.issues.iter().copied()
    }

    fn name(number: Option<u64>) -> String {
        number.map_or_else(|| "base.json".to_owned(), |number| format!("{number}.json"))
    }
}

impl Walk {
    fn broken(&mut self, path: PathBuf, errno: rustix::io::Errno) {
        // Removed while it was looked at.
        if errno != rustix::io::Errno::NOENT {
            self.broken.push((path, std::io::Error::from(errno).to_string()));
        }
    }

    fn descend(&mut self, path: PathBuf, open: OwnedFd, root: &Path, depth: usize) {
        let entries = match rustix::fs::Dir::read_from(&open) {
            Ok(entries) => entries,
            Err(errno) => return self.broken(path, errno),
        };
        // The folders of instances and owners hold no records.
        let holds_records = depth >= 3;
        let (mut base, mut issues, mut folders) = (false, Vec::new(), Vec::new());
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => return self.broken(path, errno),
            };
            let Ok(name) = entry.file_name().to_str() else {
                let name = entry.file_name().to_string_lossy();
                self.broken
                    .push((path.join(&*name), "its name is not UTF-8".to_owned()));
                continue;
            };
            if name == "." || name == ".." {
                continue;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                let looked = rustix::fs::statat(&open, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
                kind = looked.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
            }
            let shape = if holds_records {
                Entry::of(name)
            } else {
                Entry::Other
            };
            match (kind, shape) {
                (FileType::Symlink, _) => self.symlinks.push(path.join(name)),
                (FileType::RegularFile, Entry::Base) => base = true,
                (FileType::RegularFile, Entry::Record(number)) => issues.push(number),
                (_, Entry::Base | Entry::Record(_)) => {
                    self.broken
                        .push((path.join(name), "it is not a plain file".to_owned()));
                }
                (_, Entry::Stray) => {
                    self.broken.push((
                        path.join(name),
                        "it is named like a record, and is none".to_owned(),
                    ));
                }
                (FileType::Directory, Entry::Other) => folders.push(name.to_owned()),
                _ => {}
            }
        }
        for name in folders {
            let below = path.join(&name);
            match rustix::fs::openat(&open, name.as_str(), FOLDER, Mode::empty()) {
                Ok(open) => self.descend(below, open, root, depth + 1),
                Err(errno) => self.broken(below, errno),
            }
        }
        if base || !issues.is_empty() {
            match path.strip_prefix(root).ok().and_then(layout::repo_of) {
                Some(repo) => {
                    issues.sort_unstable();
                    self.folders.push(Folder {
                        path,
                        open,
                        repo,
                        base,
                        issues,
                    });
                }
                None => self
                    .broken
                    .push((path, "it holds records, and is no repository's folder".to_owned())),
            }
        }
    }
}

/// Below this many, another thread costs more than it saves.
const FEW: usize = 100;

fn listing<R: Record>(walk: &Walk, wanted: &[Wanted<'_>]) -> Listing<R> {
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(1, 8);
    let mut read = if wanted.len() < FEW || threads == 1 {
        read_some(wanted)
    } else {
        std::thread::scope(|scope| {
            let mut parts = wanted.chunks(wanted.len().div_ceil(threads));
            let mine = parts.next().unwrap_or_default();
            let others: Vec<_> = parts.map(|part| scope.spawn(move || read_some(part))).collect();
            let mut read: Listing<R> = read_some(mine);
            read.found.reserve_exact(wanted.len() - read.found.len());
            for other in others {
                match other.join() {
                    Ok(mut part) => {
                        read.found.append(&mut part.found);
                        read.broken.append(&mut part.broken);
                    }
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            read
        })
    };
    read.broken.extend(walk.broken.iter().cloned());
    read.broken.extend(
        walk.symlinks
            .iter()
            .map(|path| (path.clone(), "it is a symbolic link".to_owned())),
    );
    read.broken.sort();
    read
}

fn read_some<R: Record>(wanted: &[Wanted<'_>]) -> Listing<R> {
    let mut bytes = Vec::with_capacity(16 * 1024);
    let mut listing = Listing {
        found: Vec::with_capacity(wanted.len()),
        broken: Vec::new(),
    };
    for (folder, number) in wanted {
        let name = Folder::name(*number);
        let path = || folder.path.join(&name);
        let result = match read_file(folder, &name, &mut bytes) {
            Err(rustix::io::Errno::NOENT) => continue,
            Err(rustix::io::Errno::LOOP) => Err(StoreError::Symlink { path: path() }),
            Err(errno) => Err(FsError::Io {
                action: "read",
                path: path(),
                source: errno.into(),
            }
            .into()),
            Ok(()) => match serde_json::from_slice::<R>(&bytes) {
                Ok(record) if record.belongs(&folder.repo, *number) => Ok(record),
                // The slow way says what is wrong.
                _ => folder_key(folder, *number)
                    .ok_or_else(|| StoreError::broken(&path(), "no issue has this number"))
                    .and_then(|key| records::parse_as(&path(), &bytes, &key)),
            },
        };
        match result {
            Ok(record) => listing.found.push(record),
            Err(StoreError::Broken { path, why }) => listing.broken.push((path, why)),
            Err(error) => listing.broken.push((path(), error.to_string())),
        }
    }
    listing
}

fn folder_key(folder: &Folder, number: Option<u64>) -> Option<Key> {
    match number {
        None => Some(Key::Base(folder.repo.clone())),
        Some(number) => IssueRef::new(folder.repo.clone(), number).ok().map(Key::Issue),
    }
}

/// Reads a file that the walk saw to be a plain one.
fn read_file(folder: &Folder, name: &str, bytes: &mut Vec<u8>) -> Result<(), rustix::io::Errno> {
    let open = rustix::fs::openat(&folder.open, name, FILE, Mode::empty())?;
    bytes.clear();
    // One byte more than is allowed: a record as large as that is not understood anyway.
    let read = std::fs::File::from(open).take(MAX_RECORD + 1).read_to_end(bytes);
    read.map(drop)
        .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
}
