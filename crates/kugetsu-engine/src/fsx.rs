//! The only code that writes files directly.
//!
//! A write that has returned is on the disk, and a reader sees either the old file or the new one, never a part of it.
//! The order of steps: temporary file in the same folder, write, sync, rename, sync the folder. Prompts and answers are
//! private, so files get mode 0600 and folders 0700. Below the root that a caller names, no symbolic link is followed.
//!
//! [`points`] lists the places at which tests kill the process.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the room that they are banned to"
)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

/// The crash points of writing files.
pub(crate) mod points {
    crate::crash::crash_points! {
        FOLDER_MADE = "folder_made";
        TEMP_CREATED = "temp_created";
        TEMP_HALF_WRITTEN = "temp_half_written";
        TEMP_WRITTEN = "temp_written";
        TEMP_SYNCED = "temp_synced";
        RENAMED = "renamed";
        FOLDER_SYNCED = "folder_synced";
        APPEND_OPENED = "append_opened";
        APPEND_HALF_WRITTEN = "append_half_written";
        APPEND_WRITTEN = "append_written";
        MOVED = "moved";
    }
}

/// Prefix of temporary files' names.
pub const TEMP_PREFIX: &str = ".tmp-";

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The path is a symbolic link, or lies behind one.
    #[error("{} is a symbolic link, which is not followed", .path.display())]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// The path is a folder, a pipe or a device.
    #[error("{} is not a plain file", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file exceeds its reader's limit.
    #[error("{} is larger than {max} bytes", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        max: u64,
    },
    /// A system error.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// The failed action.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl FsError {
    /// The file or folder of the error.
    pub fn path(&self) -> &Path {
        match self {
            Self::Symlink { path }
            | Self::NotAFile { path }
            | Self::TooLarge { path, .. }
            | Self::Io { path, .. } => path,
        }
    }

    /// Whether the file does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        // The error of O_NOFOLLOW at a symbolic link.
        if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
            return Self::Symlink { path };
        }
        Self::Io { action, path, source }
    }
}

type Result<T> = std::result::Result<T, FsError>;

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    options.mode(0o600).custom_flags(flags.bits() as i32);
    options
}

/// Creates or replaces `path` with exactly `bytes`. The folder must exist.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes)?;
    sync_folder(folder_of(path))?;
    points::FOLDER_SYNCED.pass();
    Ok(())
}

/// Like [`write_atomic`], except that a power cut may bring the whole old file back.
pub fn write_atomic_relaxed(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes)
}

fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    refuse_symlink(path)?;
    let temp = temp_beside(path);
    let written = write_temp(&temp, bytes)
        .and_then(|()| fs::rename(&temp, path).map_err(|source| FsError::new("replace", path, source)));
    if let Err(error) = written {
        // Best effort: a leftover is recognisable by its name.
        let _ = fs::remove_file(&temp);
        return Err(error);
    }
    points::RENAMED.pass();
    Ok(())
}

/// Like [`write_atomic`], without waiting for the disk. A reader still sees either the old file or the new one; after a
/// power cut, either of them or none may exist. For files that are worthless after their writer's death.
pub fn write_atomic_volatile(path: &Path, bytes: &[u8]) -> Result<()> {
    refuse_symlink(path)?;
    let temp = temp_beside(path);
    let written = options()
        .write(true)
        .create_new(true)
        .open(&temp)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|source| FsError::new("write", &temp, source))
        .and_then(|()| fs::rename(&temp, path).map_err(|source| FsError::new("replace", path, source)));
    if written.is_err() {
        let _ = fs::remove_file(&temp);
    }
    written
}

/// A file that is complete on the disk, but does not have its name yet. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    temp: PathBuf,
    path: PathBuf,
}

impl Staged {
    /// Like [`Staged::commit`], with this time of the last change.
    pub fn commit_as_old_as(self, modified: std::time::SystemTime) -> Result<()> {
        let dated = options()
            .write(true)
            .open(&self.temp)
            .and_then(|file| file.set_modified(modified));
        dated.map_err(|source| FsError::new("write", &self.path, source))?;
        self.commit()
    }

    /// Gives the file its name, which nothing may have.
    pub fn commit_new(self) -> Result<()> {
        place_new(&self.temp, &self.path)
    }

    /// Gives the file its name, which replaces a file of that name.
    pub fn commit(self) -> Result<()> {
        refuse_symlink(&self.path)?;
        fs::rename(&self.temp, &self.path).map_err(|source| FsError::new("replace", &self.path, source))?;
        points::RENAMED.pass();
        sync_folder(folder_of(&self.path))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a commit, nothing has this name.
        let _ = fs::remove_file(&self.temp);
    }
}

/// Writes the file that becomes `path`, of any size, and waits until it is on the disk.
pub fn stage(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> Result<Staged> {
    let staged = Staged {
        temp: temp_beside(path),
        path: path.to_owned(),
    };
    let failed = |source| FsError::new("write", path, source);
    let file = options()
        .write(true)
        .create_new(true)
        .open(&staged.temp)
        .map_err(failed)?;
    points::TEMP_CREATED.pass();
    write(&file).map_err(failed)?;
    points::TEMP_WRITTEN.pass();
    file.sync_all().map_err(failed)?;
    points::TEMP_SYNCED.pass();
    Ok(staged)
}

/// Removes a file and returns its bytes, at most `max`. Of several concurrent callers, one gets the file. A concurrent
/// replacement is either read or remains as a new file. Returns `None` if there is no file.
pub fn take(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    let temp = temp_beside(path);
    match fs::rename(path, &temp) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FsError::new("take", path, source)),
    }
    let bytes = read_bounded(&temp, max);
    fs::remove_file(&temp).map_err(|source| FsError::new("remove", &temp, source))?;
    bytes.map(Some)
}

fn write_temp(temp: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |source| FsError::new("write", temp, source);
    let mut file = options()
        .write(true)
        .create_new(true)
        .open(temp)
        .map_err(failed)?;
    points::TEMP_CREATED.pass();
    if points::TEMP_HALF_WRITTEN.is_armed() {
        file.write_all(&bytes[..bytes.len() / 2]).map_err(failed)?;
        points::TEMP_HALF_WRITTEN.pass();
        file.write_all(&bytes[bytes.len() / 2..]).map_err(failed)?;
    } else {
        file.write_all(bytes).map_err(failed)?;
    }
    points::TEMP_WRITTEN.pass();
    file.sync_all().map_err(failed)?;
    points::TEMP_SYNCED.pass();
    Ok(())
}

fn temp_beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let unique = uuid::Uuid::new_v4().simple().to_string();
    folder_of(path).join(format!(
        "{TEMP_PREFIX}{}-{count}-{}",
        std::process::id(),
        &unique[..8]
    ))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Appends one line, which must not contain a line end, and waits until it is on the disk. First closes an incomplete
/// last line that an earlier crash left, so that it spoils no other line. The caller ensures that no one else writes to
/// the file.
pub fn append_line_durable(path: &Path, line: &[u8]) -> Result<()> {
    let failed = |source| FsError::new("append to", path, source);
    debug_assert!(!line.contains(&b'\n'), "a line holds no line end");
    let file = open_append(path)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::with_capacity(line.len() + 2);
    if length > 0 {
        let mut last = [0];
        file.read_exact_at(&mut last, length - 1).map_err(failed)?;
        if last != *b"\n" {
            bytes.push(b'\n');
        }
    }
    bytes.extend_from_slice(line);
    bytes.push(b'\n');
    points::APPEND_OPENED.pass();
    if points::APPEND_HALF_WRITTEN.is_armed() {
        (&file).write_all(&bytes[..bytes.len() / 2]).map_err(failed)?;
        points::APPEND_HALF_WRITTEN.pass();
        (&file).write_all(&bytes[bytes.len() / 2..]).map_err(failed)?;
    } else if let Err(source) = (&file).write_all(&bytes) {
        // A full disk may have taken part of the line: remove that part.
        let _ = file.set_len(length);
        return Err(failed(source));
    }
    points::APPEND_WRITTEN.pass();
    file.sync_data().map_err(failed)?;
    if length == 0 {
        sync_folder(folder_of(path))?;
    }
    Ok(())
}

/// Opens a log for appending, and creates it if it does not exist. Not synced.
pub fn create_append(path: &Path) -> Result<File> {
    open_append(path)
}

fn open_append(path: &Path) -> Result<File> {
    let opened = options().read(true).append(true).create(true).open(path);
    plain(opened.map_err(|source| FsError::new("open", path, source))?, path)
}

/// Opens a lock file, and creates it if it does not exist.
pub(crate) fn open_lock(path: &Path) -> Result<File> {
    let opened = options().read(true).write(true).create(true).open(path);
    plain(opened.map_err(|source| FsError::new("open", path, source))?, path)
}

/// Opens a plain file for reading.
pub fn open_plain(path: &Path) -> Result<File> {
    let opened = options().read(true).open(path);
    plain(opened.map_err(|source| FsError::new("read", path, source))?, path)
}

/// Makes a file that must not exist, and opens it for writing. Not synced.
pub fn create_new(path: &Path) -> Result<File> {
    let opened = options().write(true).create_new(true).open(path);
    opened.map_err(|source| FsError::new("write", path, source))
}

fn plain(file: File, path: &Path) -> Result<File> {
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(FsError::NotAFile {
            path: path.to_owned(),
        }),
        Err(source) => Err(FsError::new("look at", path, source)),
    }
}

/// Reads a whole file of at most `max` bytes.
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>> {
    let file = options()
        .read(true)
        .open(path)
        .map_err(|source| FsError::new("read", path, source))?;
    let mut bytes = Vec::new();
    read_open(&file, path, max, &mut bytes)?;
    Ok(bytes)
}

/// Reads an open file of at most `max` bytes into `bytes`, which is cleared first.
fn read_open(file: &File, path: &Path, max: u64, bytes: &mut Vec<u8>) -> Result<()> {
    let failed = |source| FsError::new("read", path, source);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FsError::NotAFile {
            path: path.to_owned(),
        });
    }
    bytes.clear();
    if metadata.len() <= max {
        // One byte more than the file's size, so that the first read detects the end.
        bytes.reserve(usize::try_from(metadata.len()).unwrap_or(0) + 1);
        file.take(max + 1).read_to_end(bytes).map_err(failed)?;
    }
    if metadata.len() > max || bytes.len() as u64 > max {
        return Err(FsError::TooLarge {
            path: path.to_owned(),
            max,
        });
    }
    Ok(())
}

/// Creates `folder` and its missing parents down from `root`, each on the disk before the next. Nothing between `root`
/// and `folder` may be a symbolic link; `root` itself may be one.
pub fn create_dir_all_durable(root: &Path, folder: &Path) -> Result<()> {
    create_dir_all(root, folder, true)
}

/// Like [`create_dir_all_durable`], without waiting for the disk; for folders that are worthless after a reboot.
pub fn create_dir_all_volatile(root: &Path, folder: &Path) -> Result<()> {
    create_dir_all(root, folder, false)
}

fn create_dir_all(root: &Path, folder: &Path, durable: bool) -> Result<()> {
    make_folder_if_missing(root)?;
    each_below(root, folder, |path| match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Err(FsError::Symlink {
            path: path.to_owned(),
        }),
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(FsError::Io {
            action: "use as a folder",
            path: path.to_owned(),
            source: io::ErrorKind::NotADirectory.into(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_folder(path, durable),
        Err(source) => Err(FsError::new("look at", path, source)),
    })
}

/// Fails if `path`, or a folder between it and `root`, is a symbolic link. A missing path is not an error.
pub fn refuse_symlinks(root: &Path, path: &Path) -> Result<()> {
    each_below(root, path, refuse_symlink)
}

fn refuse_symlink(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Err(FsError::Symlink {
            path: path.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn each_below(root: &Path, path: &Path, mut visit: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let below = path.strip_prefix(root).map_err(|_| FsError::Io {
        action: "leave the store for",
        path: path.to_owned(),
        source: io::ErrorKind::InvalidInput.into(),
    })?;
    let mut current = root.to_owned();
    for component in below.components() {
        current.push(component);
        visit(&current)?;
    }
    Ok(())
}

fn make_folder_if_missing(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_folder_if_missing(above)?;
    }
    make_folder(path, true)
}

fn make_folder(path: &Path, durable: bool) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            points::FOLDER_MADE.pass();
            if durable {
                sync_folder(folder_of(path))
            } else {
                Ok(())
            }
        }
        // Another process created it first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => refuse_symlink(path),
        Err(source) => Err(FsError::new("make the folder", path, source)),
    }
}

/// Waits until the names in `folder` are on the disk.
pub fn sync_folder(folder: &Path) -> Result<()> {
    let failed = |source| FsError::new("sync", folder, source);
    File::open(folder)
        .and_then(|opened| opened.sync_all())
        .map_err(failed)
}

/// Waits until the data that another process wrote into a file is on the disk.
pub fn sync_file(path: &Path) -> Result<()> {
    refuse_symlink(path)?;
    let failed = |source| FsError::new("sync", path, source);
    File::open(path)
        .and_then(|opened| opened.sync_all())
        .map_err(failed)
}

/// Removes a file and waits until the removal is on the disk. A missing file is not an error.
pub fn remove_file_durable(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(folder_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(FsError::new("remove", path, source)),
    }
}

/// Removes a folder and its contents. Links inside are removed, not followed. A missing folder is not an error.
pub fn remove_dir_all_durable(path: &Path) -> Result<()> {
    let removed = fs::remove_dir_all(path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Err(error),
        _ => {
            flatten(path)?;
            fs::remove_dir_all(path)
        }
    });
    match removed {
        Ok(()) => sync_folder(folder_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(FsError::new("remove", path, source)),
    }
}

/// Moves a file or folder within one file system, and waits until both names are on the disk. The caller ensures that
/// the target does not exist: a file there would be replaced.
pub fn rename_durable(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| FsError::new("move", from, source))?;
    points::MOVED.pass();
    sync_folder(folder_of(to))?;
    sync_folder(folder_of(from))
}

/// Moves a file or folder to a name that nothing may have, and waits until both names are on the disk.
pub fn place_new(from: &Path, to: &Path) -> Result<()> {
    let failed = |source| FsError::new("make", to, source);
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // The file system does not know how.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            if to.symlink_metadata().is_ok() {
                return Err(failed(io::ErrorKind::AlreadyExists.into()));
            }
            fs::rename(from, to).map_err(failed)?;
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    points::MOVED.pass();
    sync_folder(folder_of(to))?;
    sync_folder(folder_of(from))
}

/// Exchanges the names of two folders in one step, and waits until that is on the disk. False if the file system does
/// not know how.
pub fn exchange_durable(one: &Path, two: &Path) -> Result<bool> {
    match rustix::fs::renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => return Ok(false),
        Err(errno) => return Err(FsError::new("move", two, errno.into())),
    }
    points::MOVED.pass();
    sync_folder(folder_of(one))?;
    sync_folder(folder_of(two))?;
    Ok(true)
}

/// Waits until everything that was written to the file system of this folder is on the disk.
pub fn sync_all_of(folder: &Path) -> Result<()> {
    let failed = |source| FsError::new("sync", folder, source);
    let opened = File::open(folder).map_err(failed)?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(&opened).map_err(|errno| failed(errno.into()))?;
    #[cfg(not(target_os = "linux"))]
    {
        let _ = opened;
        rustix::fs::sync();
    }
    Ok(())
}

/// Moves the contents of a folder into another one, which is created below `root` if necessary, and waits until all
/// names are on the disk. The entry named `except` stays. Replaces nothing: an entry whose name is taken gets a number
/// appended.
pub fn move_entries(root: &Path, from: &Path, to: &Path, except: &str) -> Result<()> {
    create_dir_all_durable(root, to)?;
    for name in names_in(from, except)? {
        let mut target = to.join(&name);
        let mut number = 0;
        while target.symlink_metadata().is_ok() {
            number += 1;
            let mut other = name.clone();
            other.push(format!(".{number}"));
            target = to.join(other);
        }
        let source = from.join(&name);
        fs::rename(&source, target).map_err(|error| FsError::new("move", &source, error))?;
        points::MOVED.pass();
    }
    sync_folder(to)?;
    sync_folder(from)
}

/// The names in a folder without `except`; empty if there is no folder.
pub fn names_in(folder: &Path, except: &str) -> Result<Vec<std::ffi::OsString>> {
    let reading = |source| FsError::new("read the folder", folder, source);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(reading(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(reading)?.file_name();
        if name != except {
            names.push(name);
        }
    }
    Ok(names)
}

/// How many folders below another one [`flatten`] leaves: few enough for the longest path that the system takes, and for the
/// open files of a process, whatever their names.
const FLAT: usize = 12;

/// Moves folders that are far below this one to this one itself, so that programs can remove them.
fn flatten(top: &Path) -> io::Result<()> {
    let mut open = vec![(top.to_owned(), 0)];
    while let Some((folder, depth)) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            if depth < FLAT {
                open.push((entry.path(), depth + 1));
                continue;
            }
            let moved = top.join(format!("flat-{}", uuid::Uuid::new_v4().simple()));
            fs::rename(entry.path(), &moved)?;
            open.push((moved, 1));
        }
    }
    Ok(())
}

/// Removes an empty folder; any other stays.
pub fn remove_empty_dir(folder: &Path) -> Result<()> {
    match fs::remove_dir(folder) {
        Ok(()) => sync_folder(folder_of(folder)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        Err(source) => Err(FsError::new("remove", folder, source)),
    }
}

/// Copies a file of any size to a path that does not exist yet, and waits until it is on the disk.
pub fn copy_durable(from: &Path, to: &Path) -> Result<()> {
    let reading = |source| FsError::new("read", from, source);
    let writing = |source| FsError::new("write", to, source);
    let mut source = plain(options().read(true).open(from).map_err(reading)?, from)?;
    let mut target = options().write(true).create_new(true).open(to).map_err(writing)?;
    io::copy(&mut source, &mut target).map_err(writing)?;
    target.sync_all().map_err(writing)?;
    sync_folder(folder_of(to))
}

/// Whether a file name is that of a temporary file.
pub fn is_temp_name(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes())
}

/// Lets the owner run a file.
pub fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(|source| FsError::new("make executable", path, source))
}
