//! Finds every record, without the index and without a lock.
//!
//! One walk over the folders finds the names. Two or more threads then open the files, each relative to its folder,
//! because with ten thousand files every system call and every copy counts. Each record is reduced to what the caller
//! needs where it is read, so that ten thousand records are never in memory at once. A file that cannot be read is
//! listed separately and does not stop the walk.

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
use kugetsu_api::{Address, BaseRecord, RepoRef, SessionRecord, SessionSummary};

/// A file or folder that could not be read, and the reason.
pub type Broken = (PathBuf, String);

/// The result of a walk over the records.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing<T> {
    /// The records, in the order of their canonical references.
    pub found: Vec<T>,
    /// Files and folders that could not be read, each with the reason.
    pub broken: Vec<Broken>,
}

/// The names of the records of one repository.
pub(crate) struct Folder {
    path: PathBuf,
    open: OwnedFd,
    repo: RepoRef,
    base: bool,
    /// The sessions, in the order of their addresses.
    sessions: Vec<Slot>,
}

impl Folder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn repo(&self) -> &RepoRef {
        &self.repo
    }

    /// The slots of the records in this folder.
    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.base.then_some(&Slot::Base).into_iter().chain(&self.sessions)
    }

    /// The keys of the records in this folder.
    pub(crate) fn keys(&self) -> impl Iterator<Item = RecordKey> {
        self.slots().filter_map(|slot| slot.key(&self.repo))
    }
}

/// What the names in a folder are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WalkedKind {
    /// Folders only.
    Upper,
    /// Records, and folders.
    Records,
    /// The files of an issue, with the folder of its roles.
    Issue,
    /// Records of roles.
    Roles,
}

/// The names in the folders of the records.
#[derive(Default)]
pub(crate) struct Walk {
    /// The folders, in the order of their repositories.
    pub(crate) folders: Vec<Folder>,
    symlinks: Vec<PathBuf>,
    /// Folders that could not be read, and files that are named like a record but are not one.
    pub(crate) broken: Vec<Broken>,
    /// Whether `dirs` is wanted.
    notes_dirs: bool,
    /// Every folder whose names decide what the walk finds.
    pub(super) dirs: Vec<(PathBuf, WalkedKind)>,
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// A file to read: its repository's folder, and its slot in that folder.
type RecordFile<'a> = (&'a Folder, &'a Slot);

impl Store {
    /// The record of every session.
    pub fn session_records(&self) -> Result<Listing<SessionRecord>, StoreError> {
        let mut found = Vec::new();
        let (_, broken) = self.fold_sessions(Vec::push, |block| found.extend(block))?;
        Ok(Listing { found, broken })
    }

    /// The record of every base.
    pub fn bases(&self) -> Result<Listing<BaseRecord>, StoreError> {
        let walk = self.walk()?;
        let (found, mut broken) = walk.read_bases();
        walk.add_broken(&mut broken);
        Ok(Listing { found, broken })
    }

    /// Folds the record of every session, in the order of their canonical references, in blocks of some dozens. `add`
    /// runs on a reader thread and adds one record to its block; `take` runs on this thread and gets the blocks in
    /// order while the readers continue. Returns the records of the bases, and the files and folders that could not be
    /// read, each with the reason.
    pub fn fold_sessions<T: Default + Send>(
        &self,
        add: impl Fn(&mut T, SessionRecord) + Sync,
        take: impl FnMut(T),
    ) -> Result<(Vec<BaseRecord>, Vec<Broken>), StoreError> {
        self.fold(|block: &mut T, record, _: &str| add(block, record), take)
    }

    /// Like [`Store::fold_sessions`], but reads only the fields that a listing needs. `add` also gets the text of the
    /// record's file, a valid JSON object.
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

    /// The addresses of all sessions, from the names of their files.
    pub fn addresses(&self) -> Vec<Address> {
        let walk = self.walk().unwrap_or_default();
        let keys = walk.folders.iter().flat_map(Folder::keys);
        keys.filter_map(|key| match key {
            RecordKey::Session(address) => Some(address),
            RecordKey::Base(_) => None,
        })
        .collect()
    }

    /// Finds the names of all records.
    pub(crate) fn walk(&self) -> Result<Walk, StoreError> {
        self.walk_into(Walk::default())
    }

    /// [`Store::walk`] that also tells which folders it depends on.
    pub(super) fn walk_for_watching(&self) -> Result<Walk, StoreError> {
        self.walk_into(Walk {
            notes_dirs: true,
            ..Walk::default()
        })
    }

    fn walk_into(&self, mut walk: Walk) -> Result<Walk, StoreError> {
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
    fn session_records(&self) -> Vec<RecordFile<'_>> {
        let folders = self.folders.iter();
        folders
            .flat_map(|folder| folder.sessions.iter().map(move |slot| (folder, slot)))
            .collect()
    }

    fn read_bases(&self) -> (Vec<BaseRecord>, Vec<Broken>) {
        let with_base = self.folders.iter().filter(|folder| folder.base);
        let files: Vec<_> = with_base.map(|folder| (folder, &Slot::Base)).collect();
        let mut found = Vec::new();
        let add = |block: &mut Vec<_>, record, _: &str| block.push(record);
        let broken = read_all(&files, add, |block| found.extend(block));
        (found, broken)
    }

    /// Adds the paths that the walk could not read to those of broken files.
    fn add_broken(self, broken: &mut Vec<Broken>) {
        broken.extend(self.broken);
        let links = self.symlinks.into_iter();
        broken.extend(links.map(|path| (path, "it is a symbolic link".to_owned())));
        broken.sort();
    }

    /// The files and folders that the walk could not read.
    pub(super) fn all_broken(self) -> Vec<Broken> {
        let mut broken = Vec::new();
        self.add_broken(&mut broken);
        broken
    }

    fn note_dir(&mut self, path: &Path, kind: WalkedKind) {
        if self.notes_dirs {
            self.dirs.push((path.to_owned(), kind));
        }
    }

    fn broken(&mut self, path: PathBuf, errno: rustix::io::Errno) {
        // A missing entry was removed during the walk.
        if errno != rustix::io::Errno::NOENT {
            self.broken.push((path, std::io::Error::from(errno).to_string()));
        }
    }

    fn stray(&mut self, path: PathBuf) {
        let why = "it is named like a record, but the name is not valid".to_owned();
        self.broken.push((path, why));
    }

    /// Finds the records of an issue's roles. Most issues have no roles, which costs one system call.
    fn roles(&mut self, repo: &Path, open: &OwnedFd, number: u64, sessions: &mut Vec<Slot>) {
        if self.notes_dirs {
            self.note_dir(&repo.join(number.to_string()), WalkedKind::Issue);
        }
        let below = format!("{number}/{}", layout::ROLES);
        let entries = match rustix::fs::openat(open, below.as_str(), FOLDER, Mode::empty()) {
            Ok(open) => rustix::fs::Dir::new(open),
            Err(errno) => Err(errno),
        };
        let path = || repo.join(&below);
        let entries = match entries {
            Ok(entries) => entries,
            // With O_DIRECTORY, a link counts as "not a folder" as well.
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) if path().is_symlink() => {
                return self.symlinks.push(path());
            }
            Err(errno) => return self.broken(path(), errno),
        };
        if self.notes_dirs {
            self.note_dir(&path(), WalkedKind::Roles);
        }
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
        let kind = if holds_records {
            WalkedKind::Records
        } else {
            WalkedKind::Upper
        };
        self.note_dir(&path, kind);
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
                let stat = rustix::fs::statat(&open, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
                kind = stat.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
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

/// The number of records in a block: few enough that no thread waits for another at the end.
pub(super) const BLOCK: usize = 64;

/// The folded records of one block, and the files that could not be read.
type Block<T> = (T, Vec<Broken>);

/// Reads the files on several threads, including this one, and passes the blocks to `take` in order. Keeps a block only
/// until its turn comes: with ten thousand records, the memory alone would cost as much time as everything else.
fn read_all<R: Record, T: Default + Send>(
    files: &[RecordFile<'_>],
    add: impl Fn(&mut T, R, &str) + Sync,
    mut take: impl FnMut(T),
) -> Vec<Broken> {
    let blocks: Vec<_> = files.chunks(BLOCK).collect();
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
        // The bound makes the readers wait for a slow `take`, so blocks do not accumulate.
        let (sender, done) = mpsc::sync_channel(2 * threads);
        // A single block needs no other thread.
        for _ in 1..threads.min(blocks.len()) {
            let sender = sender.clone();
            scope.spawn(move || {
                let mut buffer = Vec::new();
                while let Some(block) = read_one(&mut buffer) {
                    // The receiver is gone only if the main thread panicked.
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
    files: &[RecordFile<'_>],
    buffer: &mut [u8],
    add: impl Fn(&mut T, R, &str),
) -> Block<T> {
    let mut made = T::default();
    let mut broken = Vec::new();
    for (folder, slot) in files {
        if let Some((record, text)) = read_quickly::<R>(folder, slot, buffer) {
            add(&mut made, record, text);
            continue;
        }
        match read_with_care(&folder.path, &folder.repo, slot) {
            Ok(Some((record, text))) => add(&mut made, record, &text),
            // The file was removed after the walk.
            Ok(None) => {}
            Err(error) => broken.push(error),
        }
    }
    (made, broken)
}

/// Reads a record with three system calls. `None` if anything is unusual, for example a large file.
fn read_quickly<'a, R: Record>(folder: &Folder, slot: &Slot, buffer: &'a mut [u8]) -> Option<(R, &'a str)> {
    let open = rustix::fs::openat(&folder.open, slot.record(), FILE, Mode::empty()).ok()?;
    let length = rustix::io::read(&open, &mut *buffer).ok()?;
    // A full buffer may hold only the beginning of the file.
    if length == buffer.len() {
        return None;
    }
    // Checked as a whole, not string by string.
    let text = std::str::from_utf8(buffer.get(..length)?).ok()?;
    if !records::is_object(text) {
        return None;
    }
    let record = R::from_text(text).ok()?;
    record.belongs(&folder.repo, slot).then_some((record, text))
}

/// A record, or what is wrong with its file. `None` if there is no such file.
pub(super) fn read_file<R: Record>(folder: &Path, repo: &RepoRef, slot: &Slot) -> Result<Option<R>, Broken> {
    let read = read_with_care(folder, repo, slot)?;
    Ok(read.map(|(record, _)| record))
}

fn read_with_care<R: Record>(
    folder: &Path,
    repo: &RepoRef,
    slot: &Slot,
) -> Result<Option<(R, String)>, Broken> {
    read_whole(folder, repo, slot).map_err(|error| match error {
        StoreError::Broken { path, why } => (path, why),
        error => (folder.join(slot.record()), error.in_full()),
    })
}

/// Reads the whole file, and reports what is wrong with it.
fn read_whole<R: Record>(
    folder: &Path,
    repo: &RepoRef,
    slot: &Slot,
) -> Result<Option<(R, String)>, StoreError> {
    let path = folder.join(slot.record());
    let Some(key) = slot.key(repo) else {
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
