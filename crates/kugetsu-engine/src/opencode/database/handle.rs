//! Opens the file and checks that its schema is known.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags};

use super::DatabaseFile;
use super::confined::{self, Deadline};
use super::error::{DatabaseError, classify};

/// Columns of `session` that kugetsu needs; 1.18.33 adds `path`, which is used if it exists.
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

/// A connection, and the known state of its file.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) connection: Connection,
    /// Whether `session` has the column `path`.
    pub(super) has_path: bool,
    /// The state of the file when it was opened as immutable; `None` for a normal connection.
    immutable: Option<FileState>,
    /// Until when this connection may work, if the file belongs to a sandbox.
    deadline: Deadline,
}

/// The attributes that change with the file.
#[derive(Debug, PartialEq, Eq)]
struct FileState {
    length: u64,
    modified: Option<SystemTime>,
}

impl Handle {
    /// Opens for reading without leaving a trace.
    ///
    /// In WAL mode, even a reader creates `-wal` and `-shm` if they are missing, and cannot remove them. If they are
    /// missing, no process has the database open, so the file is opened as immutable; [`Self::is_outdated`] reports
    /// when the file has changed since.
    pub(super) fn read(file: &DatabaseFile, wait: Duration) -> Result<Self, DatabaseError> {
        let path = file.path.as_path();
        check_file(file)?;
        let immutable = file_state(path);
        let opened = Self::open_to_read(file, immutable.is_some(), wait);
        match opened {
            // Another process has just begun to write.
            Err(_) if immutable.is_some() && file_state(path) != immutable => {
                Self::open_to_read(file, false, wait)
            }
            opened => opened.map(|handle| Self { immutable, ..handle }),
        }
    }

    fn open_to_read(file: &DatabaseFile, immutable: bool, wait: Duration) -> Result<Self, DatabaseError> {
        let path = file.path.as_path();
        let flags = flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY);
        let opened = if immutable {
            Connection::open_with_flags(immutable_uri(path), flags | OpenFlags::SQLITE_OPEN_URI)
        } else {
            Connection::open_with_flags(path, flags)
        };
        let failed = |source| classify(file, false, wait, source);
        let mut connection = opened.map_err(failed)?;
        connection.busy_timeout(wait).map_err(failed)?;
        let deadline = distrust(&mut connection, file, wait).map_err(failed)?;
        Ok(Self {
            has_path: check_schema(&connection, file, false, wait)?,
            connection,
            immutable: None,
            deadline,
        })
    }

    /// Opens for writing.
    pub(super) fn write(file: &DatabaseFile, wait: Duration) -> Result<Self, DatabaseError> {
        let path = file.path.as_path();
        check_file(file)?;
        let flags = flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE);
        let failed = |source| classify(file, true, wait, source);
        let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        connection.busy_timeout(wait).map_err(failed)?;
        let deadline = distrust(&mut connection, file, wait).map_err(failed)?;
        if connection.is_readonly("main").map_err(failed)? {
            return Err(DatabaseError::Unreadable {
                path: path.to_owned(),
                write: true,
                reason: "no permission".to_owned(),
            });
        }
        let has_path = check_schema(&connection, file, true, wait)?;
        // In WAL mode, a commit is then not synced. A power cut may undo the write but never damages the file, and the
        // session is checked again before its next turn.
        connection
            .pragma_update(None, "synchronous", "NORMAL")
            .map_err(failed)?;
        Ok(Self {
            connection,
            has_path,
            immutable: None,
            deadline,
        })
    }

    /// Starts the time that one reading or writing may take.
    pub(super) fn begin(&self, wait: Duration) {
        self.deadline.begin(wait);
    }

    /// Whether another process has begun to write since the file was opened as immutable.
    pub(super) fn is_outdated(&self, path: &Path) -> bool {
        self.immutable.is_some() && file_state(path) != self.immutable
    }
}

/// A schema that a turn may have written calls no function with effects. The file of a sandbox has more limits, and the
/// time of its opening begins.
fn distrust(connection: &mut Connection, file: &DatabaseFile, wait: Duration) -> rusqlite::Result<Deadline> {
    let deadline = Deadline::default();
    if file.confined {
        deadline.begin(wait);
        confined::confine(connection, &deadline)?;
    }
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(deadline)
}

fn flags(file: &DatabaseFile, access: OpenFlags) -> OpenFlags {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if file.confined {
        // Refuses a link in any part of the path.
        flags | OpenFlags::SQLITE_OPEN_NOFOLLOW
    } else {
        flags
    }
}

/// The state of the file; `None` while a process has it open, or if it may need recovery.
fn file_state(path: &Path) -> Option<FileState> {
    let beside = |suffix: &str| {
        let mut name = OsString::from(path);
        name.push(suffix);
        PathBuf::from(name).exists()
    };
    if beside("-wal") || beside("-journal") {
        return None;
    }
    let metadata = path.metadata().ok()?;
    Some(FileState {
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

/// Refuses an unknown schema. Returns whether `session` has the column `path`.
fn check_schema(
    connection: &Connection,
    file: &DatabaseFile,
    write: bool,
    wait: Duration,
) -> Result<bool, DatabaseError> {
    let path = file.path.as_path();
    if file.confined {
        confined::check_objects(connection, file, write, wait)?;
    }
    let names = |sql: &str| -> Result<BTreeSet<String>, DatabaseError> {
        let read = || {
            connection
                .prepare(sql)?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()
        };
        read().map_err(|source| classify(file, write, wait, source))
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

/// Distinguishes a missing file from one that cannot be read, because SQLite calls both "unable to open".
fn check_file(file: &DatabaseFile) -> Result<(), DatabaseError> {
    let path = file.path.as_path();
    if file.confined {
        confined::check_files(path)?;
    }
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(DatabaseError::NotADatabase {
            path: path.to_owned(),
            reason: "it is not a file".to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.confined => Err(DatabaseError::Gone {
            path: path.to_owned(),
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
