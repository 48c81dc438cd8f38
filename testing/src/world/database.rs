//! Reads the content of opencode's database without writing.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::World;

/// The columns of a row in `session` that matter to kugetsu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// `ses_...`.
    pub id: String,
    /// The title.
    pub title: String,
    /// The directory that it belongs to.
    pub directory: String,
    /// The permission rules, as the JSON text stored.
    pub permission: Option<String>,
    /// The session that created it as a subtask; none for forks.
    pub parent: Option<String>,
}

/// The write lock on opencode's database, released when dropped.
pub struct DatabaseLock(Connection);

impl Drop for DatabaseLock {
    fn drop(&mut self) {
        let _ = self.0.execute_batch("ROLLBACK");
    }
}

impl World {
    /// opencode's database; it exists once opencode has run.
    pub fn opencode_db(&self) -> PathBuf {
        self.home().join(".local/share/opencode/opencode.db")
    }

    fn open_read_only(&self) -> Connection {
        let path = self.opencode_db();
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        connection
            .busy_timeout(Duration::from_secs(10))
            .expect("a time-out can be set");
        connection
    }

    /// Every session, oldest first; empty if the database does not exist.
    pub fn sessions(&self) -> Vec<SessionRow> {
        if !self.opencode_db().exists() {
            return Vec::new();
        }
        let connection = self.open_read_only();
        let columns = "id, title, directory, permission, parent_id";
        let mut statement = connection
            .prepare(&format!(
                "SELECT {columns} FROM session ORDER BY time_created, rowid"
            ))
            .expect("opencode's schema");
        let rows = statement.query_map([], |row| {
            Ok(SessionRow {
                id: row.get(0)?,
                title: row.get(1)?,
                directory: row.get(2)?,
                permission: row.get(3)?,
                parent: row.get(4)?,
            })
        });
        rows.and_then(Iterator::collect)
            .expect("rows of the session table")
    }

    /// The session with this id.
    #[track_caller]
    pub fn session(&self, id: &str) -> SessionRow {
        let all = self.sessions();
        let found = all.iter().find(|session| session.id == id).cloned();
        found.unwrap_or_else(|| panic!("no session {id} among {all:#?}"))
    }

    /// The rows of a query, read only, each as its values. Blobs are returned as text.
    #[track_caller]
    pub fn sql(&self, query: &str) -> Vec<Vec<Value>> {
        let connection = self.open_read_only();
        let mut statement = connection
            .prepare(query)
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        let count = statement.column_count();
        let rows = statement.query_map([], |row| {
            (0..count).map(|index| row.get(index).map(json)).collect()
        });
        rows.and_then(Iterator::collect)
            .unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// The text of the user's messages in a session, oldest first, without the quotes and line feeds that opencode puts
    /// around some, and without the mark of a fork that was made with its prompt.
    #[track_caller]
    pub fn prompts(&self, session: &str) -> Vec<String> {
        self.prompts_by(session, "message.time_created, part.id")
    }

    /// [`World::prompts`] in the order in which opencode has stored them, whatever the clock said.
    #[track_caller]
    pub fn prompts_as_stored(&self, session: &str) -> Vec<String> {
        self.prompts_by(session, "message.rowid, part.rowid")
    }

    #[track_caller]
    fn prompts_by(&self, session: &str, order: &str) -> Vec<String> {
        let rows = self.sql(&format!(
            "SELECT part.data FROM part JOIN message ON part.message_id = message.id \
             WHERE part.session_id = '{session}' AND json_extract(message.data, '$.role') = 'user' \
             ORDER BY {order}"
        ));
        rows.iter()
            .filter_map(|row| serde_json::from_str::<Value>(row[0].as_str()?).ok())
            .filter_map(|part| {
                Some(
                    without_mark(part["text"].as_str()?)
                        .trim_matches(['\n', '"'])
                        .to_owned(),
                )
            })
            .collect()
    }

    /// Changes opencode's database, as another program would.
    #[track_caller]
    pub fn sql_write(&self, statements: &str) {
        let connection = Connection::open(self.opencode_db()).expect("opencode has run");
        connection
            .busy_timeout(Duration::from_secs(10))
            .expect("a time-out can be set");
        connection
            .execute_batch(statements)
            .unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// Takes the write lock on opencode's database until the returned value is dropped.
    #[track_caller]
    pub fn lock_database(&self) -> DatabaseLock {
        let connection = Connection::open(self.opencode_db()).expect("opencode has run");
        connection
            .busy_timeout(Duration::from_secs(10))
            .expect("a time-out can be set");
        connection
            .execute_batch("BEGIN IMMEDIATE")
            .expect("nobody holds the lock for long");
        DatabaseLock(connection)
    }
}

fn json(value: Sql) -> Value {
    match value {
        Sql::Null => Value::Null,
        Sql::Integer(number) => number.into(),
        Sql::Real(number) => number.into(),
        Sql::Text(text) => text.into(),
        Sql::Blob(bytes) => String::from_utf8_lossy(&bytes).into(),
    }
}

/// The prompt of a fork that kugetsu made together with the prompt, without the line that marks the fork.
pub fn without_mark(prompt: &str) -> &str {
    let end = prompt.rfind("\n\n<!-- kugetsu fork ");
    end.map_or(prompt, |end| &prompt[..end])
}
