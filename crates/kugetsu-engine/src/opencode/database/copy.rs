//! Copies of a database: the whole one, for a backup, and one for the opencode of a sandboxed session, with the same schema
//! and one session.
//!
//! The tables are not listed by name, because each version has others. Measured on 1.3.2 and 1.18.33: tables of
//! migrations have no column that names a session or a project; `account`, `control_account` and `credential` hold tokens.

use std::cell::Cell;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use super::error::{DatabaseError, classify};
use super::{Database, DatabaseFile};
use crate::cancel::Cancel;
use crate::sqlite;
use kugetsu_api::SessionId;

/// Tables whose rows all go along: without them, opencode would migrate the schema again.
const MIGRATIONS: [&str; 3] = ["__drizzle_migrations", "migration", "data_migration"];
/// Tables of a session or a project that stay behind: secrets of shared sessions, and permissions for all sessions of a
/// project.
const LEFT_OUT: [&str; 2] = ["session_share", "permission"];

/// Tables whose rows are worth keeping although there is no session: they have the logins of a user.
const LOGINS: [&str; 3] = ["account", "control_account", "credential"];

impl Database {
    /// Whether the database is as opencode makes it: without sessions and without logins.
    pub(crate) fn is_unused(&self) -> Result<bool, DatabaseError> {
        self.read(|handle| {
            for table in ["session"].iter().chain(&LOGINS) {
                if handle.connection.table_exists(None, *table)?
                    && handle
                        .connection
                        .prepare(&format!("SELECT 1 FROM {table}"))?
                        .exists([])?
                {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Copies the whole database, as it is at one moment, into a new file. Nobody waits for it. Not synced. The outer
    /// error says that there is no room.
    pub(crate) fn copy_whole(
        &self,
        to: &Path,
        cancel: &Cancel,
    ) -> std::io::Result<Result<(), DatabaseError>> {
        let is_full = Cell::new(false);
        let copied = self.read(|handle| {
            // Of an attempt that was outdated.
            let _ = std::fs::remove_file(to);
            // Whatever a sandbox's file has, its own opencode alone reads it.
            let copied = sqlite::copy(&handle.connection, to, !self.file.confined, cancel);
            is_full.set(copied.as_ref().is_err_and(sqlite::is_full));
            copied
        });
        if is_full.get() {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        Ok(copied)
    }

    /// Makes a new database in the file `to`, which must not exist, with a copy of one session and its project.
    pub fn copy_session(&self, id: &SessionId, to: &Path) -> Result<(), DatabaseError> {
        let row = self.session(id)?.ok_or_else(|| DatabaseError::NoSession {
            id: id.clone(),
            path: self.file.path.clone(),
        })?;
        let made = DatabaseFile {
            path: to.to_owned(),
            confined: false,
        };
        let failed = |source| classify(&made, true, self.wait, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NOFOLLOW
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let new = Connection::open_with_flags(to, flags).map_err(failed)?;
        new.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        // A table may come before the one that it refers to.
        new.pragma_update(None, "foreign_keys", false).map_err(failed)?;
        self.read(|handle| {
            let old = &handle.connection;
            // A read that turned out to be outdated is repeated.
            let _ = new.execute_batch("ROLLBACK");
            new.execute_batch("BEGIN")?;
            let mut statement = old.prepare(
                "SELECT name, type, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' \
                 ORDER BY type = 'table' DESC, rowid",
            )?;
            let mut objects = statement.query([])?;
            while let Some(object) = objects.next()? {
                let (name, kind, sql): (String, String, String) = (object.get(0)?, object.get(1)?, object.get(2)?);
                new.execute_batch(&sql)?;
                if kind == "table" {
                    copy_rows(old, &new, &name, id, &row.project_id)?;
                }
            }
            Ok(())
        })?;
        new.execute_batch("COMMIT").map_err(failed)?;
        new.close().map_err(|(_, source)| failed(source))
    }
}

/// Copies the rows of a table that belong to the session or its project.
fn copy_rows(
    old: &Connection,
    new: &Connection,
    table: &str,
    session: &SessionId,
    project: &str,
) -> rusqlite::Result<()> {
    if LEFT_OUT.contains(&table) {
        return Ok(());
    }
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let name = quoted(table);
    let columns: Vec<String> = {
        let mut statement = old.prepare(&format!("SELECT name FROM pragma_table_info({name})"))?;
        let names = statement.query_map([], |row| row.get(0))?;
        names.collect::<rusqlite::Result<_>>()?
    };
    let has = |column: &str| columns.iter().any(|name| name == column);
    let (condition, value) = match table {
        "session" => ("id = ?1", session.as_str()),
        "project" => ("id = ?1", project),
        _ if has("session_id") => ("session_id = ?1", session.as_str()),
        _ if has("project_id") => ("project_id = ?1", project),
        _ if MIGRATIONS.contains(&table) => ("?1 = ''", ""),
        _ => return Ok(()),
    };
    let list = columns
        .iter()
        .map(|column| quoted(column))
        .collect::<Vec<_>>()
        .join(", ");
    let places = vec!["?"; columns.len()].join(", ");
    let mut read = old.prepare(&format!("SELECT {list} FROM {name} WHERE {condition}"))?;
    let mut insert = new.prepare(&format!("INSERT INTO {name} ({list}) VALUES ({places})"))?;
    let mut rows = read.query(params![value])?;
    while let Some(row) = rows.next()? {
        let values: Vec<rusqlite::types::Value> = (0..columns.len())
            .map(|at| row.get(at))
            .collect::<rusqlite::Result<_>>()?;
        insert.execute(rusqlite::params_from_iter(values))?;
    }
    Ok(())
}
