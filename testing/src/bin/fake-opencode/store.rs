//! The fake's database: the tables and columns that opencode 1.3.2 and 1.18.33 have in common, in WAL mode like theirs.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kugetsu_testing::fake::{FakeScript, data_folder};
use kugetsu_testing::usage;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use crate::Failure;

/// Columns of `session` and their types in both versions.
const SESSION: [(&str, &str); 19] = [
    ("id", "text PRIMARY KEY"),
    (
        "project_id",
        "text NOT NULL REFERENCES project(id) ON DELETE CASCADE",
    ),
    ("parent_id", "text"),
    ("slug", "text NOT NULL"),
    ("directory", "text NOT NULL"),
    ("title", "text NOT NULL"),
    ("version", "text NOT NULL"),
    ("share_url", "text"),
    ("summary_additions", "integer"),
    ("summary_deletions", "integer"),
    ("summary_files", "integer"),
    ("summary_diffs", "text"),
    ("revert", "text"),
    ("permission", "text"),
    ("time_created", "integer NOT NULL"),
    ("time_updated", "integer NOT NULL"),
    ("time_compacting", "integer"),
    ("time_archived", "integer"),
    ("workspace_id", "text"),
];

const OTHER_TABLES: &str = "
CREATE TABLE IF NOT EXISTS project (
    id text PRIMARY KEY, worktree text NOT NULL, vcs text, name text, icon_url text, icon_color text,
    time_created integer NOT NULL, time_updated integer NOT NULL, time_initialized integer, sandboxes text NOT NULL,
    commands text);
CREATE TABLE IF NOT EXISTS message (
    id text PRIMARY KEY, session_id text NOT NULL REFERENCES session(id) ON DELETE CASCADE,
    time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL);
CREATE INDEX IF NOT EXISTS message_session_time_created_id_idx ON message (session_id, time_created, id);
CREATE TABLE IF NOT EXISTS part (
    id text PRIMARY KEY, message_id text NOT NULL REFERENCES message(id) ON DELETE CASCADE, session_id text NOT NULL,
    time_created integer NOT NULL, time_updated integer NOT NULL, data text NOT NULL);
CREATE INDEX IF NOT EXISTS part_session_idx ON part (session_id);
CREATE INDEX IF NOT EXISTS part_message_id_id_idx ON part (message_id, id);
";

/// Milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// An id in opencode's format: time and counter as twelve hexadecimal digits, then random digits. Session ids descend.
fn new_id(prefix: &str) -> Result<String, Failure> {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut time = now().unsigned_abs() * 0x1000 + COUNT.fetch_add(1, Ordering::SeqCst);
    if prefix == "ses" {
        time = !time;
    }
    let mut random = [0; 14];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let letters: String = random
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
        .collect();
    Ok(format!("{prefix}_{:012x}{letters}", time & 0xffff_ffff_ffff))
}

pub(crate) struct Store {
    connection: Connection,
    version: String,
    missing: Vec<String>,
}

impl Store {
    pub(crate) fn path(home: &Path) -> PathBuf {
        let own = std::env::var_os("OPENCODE_DB");
        own.map_or_else(|| data_folder(home).join("opencode.db"), PathBuf::from)
    }

    pub(crate) fn open(home: &Path, script: &FakeScript) -> Result<Self, Failure> {
        std::fs::create_dir_all(data_folder(home))?;
        let connection = Connection::open(Self::path(home))?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let exists: i64 = connection.query_row(
            "SELECT count(*) FROM sqlite_master WHERE name = 'part'",
            [],
            |row| row.get(0),
        )?;
        let missing = script.missing_columns.clone();
        if exists == 0 {
            let columns = SESSION
                .iter()
                .filter(|(name, _)| !missing.iter().any(|column| column == name));
            let columns: Vec<String> = columns.map(|(name, kind)| format!("{name} {kind}")).collect();
            let session = format!("CREATE TABLE IF NOT EXISTS session ({})", columns.join(", "));
            connection.execute_batch(&format!("BEGIN IMMEDIATE; {session}; {OTHER_TABLES} COMMIT"))?;
        }
        Ok(Self {
            connection,
            version: script.version.clone(),
            missing,
        })
    }

    fn has_column(&self, name: &str) -> bool {
        !self.missing.iter().any(|column| column == name)
    }

    /// The project of the working directory: the id of the first commit, or `global` outside a git repository.
    fn project(&self) -> Result<String, Failure> {
        let git = |arguments: &[&str]| {
            let output = Command::new("git")
                .args(arguments)
                .stderr(Stdio::null())
                .output()
                .ok()?;
            output
                .status
                .success()
                .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let first = git(&["rev-list", "--max-parents=0", "HEAD"]).filter(|commit| !commit.is_empty());
        let (id, vcs) = first.map_or(("global".to_owned(), None), |commit| (commit, Some("git")));
        let worktree = vcs
            .and_then(|_| git(&["rev-parse", "--show-toplevel"]))
            .unwrap_or_else(|| "/".to_owned());
        self.connection.execute(
            "INSERT OR IGNORE INTO project (id, worktree, vcs, time_created, time_updated, sandboxes)
             VALUES (?1, ?2, ?3, ?4, ?4, '[]')",
            params![id, worktree, vcs, now()],
        )?;
        Ok(id)
    }

    fn insert(&self, id: &str, title: &str, permission: Option<&str>) -> Result<(), Failure> {
        let project = self.project()?;
        let directory = std::env::current_dir()?;
        self.connection.execute(
            "INSERT INTO session (id, project_id, slug, title, version, time_created, time_updated, directory)
             VALUES (?1, ?2, 'fake-session', ?3, ?4, ?5, ?5, ?6)",
            params![id, project, title, self.version, now(), directory.to_string_lossy()],
        )?;
        if self.has_column("permission") {
            self.connection.execute(
                "UPDATE session SET permission = ?2 WHERE id = ?1",
                params![id, permission],
            )?;
        }
        Ok(())
    }

    /// Creates a session as `run` does, with the rules that `run` writes.
    pub(crate) fn create(&self, title: &str) -> Result<String, Failure> {
        let deny = |name: &str| json!({ "permission": name, "pattern": "*", "action": "deny" });
        let rules = json!([deny("question"), deny("plan_enter"), deny("plan_exit")]);
        self.create_with(title, Some(&rules.to_string()))
    }

    /// Creates a session as the API does, with the given rules.
    pub(crate) fn create_with(&self, title: &str, rules: Option<&str>) -> Result<String, Failure> {
        let id = new_id("ses")?;
        self.insert(&id, title, rules)?;
        Ok(id)
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn has(&self, id: &str) -> Result<bool, Failure> {
        let found = self
            .connection
            .query_row("SELECT 1 FROM session WHERE id = ?1", [id], |_| Ok(()))
            .optional()?;
        Ok(found.is_some())
    }

    /// Creates a fork: its own copy of the messages, no permission, and a title that marks a fork.
    pub(crate) fn fork(&self, base: &str) -> Result<String, Failure> {
        let title: String =
            self.connection
                .query_row("SELECT title FROM session WHERE id = ?1", [base], |row| {
                    row.get(0)
                })?;
        let id = new_id("ses")?;
        self.insert(&id, &format!("{title} (fork #1)"), None)?;
        let mut copies = HashMap::new();
        for (message, mut data, parts) in self.messages(base)? {
            let copy = new_id("msg")?;
            if let Some(parent) = data["parentID"].as_str().and_then(|parent| copies.get(parent)) {
                data["parentID"] = Value::clone(parent);
            }
            self.insert_message(&copy, &id, &data)?;
            copies.insert(message, Value::from(copy.as_str()));
            for part in parts {
                self.insert_part(&new_id("prt")?, &copy, &id, &part)?;
            }
        }
        Ok(id)
    }

    fn messages(&self, session: &str) -> Result<Vec<(String, Value, Vec<Value>)>, Failure> {
        let mut messages = self
            .connection
            .prepare("SELECT id, data FROM message WHERE session_id = ?1 ORDER BY time_created, id")?;
        let mut parts = self
            .connection
            .prepare("SELECT data FROM part WHERE message_id = ?1 ORDER BY id")?;
        let rows = messages.query_map([session], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        let mut all = Vec::new();
        for row in rows {
            let (id, data) = row?;
            let texts = parts
                .query_map([&id], |row| row.get::<_, String>(0))?
                .collect::<Result<Vec<_>, _>>()?;
            let its_parts = texts
                .iter()
                .map(|text| serde_json::from_str(text))
                .collect::<Result<_, _>>()?;
            all.push((id, serde_json::from_str(&data)?, its_parts));
        }
        Ok(all)
    }

    /// Inserts a message. A copied or imported message keeps its time, as in both real versions.
    fn insert_message(&self, id: &str, session: &str, data: &Value) -> Result<(), Failure> {
        let created = data["time"]["created"].as_i64().unwrap_or_else(now);
        self.connection.execute(
            "INSERT INTO message (id, session_id, time_created, time_updated, data) VALUES (?1, ?2, ?3, ?3, ?4)",
            params![id, session, created, data.to_string()],
        )?;
        Ok(())
    }

    fn insert_part(&self, id: &str, message: &str, session: &str, data: &Value) -> Result<(), Failure> {
        self.connection.execute(
            "INSERT INTO part (id, message_id, session_id, time_created, time_updated, data)
             VALUES (?1, ?2, ?3, ?4, ?4, ?5)",
            params![id, message, session, now(), data.to_string()],
        )?;
        Ok(())
    }

    pub(crate) fn add_user(&self, session: &str, text: &str) -> Result<(), Failure> {
        let id = new_id("msg")?;
        let model = json!({ "providerID": "scripted", "modelID": "scripted" });
        let data = json!({ "role": "user", "time": { "created": now() }, "agent": "build", "model": model });
        self.insert_message(&id, session, &data)?;
        self.insert_part(
            &new_id("prt")?,
            &id,
            session,
            &json!({ "type": "text", "text": text }),
        )
    }

    pub(crate) fn add_assistant(&self, session: &str, tokens: &Value) -> Result<String, Failure> {
        let parent = self.messages(session)?.pop().map(|(id, ..)| id);
        let directory = std::env::current_dir()?;
        let data = json!({
            "parentID": parent, "role": "assistant", "mode": "build", "agent": "build",
            "path": { "cwd": directory, "root": directory }, "cost": usage::COST, "tokens": tokens,
            "modelID": "scripted", "providerID": "scripted",
            "time": { "created": now(), "completed": now() }, "finish": "stop",
        });
        let id = new_id("msg")?;
        self.insert_message(&id, session, &data)?;
        Ok(id)
    }

    pub(crate) fn add_part(&self, session: &str, message: &str, data: &Value) -> Result<String, Failure> {
        let id = new_id("prt")?;
        self.insert_part(&id, message, session, data)?;
        Ok(id)
    }

    pub(crate) fn lock_for(&self, time: Duration) -> Result<(), Failure> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        std::thread::sleep(time);
        self.connection.execute_batch("ROLLBACK")?;
        Ok(())
    }

    pub(crate) fn delete(&self, id: &str) -> Result<(), Failure> {
        let gone = self
            .connection
            .execute("DELETE FROM session WHERE id = ?1", [id])?;
        if gone == 0 {
            Err(format!("Session not found: {id}").into())
        } else {
            Ok(())
        }
    }

    fn info(&self, id: &str) -> Result<Value, Failure> {
        let query = "SELECT project_id, slug, directory, title, version, time_created, time_updated
                     FROM session WHERE id = ?1";
        let row = self.connection.query_row(query, [id], |row| {
            Ok(json!({
                "id": id, "projectID": row.get::<_, String>(0)?, "slug": row.get::<_, String>(1)?,
                "directory": row.get::<_, String>(2)?, "title": row.get::<_, String>(3)?,
                "version": row.get::<_, String>(4)?,
                "time": { "created": row.get::<_, i64>(5)?, "updated": row.get::<_, i64>(6)? },
            }))
        });
        let mut info = row
            .optional()?
            .ok_or_else(|| format!("Session not found: {id}"))?;
        if self.has_column("permission") {
            let query = "SELECT permission FROM session WHERE id = ?1";
            let rules: Option<String> = self.connection.query_row(query, [id], |row| row.get(0))?;
            if let Some(rules) = rules {
                info["permission"] = serde_json::from_str(&rules)?;
            }
        }
        Ok(info)
    }

    pub(crate) fn list(&self) -> Result<String, Failure> {
        let mut ids = self
            .connection
            .prepare("SELECT id FROM session ORDER BY time_updated DESC")?;
        let ids = ids
            .query_map([], |row| row.get::<_, String>(0))?
            .collect::<Result<Vec<_>, _>>()?;
        let infos = ids
            .iter()
            .map(|id| self.info(id))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(serde_json::to_string_pretty(&infos)?)
    }

    pub(crate) fn export(&self, id: &str, short: bool) -> Result<String, Failure> {
        let info = self.info(id)?;
        let mut messages = Vec::new();
        for (message, mut data, parts) in self.messages(id)? {
            data["id"] = message.as_str().into();
            data["sessionID"] = id.into();
            messages.push(json!({ "info": data, "parts": parts }));
        }
        if short {
            messages.pop();
        }
        Ok(serde_json::to_string_pretty(
            &json!({ "info": info, "messages": messages }),
        )?)
    }

    pub(crate) fn import(&self, export: &Value) -> Result<String, Failure> {
        let info = &export["info"];
        let id = info["id"].as_str().ok_or("an export without info.id")?;
        let permission = info.get("permission").map(Value::to_string);
        self.insert(
            id,
            info["title"].as_str().unwrap_or("Imported"),
            permission.as_deref(),
        )?;
        for message in export["messages"].as_array().into_iter().flatten() {
            let copy = message["info"]["id"]
                .as_str()
                .map_or_else(|| new_id("msg"), |id| Ok(id.to_owned()))?;
            self.insert_message(&copy, id, &message["info"])?;
            for part in message["parts"].as_array().into_iter().flatten() {
                let part_id = part["id"]
                    .as_str()
                    .map_or_else(|| new_id("prt"), |id| Ok(id.to_owned()))?;
                self.insert_part(&part_id, &copy, id, part)?;
            }
        }
        Ok(id.to_owned())
    }
}
