//! Finding every record, without the index and without a lock.
//!
//! One walk over the folders finds the names; two or more threads then open the files, each relative to its folder,
//! since with ten thousand of them every system call and every copy counts. What is wanted of a record is made of it
//! where it was read, so that ten thousand of them are never in memory at once. A file that cannot be read is listed
//! beside the others and stops nothing.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use rustix::fs::{FileType, Mode, OFlags};

use super::encoding::MAX_RECORD;
use super::layout::{self, Entry, RoleEntry, Slot};
use super::records::{self, Record};
use super::{RecordKey, Store, StoreError};
use crate::fsx::{self, FsError};
use kugetsu_api::{BaseRecord, RepoRef, SessionRecord, SessionSummary};

/// A file or folder that could not be read, and why.
pub type Broken = (PathBuf, String);

/// What a walk over the records found.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing<T> {
    /// The records, in the order of their canonical references.
    pub found: Vec<T>,
    /// Files and folders that could not be read, and why.
    pub broken: Vec<Broken>,
}

/// The names of the records of one repository.
pub(crate) struct Folder {
    path: PathBuf,
    open: OwnedFd,
    repo: RepoRef,
    base: bool,
    /// In the order of their addresses.
    sessions: Vec<Slot>,
}

impl Folder {
    /// The keys whose records are here.
    pub(crate) fn keys(&self) -> impl Iterator<Item = RecordKey> {
        let base = self.base.then_some(&Slot::Base).into_iter();
        base.chain(&self.sessions).filter_map(|slot| slot.key(&self.repo))
    }
}

/// Names in the folders of the records.
#[derive(Default)]
pub(crate) struct Walk {
    /// In the order of their repositories.
    pub(crate) folders: Vec<Folder>,
    symlinks: Vec<PathBuf>,
    /// Folders that could not be read, and names like a record's that none has.
    pub(crate) broken: Vec<Broken>,
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// One file to read: its repository's folder, and which of the folder's records it is.
type Wanted<'a> = (&'a Folder, &'a Slot);

impl Store {
    /// Every issue's record.
    pub fn session_records(&self) -> Result<Listing<SessionRecord>, StoreError> {
        let mut found = Vec::new();
        let (_, broken) = self.fold_issues(Vec::push, |block| found.extend(block))?;
        Ok(Listing { found, broken })
    }

    /// Every base's record.
    pub fn bases(&self) -> Result<Listing<BaseRecord>, StoreError> {
        let walk = self.walk()?;
        let (found, mut broken) = walk.read_bases();
        walk.add_broken(&mut broken);
        Ok(Listing { found, broken })
    }

    /// Folds every issue's record, in the order of their canonical references and some dozens at a time: `add` adds one
    /// to the block that it belongs to, on the thread that reads it; `take` gets one block after the other, on this
    /// thread, while the others go on. Gives the bases' records, and the files and folders that could not be read, and
    /// why.
    pub fn fold_issues<T: Default + Send>(
        &self,
        add: impl Fn(&mut T, SessionRecord) + Sync,
        take: impl FnMut(T),
    ) -> Result<(Vec<BaseRecord>, Vec<Broken>), StoreError> {
        self.fold(|block: &mut T, record, _: &str| add(block, record), take)
    }

    /// As [`Store::fold_issues`], with no more of each record than a listing needs, and the text of its file: a JSON
    /// object that can be read as a whole.
    pub fn fold_summaries<T: Default + Send>(
        &self,
        add: impl Fn(&mut T, SessionSummary, &str) + Sync,
        take: impl FnMut(T),
    ) -> Result<(Vec<BaseRecord>, Vec<Broken>), StoreError> {
        self.fold(add, take)
    }

    fn fold<R: Record, T: Default + Send>(
        &self,
        add: impl Fn(&mut T, R, &str) + Sync,
        take: impl FnMut(T),
    ) -> Result<(Vec<BaseRecord>, Vec<Broken>), StoreError> {
        let walk = self.walk()?;
        let mut broken = read_all(&walk.session_records(), add, take);
        let (bases, broken_bases) = walk.read_bases();
        broken.extend(broken_bases);
        walk.add_broken(&mut broken);
        Ok((bases, broken))
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

impl Walk {
    fn session_records(&self) -> Vec<Wanted<'_>> {
        let folders = self.folders.iter();
        folders
            .flat_map(|folder| folder.sessions.iter().map(move |slot| (folder, slot)))
            .collect()
    }

    fn read_bases(&self) -> (Vec<BaseRecord>, Vec<Broken>) {
        let with_base = self.folders.iter().filter(|folder| folder.base);
        let wanted: Vec<_> = with_base.map(|folder| (folder, &Slot::Base)).collect();
        let mut found = Vec::new();
        let add = |block: &mut Vec<_>, record, _: &str| block.push(record);
        let broken = read_all(&wanted, add, |block| found.extend(block));
        (found, broken)
    }

    /// Adds what the walk itself could not read to what was wrong with the files.
    fn add_broken(self, files: &mut Vec<Broken>) {
        files.extend(self.broken);
        let links = self.symlinks.into_iter();
        files.extend(links.map(|path| (path, "it is a symbolic link".to_owned())));
        files.sort();
    }

    fn broken(&mut self, path: PathBuf, errno: rustix::io::Errno) {
        // Removed while it was looked at.
        if errno != rustix::io::Errno::NOENT {
            self.broken.push((path, std::io::Error::from(errno).to_string()));
        }
    }

    fn stray(&mut self, path: PathBuf) {
        let why = "it has the name of a record, but is not a valid one".to_owned();
        self.broken.push((path, why));
    }

    /// Finds the records of an issue's roles. Most issues have none, which one system call tells.
    fn roles(&mut self, repo: &Path, open: &OwnedFd, number: u64, sessions: &mut Vec<Slot>) {
        let below = format!("{number}/{}", layout::ROLES);
        let entries = match rustix::fs::openat(open, below.as_str(), FOLDER, Mode::empty()) {
            Ok(open) => rustix::fs::Dir::new(open),
            Err(errno) => Err(errno),
        };
        let path = || repo.join(&below);
        let entries = match entries {
            Ok(entries) => entries,
            // With O_DIRECTORY, a link is no folder either.
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) if path().is_symlink() => {
                return self.symlinks.push(path());
            }
            Err(errno) => return self.broken(path(), errno),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => return self.broken(path(), errno),
            };
            let Ok(name) = entry.file_name().to_str() else {
                let name = entry.file_name().to_string_lossy();
                self.broken
                    .push((path().join(&*name), "its name is not UTF-8".to_owned()));
                continue;
            };
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                kind = std::fs::symlink_metadata(path().join(name)).map_or(FileType::Unknown, |found| {
                    FileType::from_raw_mode(std::os::unix::fs::MetadataExt::mode(&found))
                });
            }
            match (kind, RoleEntry::of(name)) {
                (FileType::Symlink, _) => self.symlinks.push(path().join(name)),
                (FileType::RegularFile, RoleEntry::Record(role)) => sessions.push(Slot::Role(number, role)),
                (_, RoleEntry::Record(_)) => {
                    self.broken
                        .push((path().join(name), "it is not a plain file".to_owned()));
                }
                (_, RoleEntry::Stray) => self.stray(path().join(name)),
                (_, RoleEntry::Other) => {}
            }
        }
    }

    fn descend(&mut self, path: PathBuf, open: OwnedFd, root: &Path, depth: usize) {
        let entries = match rustix::fs::Dir::read_from(&open) {
            Ok(entries) => entries,
            Err(errno) => return self.broken(path, errno),
        };
        // The folders of instances and owners hold no records.
        let holds_records = depth >= 3;
        let (mut base, mut sessions, mut folders) = (false, Vec::new(), Vec::new());
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
                (FileType::RegularFile, Entry::Record(number)) => sessions.push(Slot::Issue(number)),
                (FileType::RegularFile, Entry::Named(name)) => sessions.push(Slot::Named(name)),
                (FileType::Directory, Entry::Folder(number)) => {
                    self.roles(&path, &open, number, &mut sessions);
                }
                (_, Entry::Base | Entry::Record(_) | Entry::Named(_)) => {
                    self.broken
                        .push((path.join(name), "it is not a plain file".to_owned()));
                }
                (_, Entry::Stray) => self.stray(path.join(name)),
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
        if base || !sessions.is_empty() {
            match path.strip_prefix(root).ok().and_then(layout::repo_of) {
                Some(repo) => {
                    sessions.sort_unstable_by(|a: &Slot, b| a.order().cmp(&b.order()));
                    self.folders.push(Folder {
                        path,
                        open,
                        repo,
                        base,
                        sessions,
                    });
                }
                None => self.broken.push((
                    path,
                    "it holds records, but is not the folder of a repository".to_owned(),
                )),
            }
        }
    }
}

/// So many records are taken at a time: few enough that no thread waits for another at the end.
const BLOCK: usize = 64;

/// What was made of the records of one block, and what could not be read.
type Block<T> = (T, Vec<Broken>);

/// Reads the files that are wanted on some threads, this one among them, and hands on what was made of them in order.
/// Nothing is kept for longer than its turn takes to come: of ten thousand records the memory alone would cost as
/// much time as all else.
fn read_all<R: Record, T: Default + Send>(
    wanted: &[Wanted<'_>],
    add: impl Fn(&mut T, R, &str) + Sync,
    mut take: impl FnMut(T),
) -> Vec<Broken> {
    let blocks: Vec<_> = wanted.chunks(BLOCK).collect();
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(1, 8);
    let next = AtomicUsize::new(0);
    let read_one = |buffer: &mut Vec<u8>| {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let block = blocks.get(at)?;
        buffer.resize(32 * 1024, 0);
        Some((at, read_block(block, buffer, &add)))
    };
    let mut broken = Vec::new();
    let mut early = BTreeMap::new();
    let mut turn = 0;
    let mut in_order = |(at, block): (usize, Block<T>)| {
        early.insert(at, block);
        while let Some((made, bad)) = early.remove(&turn) {
            take(made);
            broken.extend(bad);
            turn += 1;
        }
    };
    std::thread::scope(|scope| {
        // A slow taker holds up the others, and nothing piles up.
        let (sender, done) = mpsc::sync_channel(2 * threads);
        // One block is not worth a thread.
        for _ in 1..threads.min(blocks.len()) {
            let sender = sender.clone();
            scope.spawn(move || {
                let mut buffer = Vec::new();
                while let Some(block) = read_one(&mut buffer) {
                    // Nobody listens any more where the other side panicked.
                    let _ = sender.send(block);
                }
            });
        }
        drop(sender);
        let mut buffer = Vec::new();
        while let Some(block) = read_one(&mut buffer) {
            in_order(block);
            done.try_iter().for_each(&mut in_order);
        }
        done.iter().for_each(&mut in_order);
    });
    broken
}

fn read_block<R: Record, T: Default>(
    wanted: &[Wanted<'_>],
    buffer: &mut [u8],
    add: impl Fn(&mut T, R, &str),
) -> Block<T> {
    let mut made = T::default();
    let mut broken = Vec::new();
    for (folder, slot) in wanted {
        if let Some((record, text)) = read_quickly::<R>(folder, slot, buffer) {
            add(&mut made, record, text);
            continue;
        }
        match read_with_care(folder, slot) {
            Ok(Some((record, text))) => add(&mut made, record, &text),
            // Removed since the walk.
            Ok(None) => {}
            Err(StoreError::Broken { path, why }) => broken.push((path, why)),
            Err(error) => broken.push((folder.path.join(slot.record()), error.in_full())),
        }
    }
    (made, broken)
}

/// Three system calls for a record: nothing where anything is unusual, such as a large one.
fn read_quickly<'a, R: Record>(folder: &Folder, slot: &Slot, buffer: &'a mut [u8]) -> Option<(R, &'a str)> {
    let open = rustix::fs::openat(&folder.open, slot.record(), FILE, Mode::empty()).ok()?;
    let length = rustix::io::read(&open, &mut *buffer).ok()?;
    // Checked as a whole, not string by string.
    if length == buffer.len() {
        return None;
    }
    // Checked as a whole, not string by string.
    let text = std::str::from_utf8(buffer.get(..length)?).ok()?;
    if !records::is_object(text) {
        return None;
    }
    let record = R::understand(text).ok()?;
    record.belongs(&folder.repo, slot).then_some((record, text))
}

/// Reads the whole file, and says what is wrong with it.
fn read_with_care<R: Record>(folder: &Folder, slot: &Slot) -> Result<Option<(R, String)>, StoreError> {
    let path = folder.path.join(slot.record());
    let Some(key) = slot.key(&folder.repo) else {
        return Err(StoreError::broken(&path, "it has no valid name".to_owned()));
    };
    match fsx::read_bounded(&path, MAX_RECORD) {
        Ok(bytes) => {
            let record = records::parse_as(&path, &bytes, &key)?;
            let text =
                String::from_utf8(bytes).map_err(|error| StoreError::broken(&path, error.to_string()))?;
            Ok(Some((record, text)))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
