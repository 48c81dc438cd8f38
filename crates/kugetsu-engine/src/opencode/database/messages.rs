//! What a session holds: the evidence for a verdict.
//!
//! Measured on 1.3.2 and 1.18.33: `message.data` is JSON with `role`; a user's message has nothing else of interest;
//! an assistant's has `time {created, completed}`, `cost`, `tokens`, `finish` (`stop`, `tool-calls`, ...) when the model
//! answered, and `error {name, data {message, ...}}` when it did not (then without `finish`). One turn stores a user's
//! message and one assistant's message per step. The text is in `part.data` (`type`, `text`).

use rusqlite::{OptionalExtension, params};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Database, DatabaseError};
use crate::opencode::run_events::{cost, token_count};
use kugetsu_api::{SessionId, TokenCount};

/// The tool that starts a subagent and waits for it.
pub const SUBAGENT_TOOL: &str = "task";

/// A message as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMessage {
    /// `msg_...`
    pub id: String,
    /// `user` or `assistant`.
    pub role: String,
    /// When it was created, in milliseconds since the epoch.
    pub created_ms: i64,
    /// Why the model ended its step: `stop`, `tool-calls`, `length`, `unknown`, ...
    pub finish: Option<String>,
    /// opencode's error object.
    pub error: Option<Value>,
    /// What the step cost, in US dollars.
    pub cost_usd: f64,
    /// What the step used.
    pub tokens: TokenCount,
}

/// What the subagents of a session have done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubagentWork {
    /// When their text and tools last changed, in milliseconds since the epoch; 0 where there is nothing.
    pub changed_ms: i64,
    /// Their steps that ended, in order.
    pub steps: Vec<SubagentStep>,
}

/// A step of a subagent that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct SubagentStep {
    /// `prt_...`
    pub part: String,
    /// The subagent's session.
    pub session: String,
    /// Why the model ended it.
    pub reason: String,
    /// What it cost, in US dollars.
    pub cost_usd: f64,
    /// What it used.
    pub tokens: TokenCount,
}

impl Database {
    /// How many messages a session has.
    pub fn message_count(&self, id: &SessionId) -> Result<u64, DatabaseError> {
        let sql = "SELECT count(*) FROM message WHERE session_id = ?1";
        let count: i64 = self.read(|handle| {
            handle
                .connection
                .prepare_cached(sql)?
                .query_row([id.as_str()], |row| row.get(0))
        })?;
        Ok(count.unsigned_abs())
    }

    /// The messages of a session that are newer than this (milliseconds since the epoch), in order.
    pub fn messages_after(&self, id: &SessionId, after_ms: i64) -> Result<Vec<StoredMessage>, DatabaseError> {
        let sql = "SELECT id, time_created, data FROM message WHERE session_id = ?1 AND time_created > ?2 \
                   ORDER BY time_created, id";
        self.read(|handle| {
            let mut statement = handle.connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![id.as_str(), after_ms], |row| {
                Ok(stored_message(
                    row.get(0)?,
                    row.get(1)?,
                    &row.get::<_, String>(2)?,
                ))
            })?;
            rows.collect()
        })
    }

    /// What a session and the sessions of its subagents have cost since then (milliseconds since the epoch), in US
    /// dollars, and the tokens that they used. A fork's copies of its base's messages keep their time (both versions),
    /// so they do not count.
    pub fn spent(&self, id: &SessionId, since_ms: i64) -> Result<(f64, TokenCount), DatabaseError> {
        let sql = "WITH RECURSIVE family(id) AS ( \
                     SELECT ?1 UNION SELECT s.id FROM session s JOIN family f ON s.parent_id = f.id) \
                   SELECT m.data FROM message m JOIN family f ON m.session_id = f.id \
                   WHERE m.time_created >= ?2 AND json_valid(m.data) AND json_extract(m.data, '$.role') = 'assistant'";
        self.read(|handle| {
            let mut statement = handle.connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![id.as_str(), since_ms], |row| row.get::<_, String>(0))?;
            let mut spent = (0.0, TokenCount::default());
            for row in rows {
                let data: Value = serde_json::from_str(&row?).unwrap_or_default();
                spent.0 += cost(&data["cost"]);
                spent.1 += token_count(&data["tokens"]);
            }
            Ok(spent)
        })
    }

    /// What the subagents of a session have done since then (milliseconds since the epoch). Cheap enough to be asked
    /// for every few seconds: rows that did not change since then are not parsed.
    pub fn subagents(&self, id: &SessionId, since_ms: i64) -> Result<SubagentWork, DatabaseError> {
        let sql = "WITH RECURSIVE family(id) AS ( \
                     SELECT s.id FROM session s WHERE s.parent_id = ?1 \
                     UNION SELECT s.id FROM session s JOIN family f ON s.parent_id = f.id) \
                   SELECT p.id, p.session_id, p.time_updated, json_extract(p.data, '$.type') AS kind, p.data \
                   FROM part p JOIN family f ON p.session_id = f.id \
                   WHERE p.time_updated >= ?2 AND json_valid(p.data) \
                   AND kind IN ('text', 'reasoning', 'tool', 'step-finish') ORDER BY p.id";
        self.read(|handle| {
            let mut statement = handle.connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![id.as_str(), since_ms])?;
            let mut work = SubagentWork::default();
            while let Some(row) = rows.next()? {
                work.changed_ms = work.changed_ms.max(row.get(2)?);
                if row.get_ref(3)?.as_str() == Ok("step-finish") {
                    let data: Value = serde_json::from_str(&row.get::<_, String>(4)?).unwrap_or_default();
                    work.steps.push(SubagentStep {
                        part: row.get(0)?,
                        session: row.get(1)?,
                        reason: data["reason"].as_str().unwrap_or("unknown").to_owned(),
                        cost_usd: cost(&data["cost"]),
                        tokens: token_count(&data["tokens"]),
                    });
                }
            }
            Ok(work)
        })
    }

    /// Whether a tool call of a message since then (milliseconds since the epoch), a subagent's included, has begun and
    /// not ended; the tool that waits for a subagent does not count. True for ever where opencode was killed meanwhile,
    /// so it tells something only while opencode lives.
    pub fn tool_runs(&self, id: &SessionId, since_ms: i64) -> Result<bool, DatabaseError> {
        let sql = "WITH RECURSIVE family(id) AS ( \
                     SELECT ?1 UNION SELECT s.id FROM session s JOIN family f ON s.parent_id = f.id) \
                   SELECT EXISTS (SELECT 1 FROM family f JOIN message m ON m.session_id = f.id \
                     JOIN part p ON p.message_id = m.id \
                     WHERE m.time_created >= ?2 AND json_valid(p.data) \
                     AND json_extract(p.data, '$.type') = 'tool' AND json_extract(p.data, '$.tool') IS NOT ?3 \
                     AND json_extract(p.data, '$.state.status') = 'running')";
        self.read(|handle| {
            let mut statement = handle.connection.prepare_cached(sql)?;
            statement.query_row(params![id.as_str(), since_ms, SUBAGENT_TOOL], |row| row.get(0))
        })
    }

    /// The text of the last message of the user, without what opencode added to it; `None` when there is no such message.
    pub fn last_user_text(&self, id: &SessionId) -> Result<Option<String>, DatabaseError> {
        let last = "SELECT id FROM message WHERE session_id = ?1 AND json_valid(data) \
                    AND json_extract(data, '$.role') = 'user' ORDER BY time_created DESC, id DESC LIMIT 1";
        let text = "SELECT json_extract(data, '$.text') FROM part WHERE message_id = ?1 AND json_valid(data) \
                    AND json_extract(data, '$.type') = 'text' AND json_extract(data, '$.synthetic') IS NOT 1 ORDER BY id";
        self.read(|handle| {
            let mut last = handle.connection.prepare_cached(last)?;
            let message: Option<String> = last.query_row([id.as_str()], |row| row.get(0)).optional()?;
            let Some(message) = message else { return Ok(None) };
            let mut statement = handle.connection.prepare_cached(text)?;
            let parts = statement.query_map([message], |row| row.get::<_, Option<String>>(0))?;
            parts
                .map(|part| part.map(Option::unwrap_or_default))
                .collect::<rusqlite::Result<String>>()
                .map(Some)
        })
    }
}

/// Is the stored prompt the one with this SHA-256 (lower-case hexadecimal)? 1.3.2 puts one line feed before a prompt
/// that it reads from stdin; nothing else may differ.
pub fn prompt_matches(stored: &str, sha256: &str) -> bool {
    let is = |text: &str| hex(&Sha256::digest(text)) == sha256;
    is(stored) || stored.strip_prefix('\n').is_some_and(is)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn stored_message(id: String, created_ms: i64, data: &str) -> StoredMessage {
    // A message that cannot be read is still a message; it proves nothing else.
    let mut data: Value = serde_json::from_str(data).unwrap_or_default();
    let string = |value: &Value| value.as_str().map(str::to_owned);
    StoredMessage {
        id,
        role: string(&data["role"]).unwrap_or_default(),
        created_ms,
        finish: string(&data["finish"]),
        cost_usd: cost(&data["cost"]),
        tokens: token_count(&data["tokens"]),
        error: data
            .get_mut("error")
            .map(Value::take)
            .filter(|error| !error.is_null()),
    }
}
