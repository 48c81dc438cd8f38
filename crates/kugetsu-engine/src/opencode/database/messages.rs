//! The messages of a session, which are the evidence for a verdict.
//!
//! Measured on 1.3.2 and 1.18.33: `message.data` and `part.data` contain the same JSON objects as events. Their ids and
//! sessions are in columns.

use rusqlite::{OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::{Database, DatabaseError};
use crate::opencode::message::{MessageInfo, Part, SUBAGENT_TOOL};
use crate::opencode::tolerant::{self, Tolerant};
use crate::opencode::{ErrorPayload, Finish, Role};
use kugetsu_api::{SessionId, TokenCount};

/// A stored message.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMessage {
    /// `msg_...`
    pub id: String,
    /// The author of the message.
    pub role: Role,
    /// The creation time, in milliseconds since the epoch.
    pub created_ms: i64,
    /// Why the model ended the step.
    pub finish: Option<Finish>,
    /// Why the model did not answer.
    pub error: Option<ErrorPayload>,
    /// The step's cost, in US dollars.
    pub cost_usd: f64,
    /// The tokens that the step used.
    pub tokens: TokenCount,
}

impl StoredMessage {
    /// Whether the message is a prompt.
    pub fn is_prompt(&self) -> bool {
        self.role == Role::User
    }

    /// Whether the message is a step of an answer, complete or not.
    pub fn is_answer(&self) -> bool {
        self.role == Role::Assistant
    }

    /// Whether the message is the last step of a complete answer.
    pub fn is_end_of_answer(&self) -> bool {
        self.is_answer() && self.finish == Some(Finish::Stop)
    }
}

/// The work of a session's subagents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubagentWork {
    /// When their text and tools last changed, in milliseconds since the epoch; 0 if there is nothing.
    pub changed_ms: i64,
    /// The ended steps, in order.
    pub steps: Vec<SubagentStep>,
}

/// An ended step of a subagent.
#[derive(Clone, Debug, PartialEq)]
pub struct SubagentStep {
    /// `prt_...`
    pub part: String,
    /// The subagent's session.
    pub session: String,
    /// Why the model ended the step.
    pub reason: Finish,
    /// The step's cost, in US dollars.
    pub cost_usd: f64,
    /// The tokens that the step used.
    pub tokens: TokenCount,
}

impl Database {
    /// The number of messages of a session.
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

    /// The messages of a session that are newer than `after_ms` (milliseconds since the epoch), in order.
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

    /// The cost in US dollars and the tokens of a session and of its subagents' sessions since `since_ms` (milliseconds
    /// since the epoch). A fork's copies of its base's messages keep their time (both versions), so they do not count.
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

    /// The work of a session's subagents since `since_ms` (milliseconds since the epoch). Cheap enough to run every few
    /// seconds, because unchanged rows are not parsed.
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

    /// Whether a tool call of a message since `since_ms` (milliseconds since the epoch), also of a subagent, has begun
    /// and not ended. The tool that waits for a subagent does not count. If opencode was killed during the call, the
    /// result stays true for ever, so it is valid only while opencode lives.
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

    /// The text of a message, without the parts that opencode added; only its length in bytes if the parts have more
    /// than `most`.
    pub fn text_of(&self, message: &str, most: usize) -> Result<Result<String, u64>, DatabaseError> {
        let parts = "FROM part WHERE message_id = ?1 AND json_valid(data) AND json_extract(data, '$.type') = 'text' \
                     AND json_extract(data, '$.synthetic') IS NOT 1";
        self.read(|handle| {
            let length = format!("SELECT coalesce(sum(length(CAST(data AS BLOB))), 0) {parts}");
            let length: i64 = handle
                .connection
                .prepare_cached(&length)?
                .query_row([message], |row| row.get(0))?;
            if length.unsigned_abs() > most as u64 {
                return Ok(Err(length.unsigned_abs()));
            }
            let text = format!("SELECT json_extract(data, '$.text') {parts} ORDER BY id");
            let mut statement = handle.connection.prepare_cached(&text)?;
            let texts = statement.query_map([message], |row| {
                // Half of a surrogate pair is no UTF-8.
                let bytes = row.get_ref(0)?.as_bytes_or_null()?.unwrap_or_default();
                Ok(String::from_utf8_lossy(bytes).into_owned())
            })?;
            texts.collect::<rusqlite::Result<String>>().map(Ok)
        })
    }

    /// The text of the user's last message, without the parts that opencode added; `None` if there is no such message.
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

/// Whether the stored prompt has this SHA-256 (lower-case hexadecimal). 1.3.2 puts one line feed before a prompt that
/// it reads from stdin; no other difference is allowed.
pub fn prompt_matches(stored: &str, sha256: &str) -> bool {
    let is = |text: &str| hex::encode(Sha256::digest(text)) == sha256;
    is(stored) || stored.strip_prefix('\n').is_some_and(is)
}

/// Whether the stored prompt equals this one, apart from leading line feeds.
pub fn is_same_prompt(stored: &str, prompt: &str) -> bool {
    stored.trim_start_matches('\n') == prompt.trim_start_matches('\n')
}

/// Reads a value; empty if it cannot be read.
fn read<T: Tolerant>(data: &str) -> T {
    tolerant::from_slice(data.as_bytes()).unwrap_or_default()
}

fn stored_message(id: String, created_ms: i64, data: &str) -> StoredMessage {
    // A message that cannot be read still counts as a message, but proves nothing else.
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
