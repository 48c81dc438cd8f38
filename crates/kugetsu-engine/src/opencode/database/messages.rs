//! What a session holds: the evidence for a verdict.
//!
//! Measured on 1.3.2 and 1.18.33: `message.data` and `part.data` are the JSON objects that events have as well. Their ids
//! and sessions are in columns.

use rusqlite::{OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::{Database, DatabaseError};
use crate::opencode::message::{MessageInfo, Part, SUBAGENT_TOOL};
use crate::opencode::tolerant::{self, Tolerant};
use crate::opencode::{ErrorPayload, Finish, Role};
use kugetsu_api::{SessionId, TokenCount};

/// A message as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMessage {
    /// `msg_...`
    pub id: String,
    /// Who wrote it.
    pub role: Role,
    /// When it was created, in milliseconds since the epoch.
    pub created_ms: i64,
    /// Why the model ended its step.
    pub finish: Option<Finish>,
    /// Why there is no answer of the model.
    pub error: Option<ErrorPayload>,
    /// What the step cost, in US dollars.
    pub cost_usd: f64,
    /// What the step used.
    pub tokens: TokenCount,
}

impl StoredMessage {
    /// Whether it is a prompt.
    pub fn is_prompt(&self) -> bool {
        self.role == Role::User
    }

    /// Whether it is a step of an answer, complete or not.
    pub fn is_answer(&self) -> bool {
        self.role == Role::Assistant
    }

    /// Whether it is the last step of an answer: the model has said all that it wanted to.
    pub fn is_end_of_answer(&self) -> bool {
        self.is_answer() && self.finish == Some(Finish::Stop)
    }
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
    pub reason: Finish,
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
                let info: MessageInfo = read(&row?);
                spent.0 += info.cost_usd;
                spent.1 += info.tokens;
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
                    let step: Part = read(&row.get::<_, String>(4)?);
                    work.steps.push(SubagentStep {
                        part: row.get(0)?,
                        session: row.get(1)?,
                        reason: step.reason.unwrap_or_default(),
                        cost_usd: step.cost_usd,
                        tokens: step.tokens,
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

/// Whether the stored prompt is the one with this SHA-256 (lower-case hexadecimal). 1.3.2 puts one line feed before a
/// prompt that it reads from stdin; nothing else may differ.
pub fn prompt_matches(stored: &str, sha256: &str) -> bool {
    let is = |text: &str| hex::encode(Sha256::digest(text)) == sha256;
    is(stored) || stored.strip_prefix('\n').is_some_and(is)
}

/// Whether the stored prompt is this one, but for line feeds before it.
pub fn is_same_prompt(stored: &str, prompt: &str) -> bool {
    stored.trim_start_matches('\n') == prompt.trim_start_matches('\n')
}

/// What cannot be read is empty.
fn read<T: Tolerant>(data: &str) -> T {
    tolerant::from_slice(data.as_bytes()).unwrap_or_default()
}

fn stored_message(id: String, created_ms: i64, data: &str) -> StoredMessage {
    // A message that cannot be read is still a message; it proves nothing else.
    let info: MessageInfo = read(data);
    StoredMessage {
        id,
        role: info.role,
        created_ms,
        finish: info.finish,
        error: info.error,
        cost_usd: info.cost_usd,
        tokens: info.tokens,
    }
}
