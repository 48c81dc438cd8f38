//! Logs to which every turn of a session appends, such as `hooks.log`.
//!
//! A log makes room when it is opened and in a collection: what it had becomes `NAME.old`, which keeps the newest part.
//! Programs write to these logs themselves, so a log may grow beyond its limit as long as one of them runs.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::{RecordKey, Store, StoreError, layout};
use crate::fsx::{self, FsError};

/// The size from which a log makes room, and the largest size of what stays of the old one, in bytes.
const LIMIT: u64 = 4 << 20;
const ENDING: &str = ".log";
const OLD: &str = ".old";

impl Store {
    /// Opens a log to which every turn of a key appends. A log that has grown large makes room first.
    pub fn open_lasting_log(&self, key: &RecordKey, name: &str) -> Result<File, StoreError> {
        let path = self.folder(key).join(name);
        if is_large(&path) {
            make_room(&path)?;
        }
        self.open_log(key, name)
    }

    /// The lasting logs of a key that are larger than they should be.
    pub(super) fn large_lasting_logs(&self, key: &RecordKey) -> Vec<PathBuf> {
        let folder = self.folder(key);
        let names = fsx::names_in(&folder, layout::ROLES).unwrap_or_default();
        let is_log = |name: &OsString| {
            let name = name.to_str().unwrap_or_default();
            name.strip_suffix(OLD).unwrap_or(name).ends_with(ENDING)
        };
        let paths = names.into_iter().filter(is_log).map(|name| folder.join(name));
        paths.filter(|path| is_large(path)).collect()
    }
}

fn is_large(path: &Path) -> bool {
    size_of(path) > LIMIT
}

fn size_of(path: &Path) -> u64 {
    let metadata = path.symlink_metadata().ok().filter(std::fs::Metadata::is_file);
    metadata.map_or(0, |metadata| metadata.len())
}

/// Makes room in a log, or shortens an old one. Returns how many bytes are free now.
pub(super) fn make_room(path: &Path) -> Result<u64, FsError> {
    if path.extension().is_some_and(|ending| ending == &OLD[1..]) {
        return shorten(path);
    }
    let mut old = path.as_os_str().to_owned();
    old.push(OLD);
    let old = PathBuf::from(old);
    let replaced = size_of(&old);
    match fsx::rename_durable(path, &old) {
        Ok(()) => Ok(replaced + shorten(&old)?),
        // Another process was faster.
        Err(error) if error.is_not_found() => Ok(0),
        Err(error) => Err(error),
    }
}

/// Keeps the newest lines.
fn shorten(path: &Path) -> Result<u64, FsError> {
    let size = size_of(path);
    let Some(surplus) = size.checked_sub(LIMIT).filter(|surplus| *surplus > 0) else {
        return Ok(0);
    };
    let kept = fsx::stage(path, |mut kept| {
        let mut log = io::BufReader::new(File::open(path)?);
        log.seek(SeekFrom::Start(surplus))?;
        // The rest of a line. A line without end is not kept.
        log.skip_until(b'\n')?;
        io::copy(&mut log, &mut kept).map(drop)
    })?;
    kept.commit()?;
    Ok(size.saturating_sub(size_of(path)))
}
