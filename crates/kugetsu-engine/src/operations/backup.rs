//! `backup`: kugetsu's home and opencode's database in one archive.
//!
//! A backup is made while turns run and a daemon writes. Every file is replaced as a whole or only grows, so a copy of it
//! is whole; SQLite copies its databases as they are at one moment. The order makes the copies fit each other: the queue
//! comes first, so a task that ends meanwhile is delivered again, and the engine runs no turn twice; opencode's database
//! comes after the records, so it has every session that they name. What moves between two folders meanwhile is looked
//! for in both.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;
use uuid::Uuid;

use super::destroy::EXPORT;
use super::interrupts::Interrupts;
use super::{Engine, EngineError, points};
use crate::backup::{self, Writer};
use crate::cancel::Cancel;
use crate::fsx::{self, FsError};
use crate::home;
use crate::log_file;
use crate::opencode::{DatabaseError, DatabaseFile};
use crate::sqlite;
use crate::store::{RecordKey, StoreError};
use crate::turn::Interrupt;
use kugetsu_api::{BackupManifest, ErrorCode};

/// What the folders in `run/` are called in which a backup keeps its copies of databases.
const SCRATCH: &str = "backup-";
/// How long the queue may be locked.
const QUEUE_WAIT: Duration = Duration::from_secs(5);

/// Where an archive goes.
#[derive(Debug)]
pub enum BackupTarget {
    /// To a file of this name, which appears when the archive is complete.
    File {
        /// The file.
        path: PathBuf,
        /// Whether it may replace a file.
        replace: bool,
    },
    /// To an open file.
    Open(File),
}

/// What `backup` did.
#[derive(Debug)]
pub struct BackedUp {
    /// What the archive has.
    pub manifest: BackupManifest,
    /// Its size in bytes.
    pub size: u64,
    /// What is in the home and not in the archive: links, what is not a file, and databases of sandboxes that cannot be
    /// read.
    pub skipped: Vec<PathBuf>,
}

impl Engine {
    /// Writes an archive of the home and, with `with_opencode`, of opencode's database. Turns and a daemon may run.
    pub async fn backup(
        &self,
        target: BackupTarget,
        with_opencode: bool,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<BackedUp, EngineError> {
        let mut interrupts: Interrupts = interrupts.into();
        let write = move |engine: &Self| engine.write_backup(target, with_opencode);
        self.interruptible(&mut interrupts, write).await
    }

    fn write_backup(&self, target: BackupTarget, with_opencode: bool) -> Result<BackedUp, EngineError> {
        if !self.store.home().is_dir() {
            return Err(EngineError::NotFound {
                code: ErrorCode::NotFound,
                problem: format!("there is no home {} to back up", self.store.home().display()),
                hint: "set KUGETSU_HOME to another home".to_owned(),
            });
        }
        let (path, replace) = match target {
            BackupTarget::Open(file) => return self.pack(&file, Path::new("stdout"), with_opencode),
            BackupTarget::File { path, replace } => (path, replace),
        };
        let taken = || EngineError::Usage {
            problem: format!("{} exists already; nothing was written", path.display()),
            hint: "choose another name, or replace it: --force".to_owned(),
        };
        if !replace && path.symlink_metadata().is_ok() {
            return Err(taken());
        }
        let mut packed = None;
        let staged = fsx::stage(&path, |file| {
            let result = packed.insert(self.pack(file, &path, with_opencode));
            result.as_ref().map(drop).map_err(|_| io::ErrorKind::Other.into())
        });
        // The cause of a failure is better known here.
        let packed = packed.transpose()?;
        let staged = staged.map_err(StoreError::from)?;
        let placed = if replace {
            staged.commit()
        } else {
            staged.commit_new()
        };
        match placed {
            Err(FsError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                return Err(taken());
            }
            placed => placed.map_err(StoreError::from)?,
        }
        packed.ok_or(EngineError::Internal(
            "an archive was staged without being written",
        ))
    }

    fn pack(&self, file: &File, path: &Path, with_opencode: bool) -> Result<BackedUp, EngineError> {
        let writing = |source| written(path, source);
        let time = Timestamp::now();
        let home = self.real_home();
        let scratch = Scratch::make(&home)?;
        let mut pack = Pack {
            writer: Writer::new(io::BufWriter::new(Counted { file, size: 0 })).map_err(writing)?,
            path,
            home: &home,
            cancel: &self.cancel,
            seen: HashSet::new(),
            skipped: Vec::new(),
        };
        pack.queue(&scratch)?;
        pack.settings()?;
        pack.file(Path::new(home::TOKENS))?;
        pack.folder(Path::new(home::SPENDING), &|_| true)?;
        pack.folder(Path::new(home::SESSIONS), &|_| true)?;
        pack.folder(Path::new(home::TRASH), &|_| true)?;
        points::BACKUP_RECORDS_READ.pass();
        // What `restore` has taken out of the trash meanwhile.
        pack.folder(Path::new(home::SESSIONS), &|_| true)?;
        for record in self.store.session_records()?.found {
            if let Some(sandbox) = &record.sandbox {
                let below = Path::new(home::SANDBOXES)
                    .join(sandbox.home.to_string())
                    .join(home::SANDBOX_DATABASE);
                pack.sandbox(&below, &scratch)?;
            }
        }
        let mut version = None;
        if with_opencode {
            let opencode = self.opencode()?;
            let database = opencode.database_file();
            if !database.is_missing()? {
                let copy = scratch.copy_of(&database, &self.cancel)??;
                pack.copy(backup::OPENCODE, &copy)?;
                version = Some(opencode.version.to_string());
            }
        }
        // What `destroy` and `prune` have moved meanwhile, and what a `destroy` that has not ended has exported.
        pack.folder(Path::new(home::TRASH), &|_| true)?;
        pack.folder(Path::new(home::SESSIONS), &|path| path.ends_with(EXPORT))?;
        pack.withdraw_what_is_gone();
        let Pack { writer, skipped, .. } = pack;
        let (out, manifest) = writer.finish(version, time).map_err(writing)?;
        let out = out.into_inner().map_err(|error| writing(error.into_error()))?;
        Ok(BackedUp {
            manifest,
            size: out.size,
            skipped,
        })
    }
}

/// What is written into an archive, and how far it is.
struct Pack<'a> {
    writer: Writer<io::BufWriter<Counted<'a>>>,
    path: &'a Path,
    home: &'a Path,
    cancel: &'a Cancel,
    /// The paths below the home that were added or skipped.
    seen: HashSet<PathBuf>,
    skipped: Vec<PathBuf>,
}

impl Pack<'_> {
    /// Adds the files below a folder that have not been added and are `wanted`, in the order of their names.
    fn folder(&mut self, below: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<(), EngineError> {
        let folder = self.home.join(below);
        if !folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(());
        }
        let mut names = fsx::names_in(&folder, "").map_err(StoreError::from)?;
        names.sort();
        for name in names {
            if fsx::is_temp_name(&name) {
                continue;
            }
            let below = below.join(&name);
            match self.home.join(&below).symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => self.folder(&below, wanted)?,
                Ok(_) if wanted(&below) => self.file(&below)?,
                // It has gone.
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds a file, if it is there and has not been added.
    fn file(&mut self, below: &Path) -> Result<(), EngineError> {
        if !self.seen.insert(below.to_owned()) {
            return Ok(());
        }
        let path = self.home.join(below);
        let Some(name) = below.to_str().filter(|_| !is_socket_or_pipe(&path)) else {
            self.skipped.push(path);
            return Ok(());
        };
        match fsx::open_plain(&path) {
            Ok(file) => self.open_file(&format!("{}{name}", backup::HOME), &file),
            Err(error) if error.is_not_found() => {
                // Perhaps it has been compressed.
                let compressed = log_file::compressed(below);
                if self.home.join(&compressed).is_file() {
                    return self.file(&compressed);
                }
                Ok(())
            }
            Err(FsError::Symlink { path } | FsError::NotAFile { path }) => {
                self.skipped.push(path);
                Ok(())
            }
            Err(error) => Err(StoreError::from(error).into()),
        }
    }

    fn open_file(&mut self, name: &str, file: &File) -> Result<(), EngineError> {
        let writing = |source| written(self.path, source);
        let metadata = file.metadata().map_err(writing)?;
        let modified = metadata.modified().ok();
        let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let content = Watched {
            inner: file,
            cancel: self.cancel,
        };
        let modified = modified.map_or(0, |time| time.as_secs());
        self.writer
            .add(name, content, metadata.len(), modified)
            .map_err(writing)
    }

    /// Adds a copy of a database under another name.
    fn copy(&mut self, name: &str, copy: &Path) -> Result<(), EngineError> {
        let file = fsx::open_plain(copy).map_err(StoreError::from)?;
        // Its space is free again when it has been added.
        let _ = std::fs::remove_file(copy);
        self.open_file(name, &file)
    }

    /// Adds the settings, which may be a link to where a person keeps such files.
    fn settings(&mut self) -> Result<(), EngineError> {
        let path = self.home.join(home::SETTINGS);
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        let target = path.canonicalize().unwrap_or_else(|_| path.clone());
        match fsx::open_plain(&target) {
            Ok(file) => self.open_file(&format!("{}{}", backup::HOME, home::SETTINGS), &file),
            Err(FsError::Symlink { .. } | FsError::NotAFile { .. }) => {
                self.skipped.push(path);
                Ok(())
            }
            Err(error) => Err(StoreError::from(error).into()),
        }
    }

    fn queue(&mut self, scratch: &Scratch) -> Result<(), EngineError> {
        let path = self.home.join(home::QUEUE);
        if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Ok(());
        }
        let copy = scratch.folder.join(home::QUEUE);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NOFOLLOW
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let copied = Connection::open_with_flags(&path, flags).and_then(|queue| {
            queue.busy_timeout(QUEUE_WAIT)?;
            sqlite::copy(&queue, &copy, true, self.cancel)
        });
        match copied {
            Ok(()) => self.copy(&format!("{}{}", backup::HOME, home::QUEUE), &copy),
            Err(error) if sqlite::is_full(&error) => Err(written(&copy, io::ErrorKind::StorageFull.into())),
            Err(error) => Err(StoreError::Broken {
                path,
                why: error.to_string(),
            }
            .into()),
        }
    }

    /// Adds the database of a sandbox. A turn may have done anything to it, so one that cannot be read is skipped.
    fn sandbox(&mut self, below: &Path, scratch: &Scratch) -> Result<(), EngineError> {
        let database = DatabaseFile {
            path: self.home.join(below),
            confined: true,
        };
        if matches!(database.is_missing(), Ok(true)) {
            return Ok(());
        }
        match scratch.copy_of(&database, self.cancel)? {
            Ok(copy) => self.copy(&format!("{}{}", backup::HOME, below.display()), &copy),
            Err(_) if self.cancel.is_set() => Err(EngineError::Internal("the interrupt is the error")),
            Err(error) => {
                tracing::warn!("not in the backup: {error}");
                self.skipped.push(database.path);
                Ok(())
            }
        }
    }

    /// Withdraws the records that have been moved to the trash since they were added, with their other files.
    fn withdraw_what_is_gone(&mut self) {
        let sessions = format!("{}{}/", backup::HOME, home::SESSIONS);
        let keys = self.writer.files().iter().filter_map(|file| {
            let record = Path::new(file.path.strip_prefix(&sessions)?);
            let is_gone = !self.home.join(home::SESSIONS).join(record).exists();
            RecordKey::of_record(record).filter(|_| is_gone)
        });
        let keys: Vec<_> = keys.collect();
        self.writer.withdraw(|name| {
            let Some(below) = name.strip_prefix(&sessions).map(Path::new) else {
                return false;
            };
            keys.iter().any(|key| key.has(below))
        });
    }
}

/// A folder in `run/` for copies of databases. Removed with this value, or else by the next backup.
struct Scratch {
    folder: PathBuf,
    /// Held while this exists.
    _lock: File,
}

impl Scratch {
    fn make(home: &Path) -> Result<Self, EngineError> {
        let run = home.join(home::RUN);
        remove_abandoned(&run, SCRATCH);
        let folder = run.join(format!("{SCRATCH}{}", Uuid::new_v4()));
        let lock = make_locked(home, &folder)?;
        Ok(Self { folder, _lock: lock })
    }

    /// A copy of a database of opencode. The inner error is that of the database.
    fn copy_of(
        &self,
        database: &DatabaseFile,
        cancel: &Cancel,
    ) -> Result<Result<PathBuf, DatabaseError>, EngineError> {
        let copy = self.folder.join(backup::OPENCODE);
        let opened = match database.open_read() {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        let copied = opened.copy_whole(&copy, cancel);
        Ok(copied.map_err(|full| written(&copy, full))?.map(|()| copy))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fsx::remove_dir_all_durable(&self.folder);
    }
}

/// A reader that ends with an error when the work must end.
pub(super) struct Watched<'a, R> {
    pub(super) inner: R,
    pub(super) cancel: &'a Cancel,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_set() {
            return Err(io::Error::other("interrupted"));
        }
        self.inner.read(out)
    }
}

impl<R: Seek> Seek for Watched<'_, R> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Counts what a file has taken.
struct Counted<'a> {
    file: &'a File,
    size: u64,
}

impl io::Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a folder, and takes its lock.
pub(super) fn make_locked(root: &Path, folder: &Path) -> Result<File, EngineError> {
    fsx::create_dir_all_volatile(root, folder).map_err(StoreError::from)?;
    let locked = File::open(folder).and_then(|opened| match opened.try_lock() {
        Ok(()) => Ok(opened),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
    });
    locked.map_err(|source| {
        StoreError::Io {
            action: "lock",
            path: folder.to_owned(),
            source,
        }
        .into()
    })
}

/// Removes the folders with this prefix whose process has ended.
pub(super) fn remove_abandoned(parent: &Path, prefix: &str) {
    for name in fsx::names_in(parent, "").unwrap_or_default() {
        let folder = parent.join(&name);
        if !name.as_encoded_bytes().starts_with(prefix.as_bytes())
            || !folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
        {
            continue;
        }
        if let Ok(opened) = File::open(&folder)
            && opened.try_lock().is_ok()
        {
            let _ = fsx::remove_dir_all_durable(&folder);
        }
    }
}

/// The folder of a path, and its name in it.
pub(super) fn place_of(path: &Path) -> (&Path, &OsStr) {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    (
        parent.unwrap_or(Path::new(".")),
        path.file_name().unwrap_or_default(),
    )
}

pub(super) fn written(path: &Path, source: io::Error) -> EngineError {
    StoreError::from(FsError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
    .into()
}

fn is_socket_or_pipe(path: &Path) -> bool {
    let kind = path.symlink_metadata().map(|metadata| metadata.file_type());
    kind.is_ok_and(|kind| !kind.is_file() && !kind.is_symlink())
}
