//! Opens the database of a sandboxed session, which a turn could have replaced by anything.
//!
//! SQLite follows links, and obeys what a file says: a schema computes columns and fires triggers, and the rollback journal
//! of a crash names another file, which SQLite removes. kugetsu and its opencode run outside the sandbox, so they open only
//! what opencode itself makes: plain files without a rollback journal, with tables and indexes only, whose columns are
//! stored. What they read has limits of time and size.
//!
//! SQLite looks at the time only between two steps of its machine. A single function can take hours for a large value
//! (`instr`, `replace`), so the schema must not choose which functions run. kugetsu's own take a time that grows with the
//! size of the value only.
//!
//! Only a running turn could replace a file between a check and its opening. While a turn runs, kugetsu only reads, and the
//! database of somebody else does not have the session.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, Row};

use super::DatabaseFile;
use super::error::{DatabaseError, classify};

/// How long one reading or writing may take, apart from waits for locks. Measured: some milliseconds.
pub(super) const MOST_TIME: Duration = Duration::from_secs(10);
/// How many steps of SQLite's machine pass between two looks at the clock. Each may handle a value of [`MOST_BYTES`].
const STEPS: i32 = 10;
/// How many objects a schema may have. opencode 1.18.33 makes 37, and SQLite adds some indexes.
const MOST_OBJECTS: usize = 1000;
/// The longest value or row. opencode cuts the output of tools; a part with a picture has some megabytes.
const MOST_BYTES: i32 = 64 << 20;
/// The limits of what a schema may make SQLite do.
const LIMITS: [(Limit, i32); 6] = [
    (Limit::SQLITE_LIMIT_LENGTH, MOST_BYTES),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 1 << 20),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
];
/// How the objects of a schema begin that opencode makes, as SQLite writes them. It writes a virtual table, a view and a
/// trigger in other words.
const MADE_BY_OPENCODE: [&str; 3] = ["CREATE TABLE ", "CREATE INDEX ", "CREATE UNIQUE INDEX "];

/// The time until which a connection may work.
#[derive(Clone, Debug, Default)]
pub(super) struct Deadline(Arc<Mutex<Option<Instant>>>);

impl Deadline {
    /// Starts the time of a reading or writing, which may wait this long for locks.
    pub(super) fn begin(&self, wait: Duration) {
        let until = Instant::now().checked_add(MOST_TIME + wait);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn has_passed(&self) -> bool {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Refuses a file that is not one of opencode's own making, or that has another one beside it. It may be missing.
pub(super) fn check_files(path: &Path) -> Result<(), DatabaseError> {
    for ending in ["", "-wal", "-shm"] {
        let file = beside(path, ending);
        match file.symlink_metadata() {
            Ok(metadata) if !metadata.is_file() => return Err(tampered(path, not_a_file(&file))),
            _ => {}
        }
    }
    let journal = beside(path, "-journal");
    if journal.symlink_metadata().is_ok() {
        // opencode uses a write-ahead log.
        let reason = format!("opencode never makes a file {}", journal.display());
        return Err(tampered(path, reason));
    }
    Ok(())
}

pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

fn not_a_file(path: &Path) -> String {
    format!("{} is a link, or not a file", path.display())
}

/// Limits what the file can make this connection do until the deadline.
pub(super) fn confine(connection: &mut Connection, deadline: &Deadline) -> rusqlite::Result<()> {
    for (config, on) in [
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        // Another table could refer to the columns that kugetsu writes. None of opencode's does.
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
    ] {
        connection.set_db_config(config, on)?;
    }
    for (limit, most) in LIMITS {
        connection.set_limit(limit, most)?;
    }
    // opencode's tables have none. They would be computed for each write.
    connection.pragma_update(None, "ignore_check_constraints", true)?;
    let deadline = deadline.clone();
    connection.progress_handler(STEPS, Some(move || deadline.has_passed()))
}

/// Refuses a schema with anything but tables and indexes of stored columns.
pub(super) fn check_objects(
    connection: &Connection,
    file: &DatabaseFile,
    write: bool,
    wait: Duration,
) -> Result<(), DatabaseError> {
    match odd_object(connection) {
        Ok(None) => Ok(()),
        Ok(Some(reason)) => Err(tampered(&file.path, reason)),
        Err(source) => Err(classify(file, write, wait, source)),
    }
}

/// What a schema has that opencode never makes.
fn odd_object(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare("SELECT type, name, sql FROM sqlite_schema")?;
    let mut objects = statement.query([])?;
    let mut count = 0;
    while let Some(object) = objects.next()? {
        count += 1;
        if count > MOST_OBJECTS {
            return Ok(Some(format!(
                "it has more than {MOST_OBJECTS} tables and indexes"
            )));
        }
        let (kind, name): (String, String) = (object.get(0)?, object.get(1)?);
        // An index without a text is SQLite's own.
        let sql: Option<String> = object.get(2)?;
        if sql.is_some_and(|sql| !MADE_BY_OPENCODE.iter().any(|begin| sql.starts_with(begin))) {
            return Ok(Some(format!("it has `{name}`, which is not a table or an index")));
        }
        let computes = match kind.as_str() {
            "table" => has_computed_column(connection, &name)? || has_partial_index(connection, &name)?,
            _ => has_expression(connection, &name)?,
        };
        if computes {
            return Ok(Some(format!("`{name}` computes values")));
        }
    }
    Ok(None)
}

// A table of the file can have the name of a function such as `pragma_table_xinfo`, but cannot replace a PRAGMA.

fn has_computed_column(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    any_row(connection, "table_xinfo", table, |row| {
        let hidden: i64 = row.get("hidden")?;
        Ok(hidden != 0)
    })
}

fn has_partial_index(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    any_row(connection, "index_list", table, |row| row.get("partial"))
}

fn has_expression(connection: &Connection, index: &str) -> rusqlite::Result<bool> {
    /// Stands for the number of a column.
    const EXPRESSION: i64 = -2;
    any_row(connection, "index_xinfo", index, |row| {
        let column: i64 = row.get("cid")?;
        Ok(column == EXPRESSION)
    })
}

fn any_row(
    connection: &Connection,
    pragma: &str,
    object: &str,
    is_odd: impl Fn(&Row<'_>) -> rusqlite::Result<bool>,
) -> rusqlite::Result<bool> {
    let mut found = false;
    connection.pragma(None, pragma, object, |row| {
        found |= is_odd(row)?;
        Ok(())
    })?;
    Ok(found)
}

pub(super) fn tampered(path: &Path, reason: String) -> DatabaseError {
    DatabaseError::Tampered {
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails so")]
mod tests {
    use super::*;

    #[test]
    fn a_query_without_an_end_is_interrupted_at_the_deadline() {
        let mut connection = Connection::open_in_memory().unwrap();
        let deadline = Deadline::default();
        confine(&mut connection, &deadline).unwrap();
        let count = |most: &str| -> rusqlite::Result<i64> {
            let endless = format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n {most}) SELECT count(*) FROM n"
            );
            connection.query_row(&endless, [], |row| row.get(0))
        };
        deadline.begin(Duration::from_hours(1));
        assert_eq!(count("LIMIT 100000").unwrap(), 100_000);
        *deadline.0.lock().unwrap() = Some(Instant::now());
        let file = DatabaseFile {
            path: "/db".into(),
            confined: true,
        };
        let error = classify(&file, false, Duration::ZERO, count("").unwrap_err());
        assert!(matches!(error, DatabaseError::Slow { .. }), "{error:?}");
        assert!(error.is_temporary() && !error.is_lost());
    }
}
