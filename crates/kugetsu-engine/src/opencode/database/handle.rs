//! Opening the file, and checking that it is what this code knows.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags};

use super::error::{DatabaseError, classify};

/// Columns of `session` that this code relies on; 1.18.33 adds `path`, which is used where it exists.
const NEEDED: [&str; 8] = [
    "id",
    "project_id",
    "parent_id",
    "directory",
    "title",
    "permission",
    "time_created",
    "time_updated",
];

/// A connection, and what is known of the file behind it.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) connection: Connection,
    /// `session` has the column `path`.
    pub(super) has_path: bool,
    /// Set where SQLite was told that nobody writes to the file: what it looked like then.
    frozen: Option<Stamp>,
}

/// What a change of the file changes.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Handle {
    /// Opens for reading without leaving a trace.
    ///
    /// In WAL mode even a reader makes `-wal` and `-shm` where they are missing, and cannot take them away again. Where
    /// they are missing nobody has the database open, so it is read as a file that nobody changes; [`Self::is_outdated`]
    /// tells when that has ceased to be so.
    pub(super) fn read(path: &Path, wait: Duration) -> Result<Self, DatabaseError> {
        check_file(path)?;
        let frozen = stamp(path);
        let opened = Self::open_to_read(path, frozen.is_some(), wait);
        match opened {
            // Somebody began to write just now.
            Err(_) if frozen.is_some() && stamp(path) != frozen => Self::open_to_read(path, false, wait),
            opened => opened.map(|handle| Self { frozen, ..handle }),
        }
    }

    fn open_to_read(path: &Path, frozen: bool, wait: Duration) -> Result<Self, DatabaseError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = if frozen {
            Connection::open_with_flags(immutable_uri(path), flags | OpenFlags::SQLITE_OPEN_URI)
        } else {
            Connection::open_with_flags(path, flags)
        };
        let failed = |source| classify(path, false, wait, source);
        let connection = opened.map_err(failed)?;
        connection.busy_timeout(wait).map_err(failed)?;
        Ok(Self {
            has_path: check_schema(&connection, path, false, wait)?,
            connection,
            frozen: None,
        })
    }

    /// Opens for writing.
    pub(super) fn write(path: &Path, wait: Duration) -> Result<Self, DatabaseError> {
        check_file(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let failed = |source| classify(path, true, wait, source);
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(wait).map_err(failed)?;
        if connection.is_readonly("main").map_err(failed)? {
            return Err(DatabaseError::Unreadable {
                path: path.to_owned(),
                write: true,
                reason: "no permission".to_owned(),
            });
        }
        let has_path = check_schema(&connection, path, true, wait)?;
        // In WAL mode a commit is then not synced. A power cut may take the write back, never damage the file, and
        // whoever writes here checks the session again before its next turn.
        connection
            .pragma_update(None, "synchronous", "NORMAL")
            .map_err(failed)?;
        Ok(Self {
            connection,
            has_path,
            frozen: None,
        })
    }

    /// Has somebody begun to write since the file was taken for one that nobody changes?
    pub(super) fn is_outdated(&self, path: &Path) -> bool {
        self.frozen.is_some() && stamp(path) != self.frozen
    }
}

/// What the file looks like; `None` while somebody has it open, or may have left a change to be recovered.
fn stamp(path: &Path) -> Option<Stamp> {
    let beside = |suffix: &str| {
        let mut name = OsString::from(path);
        name.push(suffix);
        PathBuf::from(name).exists()
    };
    if beside("-wal") || beside("-journal") {
        return None;
    }
    let metadata = path.metadata().ok()?;
    Some(Stamp {
        length: metadata.len(),
        modified: metadata.modified().ok(),
    })
}

fn immutable_uri(path: &Path) -> String {
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'.')
        .remove(b'-')
        .remove(b'_');
    let path = percent_encode(path.as_os_str().as_bytes(), ENCODED);
    format!("file:{path}?immutable=1")
}

/// Refuses what this code does not know. Answers whether `session` has the column `path`.
fn check_schema(
    connection: &Connection,
    path: &Path,
    write: bool,
    wait: Duration,
) -> Result<bool, DatabaseError> {
    let names = |sql: &str| -> Result<BTreeSet<String>, DatabaseError> {
        let read = || {
            connection
                .prepare(sql)?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()
        };
        read().map_err(|source| classify(path, write, wait, source))
    };
    let tables = names("SELECT name FROM sqlite_master WHERE type = 'table'")?;
    if tables.contains("session_v2") {
        return Err(DatabaseError::SessionV2 {
            path: path.to_owned(),
        });
    }
    let mut missing: Vec<String> = ["session", "message", "part"]
        .into_iter()
        .filter(|table| !tables.contains(*table))
        .map(|table| format!("the table {table}"))
        .collect();
    let columns = names("SELECT name FROM pragma_table_info('session')")?;
    if tables.contains("session") {
        let lacking = NEEDED.into_iter().filter(|column| !columns.contains(*column));
        missing.extend(lacking.map(|column| format!("session.{column}")));
    }
    if !missing.is_empty() {
        return Err(DatabaseError::Schema {
            path: path.to_owned(),
            missing,
        });
    }
    Ok(columns.contains("path"))
}

/// Tells a file that is not there from one that cannot be reached, before SQLite calls both "unable to open".
fn check_file(path: &Path) -> Result<(), DatabaseError> {
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(DatabaseError::NotADatabase {
            path: path.to_owned(),
            reason: "it is not a file".to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(DatabaseError::Missing {
            path: path.to_owned(),
        }),
        Err(error) => Err(DatabaseError::Unreadable {
            path: path.to_owned(),
            write: false,
            reason: error.to_string(),
        }),
    }
}
