//! opencode's database: reading sessions and messages, and the few writes that a session needs.
//!
//! Nothing but `permission`, `directory`, `path`, `title` and `time_updated` of rows in `session` is ever written, in one
//! short transaction, after the schema was checked, and read back. Opening never creates a file that was not there
//! before, and every way in which a database can be unusable has an error of its own, so that nobody takes "cannot be
//! read" for "the session is gone".
//!
//! Measured on 1.3.2 and 1.18.33: WAL mode; opencode removes `-wal` and `-shm` when it ends well and leaves them where
//! it does not (`opencode db path` on 1.18.33).

mod messages;

pub use messages::{After, StoredMessage, prompt_matches};

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};

use crate::permission::{Rule, rules_to_json};
use crate::session::SessionId;

/// How long a reader waits for a lock. In WAL mode a writer keeps no reader waiting; recovery after a crash does.
const READ_WAIT: Duration = Duration::from_secs(2);

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

/// Why the database, or a session in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// There is no file.
    #[error(
        "opencode's database {} does not exist: opencode has not run for this user yet, or keeps it elsewhere (see `opencode db path`)",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is there and cannot be read or written.
    #[error("opencode's database {} cannot be {}: {reason}", path.display(), if *write { "written" } else { "read" })]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// True when it was to be written.
        write: bool,
        /// What the system says.
        reason: String,
    },
    /// Another process holds it for longer than we wait.
    #[error(
        "opencode's database {} was locked by another process for {} ms: try again, or end the opencode that holds it",
        path.display(), waited.as_millis()
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// It lacks what this code relies on.
    #[error(
        "opencode's database {} is not as known: it lacks {}; this opencode is too old or too new for kugetsu",
        path.display(), missing.join(", ")
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// Tables or columns (`table.column`).
        missing: Vec<String>,
    },
    /// It belongs to opencode 2.
    #[error(
        "opencode's database {} belongs to opencode 2 (it has a table `session_v2`), whose sessions kugetsu does not know yet: \
         use opencode 1.x with a database of its own (OPENCODE_DB)",
        path.display()
    )]
    SessionV2 {
        /// The file.
        path: PathBuf,
    },
    /// It is no SQLite database, or a damaged one.
    #[error("{} is no usable SQLite database: {reason}", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// The database is fine and has no such session.
    #[error("opencode has no session {id} in {}", path.display())]
    NoSession {
        /// The session.
        id: SessionId,
        /// The file.
        path: PathBuf,
    },
    /// The database is fine and has no such message.
    #[error("opencode's session {session} has no message {message}")]
    NoMessage {
        /// The session.
        session: SessionId,
        /// The message.
        message: String,
    },
    /// What was written did not come back.
    #[error("writing {what} of session {id} to opencode's database did not take effect: nothing was changed")]
    NotStored {
        /// The session.
        id: SessionId,
        /// Which column.
        what: &'static str,
    },
    /// Anything else that SQLite reports.
    #[error("opencode's database {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

impl DatabaseError {
    /// Whether the same may succeed later: another process holds a lock.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Locked { .. })
    }
}

/// A row of `session`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The session.
    pub id: SessionId,
    /// The project: one for all worktrees of a repository.
    pub project_id: String,
    /// The session that started it as a subagent. A fork has none.
    pub parent_id: Option<String>,
    /// Its working directory, absolute.
    pub directory: PathBuf,
    /// The directory relative to the worktree's root, with `/`; empty for the root (1.18.33; unknown to 1.3.2).
    pub path: Option<String>,
    /// Its title.
    pub title: String,
    /// Its rules as stored: a JSON array, NULL after a fork.
    pub permission: Option<String>,
    /// When it was created, in milliseconds since the epoch.
    pub time_created: i64,
    /// When it last changed, in milliseconds since the epoch.
    pub time_updated: i64,
}

impl SessionRow {
    /// Its rules; `None` where it has none or they cannot be read.
    pub fn rules(&self) -> Option<Vec<Rule>> {
        serde_json::from_str(self.permission.as_deref()?).ok()
    }
}

/// What to change of a session. `None` leaves it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionPatch<'a> {
    /// Its rules, all of them.
    pub permission: Option<&'a [Rule]>,
    /// Its working directory, absolute.
    pub directory: Option<&'a Path>,
    /// Its directory relative to the worktree's root; left alone where the database has no such column.
    pub path: Option<&'a str>,
    /// Its title.
    pub title: Option<&'a str>,
}

/// opencode's database, open.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    path: PathBuf,
    wait: Duration,
    has_path: bool,
}

impl Database {
    /// Opens it for reading.
    pub fn open_read(path: &Path) -> Result<Self, DatabaseError> {
        check_file(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Self::open(path, flags, READ_WAIT)
    }

    /// Opens it for writing and waits for locks up to `busy`.
    pub fn open_write(path: &Path, busy: Duration) -> Result<Self, DatabaseError> {
        check_file(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Self::open(path, flags, busy)?;
        if database
            .connection
            .is_readonly("main")
            .map_err(|e| database.error(e))?
        {
            return Err(DatabaseError::Unreadable {
                path: path.to_owned(),
                write: true,
                reason: "no permission".to_owned(),
            });
        }
        // In WAL mode a commit is then not synced. A power cut may take the write back, never damage the file, and
        // whoever writes here checks the session again before its next turn.
        database
            .connection
            .pragma_update(None, "synchronous", "NORMAL")
            .map_err(|e| database.error(e))?;
        Ok(database)
    }

    fn open(path: &Path, flags: OpenFlags, wait: Duration) -> Result<Self, DatabaseError> {
        let write = flags.contains(OpenFlags::SQLITE_OPEN_READ_WRITE);
        let connection =
            Connection::open_with_flags(path, flags).map_err(|source| classify(path, write, wait, source))?;
        let mut database = Self {
            connection,
            path: path.to_owned(),
            wait,
            has_path: false,
        };
        database
            .connection
            .busy_timeout(wait)
            .map_err(|e| database.error(e))?;
        database.check_schema().map_err(|error| match error {
            DatabaseError::Unreadable { path, reason, .. } => {
                DatabaseError::Unreadable { path, write, reason }
            }
            error => error,
        })?;
        Ok(database)
    }

    fn check_schema(&mut self) -> Result<(), DatabaseError> {
        let tables: BTreeSet<String> = self
            .strings("SELECT name FROM sqlite_master WHERE type = 'table'")?
            .into_iter()
            .collect();
        if tables.contains("session_v2") {
            return Err(DatabaseError::SessionV2 {
                path: self.path.clone(),
            });
        }
        let mut missing: Vec<String> = ["session", "message", "part"]
            .into_iter()
            .filter(|table| !tables.contains(*table))
            .map(|table| format!("the table {table}"))
            .collect();
        let columns: BTreeSet<String> = self
            .strings("SELECT name FROM pragma_table_info('session')")?
            .into_iter()
            .collect();
        if tables.contains("session") {
            let lacking = NEEDED.into_iter().filter(|column| !columns.contains(*column));
            missing.extend(lacking.map(|column| format!("session.{column}")));
        }
        if !missing.is_empty() {
            return Err(DatabaseError::Schema {
                path: self.path.clone(),
                missing,
            });
        }
        self.has_path = columns.contains("path");
        Ok(())
    }

    fn strings(&self, sql: &str) -> Result<Vec<String>, DatabaseError> {
        let read = || {
            let mut statement = self.connection.prepare(sql)?;
            statement
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()
        };
        read().map_err(|e| self.error(e))
    }

    /// The row of a session; `None` when the database is fine and has none.
    pub fn session(&self, id: &SessionId) -> Result<Option<SessionRow>, DatabaseError> {
        self.read_session(id).map_err(|e| self.error(e))
    }

    fn read_session(&self, id: &SessionId) -> rusqlite::Result<Option<SessionRow>> {
        let sql = format!("SELECT {} FROM session WHERE id = ?1", self.columns());
        self.connection
            .prepare_cached(&sql)?
            .query_row([id.as_str()], session_row)
            .optional()
    }

    fn columns(&self) -> &'static str {
        if self.has_path {
            "id, project_id, parent_id, directory, title, permission, time_created, time_updated, path"
        } else {
            "id, project_id, parent_id, directory, title, permission, time_created, time_updated, NULL"
        }
    }

    /// Those of the sessions that exist.
    pub fn sessions_exist(&self, ids: &[SessionId]) -> Result<BTreeSet<SessionId>, DatabaseError> {
        let read = || {
            let mut found = BTreeSet::new();
            let mut statement = self
                .connection
                .prepare_cached("SELECT 1 FROM session WHERE id = ?1")?;
            for id in ids {
                if statement.exists([id.as_str()])? {
                    found.insert(id.clone());
                }
            }
            Ok(found)
        };
        read().map_err(|e| self.error(e))
    }

    /// Changes a session in one transaction and reads it back. A session that is already so is not written.
    pub fn patch(&mut self, id: &SessionId, patch: &SessionPatch<'_>) -> Result<SessionRow, DatabaseError> {
        let failed = {
            let (path, wait) = (self.path.clone(), self.wait);
            move |source| classify(&path, true, wait, source)
        };
        let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate);
        let transaction = transaction.map_err(&failed)?;
        let gone = || DatabaseError::NoSession {
            id: id.clone(),
            path: self.path.clone(),
        };
        let before = self.read_session(id).map_err(&failed)?.ok_or_else(gone)?;
        if first_difference(&before, patch, self.has_path).is_none() {
            return Ok(before);
        }
        let permission = patch.permission.map(rules_to_json);
        let directory = patch.directory.map(|directory| directory.to_string_lossy());
        // Never earlier than before, whatever the clock does: opencode sorts by it.
        let now = now_ms().max(before.time_updated);
        let change = |column: &str, value: Option<&str>| -> Result<(), DatabaseError> {
            let Some(value) = value else { return Ok(()) };
            let sql = format!("UPDATE session SET {column} = ?2, time_updated = ?3 WHERE id = ?1");
            let mut statement = self.connection.prepare_cached(&sql).map_err(&failed)?;
            statement
                .execute(params![id.as_str(), value, now])
                .map_err(&failed)?;
            Ok(())
        };
        change("permission", permission.as_deref())?;
        change("directory", directory.as_deref())?;
        change("path", patch.path.filter(|_| self.has_path))?;
        change("title", patch.title)?;
        let after = self.read_session(id).map_err(&failed)?.ok_or_else(gone)?;
        if let Some(what) = first_difference(&after, patch, self.has_path) {
            return Err(DatabaseError::NotStored { id: id.clone(), what });
        }
        transaction.commit().map_err(&failed)?;
        Ok(after)
    }

    /// Forks of a base: sessions of the same project, created at or after `since_ms` (milliseconds since the epoch),
    /// with the title that opencode gives to a fork of it, oldest first. Every fork of a base has the same title:
    /// `<title> (fork #1)`, and for a base that is a fork itself one number more (measured on 1.3.2 and 1.18.33).
    pub fn forks_of(&self, base: &SessionRow, since_ms: i64) -> Result<Vec<SessionRow>, DatabaseError> {
        let sql = format!(
            "SELECT {} FROM session WHERE project_id = ?1 AND time_created >= ?2 AND id <> ?3 AND parent_id IS NULL \
             ORDER BY time_created, id",
            self.columns()
        );
        let read = || {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let rows =
                statement.query_map(params![base.project_id, since_ms, base.id.as_str()], session_row)?;
            rows.filter(|row| {
                row.as_ref()
                    .map_or(true, |row| is_fork_title(&base.title, &row.title))
            })
            .collect::<rusqlite::Result<_>>()
        };
        read().map_err(|e| self.error(e))
    }

    /// The sessions with exactly this title, oldest first.
    pub fn sessions_titled(&self, title: &str) -> Result<Vec<SessionRow>, DatabaseError> {
        let sql = format!(
            "SELECT {} FROM session WHERE title = ?1 ORDER BY time_created, id",
            self.columns()
        );
        let read = || {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let rows = statement.query_map([title], session_row)?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|e| self.error(e))
    }

    fn error(&self, source: rusqlite::Error) -> DatabaseError {
        classify(&self.path, false, self.wait, source)
    }
}

/// Is this the title of a fork of a session with that title?
fn is_fork_title(base: &str, title: &str) -> bool {
    let stem = split_fork(base).map_or(base, |(stem, _)| stem);
    split_fork(title).is_some_and(|(of, _)| of == stem || of == base)
}

/// `X (fork #N)` into its parts.
fn split_fork(title: &str) -> Option<(&str, u64)> {
    let (stem, number) = title.strip_suffix(')')?.rsplit_once(" (fork #")?;
    (!stem.is_empty()).then_some(())?;
    Some((stem, number.parse().ok()?))
}

/// The first thing in which the session is not as the patch wants it.
fn first_difference(row: &SessionRow, patch: &SessionPatch<'_>, has_path: bool) -> Option<&'static str> {
    if patch
        .permission
        .is_some_and(|rules| row.rules().as_deref() != Some(rules))
    {
        return Some("permission");
    }
    if patch
        .directory
        .is_some_and(|directory| row.directory != directory)
    {
        return Some("directory");
    }
    if has_path && patch.path.is_some_and(|path| row.path.as_deref() != Some(path)) {
        return Some("path");
    }
    if patch.title.is_some_and(|title| row.title != title) {
        return Some("title");
    }
    None
}

fn session_row(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    let id: String = row.get(0)?;
    let id = SessionId::new(id).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, "no session id".into())
    })?;
    Ok(SessionRow {
        id,
        project_id: row.get(1)?,
        parent_id: row.get(2)?,
        directory: PathBuf::from(row.get::<_, String>(3)?),
        title: row.get(4)?,
        permission: row.get(5)?,
        time_created: row.get(6)?,
        time_updated: row.get(7)?,
        path: row.get(8)?,
    })
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_epoch.map_or(0, |duration| duration.as_millis() as i64)
}

/// Tells a file that is not there from one that cannot be reached, before SQLite calls both "unable to open".
fn check_file(path: &Path) -> Result<(), DatabaseError> {
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(DatabaseError::NotADatabase {
            path: path.to_owned(),
            reason: "it is no file".to_owned(),
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

fn classify(path: &Path, write: bool, waited: Duration, source: rusqlite::Error) -> DatabaseError {
    let path = path.to_owned();
    let Some(code) = source.sqlite_error_code() else {
        return DatabaseError::Sqlite { path, source };
    };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => DatabaseError::Locked { path, waited },
        ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt => DatabaseError::NotADatabase {
            path,
            reason: source.to_string(),
        },
        ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::SystemIoFailure => {
            DatabaseError::Unreadable {
                path,
                write,
                reason: source.to_string(),
            }
        }
        ErrorCode::ReadOnly | ErrorCode::DiskFull => DatabaseError::Unreadable {
            path,
            write: true,
            reason: source.to_string(),
        },
        _ => DatabaseError::Sqlite { path, source },
    }
}
