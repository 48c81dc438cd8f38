//! Finding every record, without the index and without a lock.
//!
//! One walk over the folders finds the names; two or more threads then open the files, each relative to its folder,
//! since with ten thousand of them every system call and every copy counts. A file that cannot be read is listed
//! beside the others and stops nothing.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FileType, Mode, OFlags};

use super::layout::{self, Entry};
use super::records::{self, MAX_RECORD, Record};
use super::{Key, Store, StoreError};
use crate::fsx::{self, FsError};
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

/// So many records are taken at a time: few enough that no thread waits for another at the end.
const BLOCK: usize = 64;

fn listing<R: Record>(walk: &Walk, wanted: &[Wanted<'_>]) -> Listing<R> {
    let blocks: Vec<_> = wanted.chunks(BLOCK).collect();
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(1, 8);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            match blocks.get(at) {
                Some(block) => done.push((at, read_block(block, &mut buffer))),
                None => return done,
            }
        }
    };
    let mut done: Vec<(usize, Listing<R>)> = std::thread::scope(|scope| {
        // One block is not worth a thread.
        let others: Vec<_> = (1..threads.min(blocks.len()))
            .map(|_| scope.spawn(work))
            .collect();
        let mut done = work();
        for other in others {
            match other.join() {
                Ok(part) => done.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    let mut all = Listing {
        found: Vec::with_capacity(wanted.len()),
        broken: walk.broken.clone(),
    };
    for (_, mut part) in done {
        all.found.append(&mut part.found);
        all.broken.append(&mut part.broken);
    }
    all.broken.extend(
        walk.symlinks
            .iter()
            .map(|path| (path.clone(), "it is a symbolic link".to_owned())),
    );
    all.broken.sort();
    all
}

fn read_block<R: Record>(wanted: &[Wanted<'_>], buffer: &mut [u8]) -> Listing<R> {
    let mut listing = Listing {
        found: Vec::with_capacity(wanted.len()),
        broken: Vec::new(),
    };
    for (folder, number) in wanted {
        let quick = read_quickly::<R>(folder, *number, buffer);
        match quick.map_or_else(|| read_with_care(folder, *number), |record| Ok(Some(record))) {
            Ok(Some(record)) => listing.found.push(record),
            // Removed since the walk.
            Ok(None) => {}
            Err(StoreError::Broken { path, why }) => listing.broken.push((path, why)),
            Err(error) => {
                listing
                    .broken
                    .push((folder.path.join(Folder::name(*number)), error.to_string()));
            }
        }
    }
    listing
}

/// Three system calls for a record: nothing where anything is unusual, such as a large one.
fn read_quickly<R: Record>(folder: &Folder, number: Option<u64>, buffer: &mut [u8]) -> Option<R> {
    let open = rustix::fs::openat(&folder.open, Folder::name(number), FILE, Mode::empty()).ok()?;
    let length = rustix::io::read(&open, &mut *buffer).ok()?;
    // Checked as a whole, not string by string.
    let text = std::str::from_utf8(buffer.get(..length)?).ok()?;
    serde_json::from_str::<R>(text)
        .ok()
        .filter(|record| record.belongs(&folder.repo, number))
}

/// Reads the whole file, and says what is wrong with it.
fn read_with_care<R: Record>(folder: &Folder, number: Option<u64>) -> Result<Option<R>, StoreError> {
    let path = folder.path.join(Folder::name(number));
    let key = match number {
        None => Key::Base(folder.repo.clone()),
        Some(number) => match IssueRef::new(folder.repo.clone(), number) {
            Ok(issue) => Key::Issue(issue),
            Err(error) => return Err(StoreError::broken(&path, error.to_string())),
        },
    };
    match fsx::read_bounded(&path, MAX_RECORD) {
        Ok(bytes) => records::parse_as(&path, &bytes, &key).map(Some),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
