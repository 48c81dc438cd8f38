//! Logs to which every turn of a session appends.
//!
//! A log that has grown large becomes `NAME.old` when it is opened, and whoever still writes to it goes on there. `gc`
//! does the same, and shortens what is old. Programs write to these logs themselves, so a log may grow beyond its limit
//! as long as one of them runs.

use std::fs::File;
use std::io::{self, BufRead as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::check::is_stale;
use super::{RecordKey, Store, StoreError};
use crate::fsx::{self, FsError};

/// A log to which every turn of a session appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastingLog {
    /// What hooks print.
    Hooks,
    /// opencode's log and kugetsu's own trace, with `--debug`.
    Debug,
    /// What the process of a detached turn prints.
    Supervisor,
}

/// The size from which a log makes room, and the largest size of what stays of the old one, in bytes.
const LIMIT: u64 = 4 << 20;

impl LastingLog {
    const ALL: [Self; 3] = [Self::Hooks, Self::Debug, Self::Supervisor];

    /// The name of its file in the session's folder.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Hooks => "hooks.log",
            Self::Debug => "debug.log",
            Self::Supervisor => "supervisor.log",
        }
    }
}

impl Store {
    /// Opens a log to append to. A log that has grown large makes room first.
    pub fn open_lasting_log(&self, key: &RecordKey, log: LastingLog) -> Result<File, StoreError> {
        let path = self.folder(key).join(log.file_name());
        if size_of(&path) > LIMIT {
            make_room(&path)?;
        }
        self.open_log(key, log.file_name())
    }

    /// The lasting logs of a key that `gc` shortens, with their sizes in bytes.
    pub(super) fn large_lasting_logs(&self, key: &RecordKey) -> Vec<(PathBuf, u64)> {
        let folder = self.folder(key);
        let paths = LastingLog::ALL.iter().flat_map(|log| {
            let path = folder.join(log.file_name());
            [old(&path), path]
        });
        paths
            .map(|path| (size_of(&path), path))
            // A program may still be writing to a log that was opened a moment ago.
            .filter(|(size, path)| *size > LIMIT && is_stale(path))
            .map(|(size, path)| (path, size))
            .collect()
    }
}

fn size_of(path: &Path) -> u64 {
    let metadata = path.symlink_metadata().ok().filter(std::fs::Metadata::is_file);
    metadata.map_or(0, |metadata| metadata.len())
}

fn old(path: &Path) -> PathBuf {
    let mut old = path.as_os_str().to_owned();
    old.push(".old");
    old.into()
}

fn make_room(path: &Path) -> Result<(), FsError> {
    match fsx::rename_durable(path, &old(path)) {
        // Another process was faster.
        Err(error) if error.is_not_found() => Ok(()),
        renamed => renamed,
    }
}

/// Keeps the newest part of a log that [`Store::large_lasting_logs`] named: the whole lines of it, if there are any.
pub(super) fn shorten(path: &Path) -> Result<(), FsError> {
    let kept = if path.extension().is_some_and(|ending| ending == "old") {
        path.to_owned()
    } else {
        make_room(path)?;
        old(path)
    };
    let Some(surplus) = size_of(&kept).checked_sub(LIMIT) else {
        return Ok(());
    };
    let staged = fsx::stage(&kept, |mut newest| {
        let mut log = io::BufReader::new(File::open(&kept)?);
        log.seek(SeekFrom::Start(surplus))?;
        let rest_of_line = log.skip_until(b'\n')?;
        if rest_of_line as u64 >= LIMIT {
            log.seek(SeekFrom::Start(surplus))?;
        }
        io::copy(&mut log, &mut newest).map(drop)
    })?;
    staged.commit()
}
