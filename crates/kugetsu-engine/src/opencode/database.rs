//! opencode's database: reads sessions and messages, and makes the few writes that a session needs.
//!
//! Writes change only `permission`, `directory`, `path`, `title` and `time_updated` of rows in `session`. A session that
//! gets another directory takes the sessions of its subagents along. The schema is checked when the file is opened. Each
//! write runs in one short transaction and is read back. Opening never creates a file. Every way in which a database can be
//! unusable has its own error, so that "cannot be read" is never taken for "the session is gone".
//!
//! Measured on 1.3.2 and 1.18.33: the database is in WAL mode. opencode removes `-wal` and `-shm` on a clean exit and
//! leaves them otherwise (`opencode db path` on 1.18.33).

mod confined;
mod copy;
mod error;
mod handle;
mod messages;
mod turn_messages;

pub use error::DatabaseError;
pub use messages::{MessageOrder, StoredMessage, SubagentStep, SubagentWork};
pub use turn_messages::TurnMessages;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use self::error::classify;
use self::handle::Handle;
use crate::fsx::{self, FsError};
use crate::permission::{Rule, rules_to_json};
use kugetsu_api::SessionId;

/// How long a reader waits for a lock. In WAL mode, readers wait only for recovery after a crash, never for a writer.
const READ_WAIT: Duration = Duration::from_secs(2);

/// How often a reader restarts because the file was written during the read.
const MAX_REOPENED: u32 = 50;

/// Moves the sessions of a session's subagents (`?1`), as far as they are in its old directory (`?2`), to the same path
/// below its new one (`?3`).
const MOVE_SUBAGENTS: &str = "WITH RECURSIVE family(id) AS ( \
        SELECT id FROM session WHERE parent_id = ?1 \
        UNION SELECT s.id FROM session s JOIN family f ON s.parent_id = f.id) \
    UPDATE session SET directory = ?3 || substr(directory, length(?2) + 1) \
    WHERE id IN (SELECT id FROM family) AND id <> ?1 AND (directory = ?2 OR substr(directory, 1, length(?2) + 1) = ?2 || '/')";

/// A row of `session`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The session.
    pub id: SessionId,
    /// The project, which all worktrees of a repository share.
    pub project_id: String,
    /// The session that started this session as a subagent. A fork has none.
    pub parent_id: Option<String>,
    /// The absolute working directory.
    pub directory: PathBuf,
    /// The directory relative to the root of its git worktree (also of a linked one), with `/`; empty for the root.
    /// `opencode session list` filters by this column. Measured on 1.18.33; 1.3.2 has no such column.
    pub path: Option<String>,
    /// The title.
    pub title: String,
    /// The stored rules: a JSON array, NULL after a fork.
    pub permission: Option<String>,
    /// The creation time, in milliseconds since the epoch.
    pub time_created: i64,
    /// The time of the last change, in milliseconds since the epoch.
    pub time_updated: i64,
}

impl SessionRow {
    /// The parsed rules; `None` if there are none, or if they cannot be read.
    pub fn rules(&self) -> Option<Vec<Rule>> {
        serde_json::from_str(self.permission.as_deref()?).ok()
    }
}

/// Changes to a session. `None` leaves a column unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionPatch<'a> {
    /// The complete list of rules.
    pub permission: Option<&'a [Rule]>,
    /// The absolute working directory.
    pub directory: Option<&'a Path>,
    /// The directory relative to the root of its worktree, which belongs to `directory`: a session that moves from the
    /// root of one worktree to the root of another keeps the empty path. Ignored if the database has no such column.
    pub path: Option<&'a str>,
    /// The title.
    pub title: Option<&'a str>,
}

/// A file with a database of opencode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseFile {
    /// The file.
    pub path: PathBuf,
    /// Whether it belongs to a sandbox, so that a turn could have put anything there.
    pub confined: bool,
}

impl DatabaseFile {
    /// Opens the database for reading. Later reads see opencode's later writes.
    pub fn open_read(&self) -> Result<Database, DatabaseError> {
        Ok(Database {
            handle: RefCell::new(Handle::read(self, READ_WAIT)?),
            file: self.clone(),
            wait: READ_WAIT,
        })
    }

    /// Opens the database for writing. Waits for locks up to `busy`.
    pub fn open_write(&self, busy: Duration) -> Result<Database, DatabaseError> {
        Ok(Database {
            handle: RefCell::new(Handle::write(self, busy)?),
            file: self.clone(),
            wait: busy,
        })
    }

    /// Whether there is no such file, so that opencode would make one. Fails if a turn could have chosen where.
    pub fn is_missing(&self) -> Result<bool, DatabaseError> {
        if self.confined {
            confined::check_files(&self.path)?;
        }
        Ok(!self.path.exists())
    }

    /// Removes the file and those that SQLite keeps beside it. Missing files are not an error. Nothing may have it open.
    pub fn remove(&self) -> Result<(), FsError> {
        // A file with its changes is worth nothing without them, and changes alone would go into the next file.
        for ending in ["", "-wal", "-shm", "-journal"] {
            fsx::remove_file_durable(&confined::beside(&self.path, ending))?;
        }
        Ok(())
    }
}

/// An open connection to opencode's database.
#[derive(Debug)]
pub struct Database {
    handle: RefCell<Handle>,
    file: DatabaseFile,
    wait: Duration,
}

impl Database {
    /// Reads with a handle that is up to date with the file.
    fn read<T>(&self, read: impl Fn(&Handle) -> rusqlite::Result<T>) -> Result<T, DatabaseError> {
        let path = &self.file.path;
        let begun = Instant::now();
        for _ in 0..MAX_REOPENED {
            let result = {
                let handle = self.handle.borrow();
                handle.begin(self.wait);
                let result = read(&handle);
                if !handle.is_outdated(path) {
                    return result.map_err(|source| classify(&self.file, false, self.wait, source));
                }
                result
            };
            // The result may be outdated or torn.
            drop(result);
            if self.file.confined && begun.elapsed() > confined::MOST_TIME {
                break;
            }
            let handle = Handle::read(&self.file, self.wait)?;
            self.handle.replace(handle);
        }
        Err(DatabaseError::Locked {
            path: path.clone(),
            waited: self.wait,
        })
    }

    /// The row of a session; `None` if the database is usable and has no such session.
    pub fn session(&self, id: &SessionId) -> Result<Option<SessionRow>, DatabaseError> {
        self.read(|handle| read_session(handle, id))
    }

    /// The given sessions that exist.
    pub fn sessions_exist(&self, ids: &[SessionId]) -> Result<BTreeSet<SessionId>, DatabaseError> {
        self.read(|handle| {
            let mut found = BTreeSet::new();
            let mut statement = handle
                .connection
                .prepare_cached("SELECT 1 FROM session WHERE id = ?1")?;
            for id in ids {
                if statement.exists([id.as_str()])? {
                    found.insert(id.clone());
                }
            }
            Ok(found)
        })
    }

    /// Waits until the database is writable. opencode's own writes wait as long as opencode decides, and fail with
    /// opencode's own messages.
    pub fn wait_until_writable(&mut self) -> Result<(), DatabaseError> {
        let wait = self.wait;
        let handle = self.handle.get_mut();
        handle.begin(wait);
        handle
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(rusqlite::Transaction::rollback)
            .map_err(|source| classify(&self.file, true, wait, source))
    }

    /// Changes a session in one transaction and reads it back. Does not write if the session already matches the patch.
    pub fn patch(&mut self, id: &SessionId, patch: &SessionPatch<'_>) -> Result<SessionRow, DatabaseError> {
        let handle = self.handle.get_mut();
        handle.begin(self.wait);
        let failed = |source| classify(&self.file, true, self.wait, source);
        let gone = || DatabaseError::NoSession {
            id: id.clone(),
            path: self.file.path.clone(),
        };
        let transaction = handle
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let has_path = handle.has_path;
        let before = row_of(&transaction, has_path, id)
            .map_err(failed)?
            .ok_or_else(gone)?;
        if first_difference(&before, patch, has_path).is_none() {
            return Ok(before);
        }
        let permission = patch.permission.map(rules_to_json);
        let directory = patch.directory.map(Path::to_string_lossy);
        let changes = [
            ("permission", permission.as_deref()),
            ("directory", directory.as_deref()),
            ("path", patch.path.filter(|_| has_path)),
            ("title", patch.title),
        ];
        // opencode sorts by this column, so the time must not go back, even if the clock does.
        let now = now_ms().max(before.time_updated);
        for (column, value) in changes {
            if let Some(value) = value {
                let sql = format!("UPDATE session SET {column} = ?2, time_updated = ?3 WHERE id = ?1");
                transaction
                    .execute(&sql, params![id.as_str(), value, now])
                    .map_err(failed)?;
            }
        }
        if let Some(directory) = &directory {
            let old = before.directory.to_string_lossy();
            transaction
                .execute(MOVE_SUBAGENTS, params![id.as_str(), old, directory])
                .map_err(failed)?;
        }
        let after = row_of(&transaction, has_path, id)
            .map_err(failed)?
            .ok_or_else(gone)?;
        if let Some(what) = first_difference(&after, patch, has_path) {
            return Err(DatabaseError::NotStored { id: id.clone(), what });
        }
        transaction.commit().map_err(failed)?;
        Ok(after)
    }

    /// The forks of a base, oldest first: sessions of the same project with the title that opencode gives to a fork of
    /// the base. Every fork of a base has the same title: `<title> (fork #1)`, or one number more if the base is a fork
    /// itself (measured on 1.3.2 and 1.18.33).
    pub fn forks_of(&self, base: &SessionRow) -> Result<Vec<SessionRow>, DatabaseError> {
        self.read(|handle| {
            let sql = format!(
                "SELECT {} FROM session WHERE project_id = ?1 AND id <> ?2 AND parent_id IS NULL ORDER BY rowid",
                columns(handle.has_path)
            );
            let mut statement = handle.connection.prepare_cached(&sql)?;
            let rows = statement.query_map(params![base.project_id, base.id.as_str()], session_row)?;
            let forks = rows.filter(|row| row.as_ref().map_or(true, |row| is_fork_title(&base.title, &row.title)));
            forks.collect()
        })
    }

    /// The sessions with exactly this title, oldest first.
    pub fn sessions_titled(&self, title: &str) -> Result<Vec<SessionRow>, DatabaseError> {
        self.read(|handle| {
            let sql = format!(
                "SELECT {} FROM session WHERE title = ?1 ORDER BY rowid",
                columns(handle.has_path)
            );
            handle
                .connection
                .prepare_cached(&sql)?
                .query_map([title], session_row)?
                .collect()
        })
    }
}

fn read_session(handle: &Handle, id: &SessionId) -> rusqlite::Result<Option<SessionRow>> {
    row_of(&handle.connection, handle.has_path, id)
}

fn row_of(connection: &Connection, has_path: bool, id: &SessionId) -> rusqlite::Result<Option<SessionRow>> {
    let sql = format!("SELECT {} FROM session WHERE id = ?1", columns(has_path));
    connection
        .prepare_cached(&sql)?
        .query_row([id.as_str()], session_row)
        .optional()
}

fn columns(has_path: bool) -> &'static str {
    if has_path {
        "id, project_id, parent_id, directory, title, permission, time_created, time_updated, path"
    } else {
        "id, project_id, parent_id, directory, title, permission, time_created, time_updated, NULL"
    }
}

/// Whether `title` is the title of a fork of a session with the title `base`.
fn is_fork_title(base: &str, title: &str) -> bool {
    let stem = split_fork(base).map_or(base, |(stem, _)| stem);
    split_fork(title).is_some_and(|(origin, _)| origin == stem || origin == base)
}

/// Splits `X (fork #N)` into its parts.
fn split_fork(title: &str) -> Option<(&str, u64)> {
    let (stem, number) = title.strip_suffix(')')?.rsplit_once(" (fork #")?;
    (!stem.is_empty()).then_some(())?;
    Some((stem, number.parse().ok()?))
}

/// The first column in which the session differs from the patch.
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
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, "not a session id".into())
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
