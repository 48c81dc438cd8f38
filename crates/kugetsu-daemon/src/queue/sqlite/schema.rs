//! The file of the queue: made for its owner alone, checked before it is written to, brought up to date.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use rustix::fs::{Mode, OFlags};

use super::QueueError;

/// Marks the file as a queue of kugetsu: `kuge`.
const APPLICATION: i32 = 0x6b75_6765;

/// The statements that lead from each version of the schema to the next one. The last version is ours.
const MIGRATIONS: [&str; 2] = [VERSION_1, VERSION_2];

/// `spec` comes last: what is read without it does not touch the pages that a long prompt fills. `requested_not_before`
/// belongs to the request, which a repeated submission is compared with; `not_before` changes with each new try.
const VERSION_1: &str = "
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    ref TEXT NOT NULL,
    repo TEXT NOT NULL,
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    not_before INTEGER,
    requested_not_before INTEGER,
    submitted INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    turn TEXT,
    started INTEGER,
    ended INTEGER,
    verdict TEXT,
    cost REAL NOT NULL DEFAULT 0,
    reason TEXT,
    idempotency_key TEXT UNIQUE,
    spec TEXT NOT NULL
) STRICT;
CREATE INDEX tasks_by_state ON tasks (state, seq);
CREATE INDEX tasks_by_repo ON tasks (repo, seq);
CREATE INDEX tasks_by_ref ON tasks (ref, seq);
CREATE INDEX tasks_by_end ON tasks (ended) WHERE ended IS NOT NULL;
CREATE TABLE dependencies (
    task INTEGER NOT NULL REFERENCES tasks (seq) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    after TEXT NOT NULL,
    PRIMARY KEY (task, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX dependencies_by_after ON dependencies (after);
";

/// A running task that was cancelled is on record as such.
const VERSION_2: &str = "ALTER TABLE tasks ADD COLUMN cancelled INTEGER NOT NULL DEFAULT FALSE";

/// Opens the file for the writer, and makes it if there is none.
pub(super) fn open_writer(path: &Path, busy: Duration) -> Result<Connection, QueueError> {
    prepare_file(path)?;
    let mut connection = connect(path, busy)?;
    bring_up_to_date(&mut connection, path)?;
    set_up_writer(&connection).map_err(|error| failure(path, "written", &error))?;
    Ok(connection)
}

/// Opens the file for reading, after the writer.
pub(super) fn open_reader(path: &Path, busy: Duration) -> Result<Connection, QueueError> {
    let connection = connect(path, busy)?;
    connection
        .pragma_update(None, "query_only", true)
        .map_err(|error| failure(path, "read", &error))?;
    Ok(connection)
}

/// What a problem of SQLite means for the caller.
pub(super) fn failure(path: &Path, what: &'static str, error: &rusqlite::Error) -> QueueError {
    let damaged = matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    );
    if damaged {
        return unusable(path, error.to_string());
    }
    QueueError::Unavailable {
        what,
        problem: error.to_string(),
    }
}

pub(super) fn unusable(path: &Path, problem: impl Into<String>) -> QueueError {
    QueueError::Unusable {
        place: path.display().to_string(),
        problem: problem.into(),
    }
}

/// The connection is used by one thread at a time, so that SQLite needs no locks of its own.
fn connect(path: &Path, busy: Duration) -> Result<Connection, QueueError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(path, flags).map_err(|error| failure(path, "read", &error))?;
    connection
        .busy_timeout(busy)
        .map_err(|error| failure(path, "read", &error))?;
    Ok(connection)
}

/// `FULL`, because in the WAL mode anything less may lose confirmed transactions when the power fails.
fn set_up_writer(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// Looks before it writes: a file that is not ours, or is newer, stays as it is.
fn bring_up_to_date(connection: &mut Connection, path: &Path) -> Result<(), QueueError> {
    let found = |error: &rusqlite::Error| failure(path, "read", error);
    let version: i64 = pragma(connection, "user_version").map_err(|error| found(&error))?;
    let application: i32 = pragma(connection, "application_id").map_err(|error| found(&error))?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|error| found(&error))?;
    let is_new = tables == 0 && version == 0 && application == 0;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if application != APPLICATION && !is_new {
        return Err(unusable(path, "it is not a queue of kugetsu"));
    }
    if version > MIGRATIONS.len() {
        return Err(unusable(
            path,
            format!(
                "a newer kugetsu wrote it (version {version}; this one knows {})",
                MIGRATIONS.len()
            ),
        ));
    }
    migrate(connection, version).map_err(|error| failure(path, "written", &error))
}

fn migrate(connection: &mut Connection, version: usize) -> rusqlite::Result<()> {
    if version == MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for statements in &MIGRATIONS[version..] {
        transaction.execute_batch(statements)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    transaction.commit()
}

fn pragma<T: rusqlite::types::FromSql>(connection: &Connection, name: &str) -> rusqlite::Result<T> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

/// SQLite gives its other files the mode of the database, but makes the database readable for all that the umask
/// allows. So it finds a file that is there already.
fn prepare_file(path: &Path) -> Result<(), QueueError> {
    if create(path).map_err(|error| unavailable(path, "written", &error))? {
        return Ok(());
    }
    for file in [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")] {
        restrict(&file)?;
    }
    Ok(())
}

/// Makes the file if there is none, and says whether it did. It never opens a file that is there: closing it would
/// drop the locks of another connection of this process.
fn create(path: &Path) -> io::Result<bool> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => {}
        Err(rustix::io::Errno::EXIST) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::fsync(rustix::fs::open(parent, flags, Mode::empty())?)?;
    Ok(true)
}

fn restrict(path: &Path) -> Result<(), QueueError> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unavailable(path, "read", &error)),
    };
    if metadata.is_symlink() {
        return Err(unusable(path, "it is a symbolic link"));
    }
    if !metadata.is_file() {
        return Err(unusable(path, "it is not a file"));
    }
    let mut permissions = metadata.permissions();
    let of_the_owner = permissions.mode() & 0o600;
    if permissions.mode() & 0o777 == of_the_owner {
        return Ok(());
    }
    permissions.set_mode(0o600);
    std::fs::set_permissions(path, permissions).map_err(|error| unavailable(path, "written", &error))
}

fn unavailable(path: &Path, what: &'static str, error: &io::Error) -> QueueError {
    QueueError::Unavailable {
        what,
        problem: format!("{}: {error}", path.display()),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
