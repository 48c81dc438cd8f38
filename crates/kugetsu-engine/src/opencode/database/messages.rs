//! The messages of a session, which are the evidence for a verdict.
//!
//! Measured on 1.3.2 and 1.18.33: `message.data` and `part.data` contain the same JSON objects as events. Their ids and
//! sessions are in columns.
//!
//! Which messages are newer than others is told by the order in which opencode inserted them, never by their times or
//! ids, which the system clock gives and which go back when it does. opencode updates a message in place, so that the
//! message keeps its `rowid`.

use rusqlite::{OptionalExtension, Row, params};

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
    /// The prompt that a step of an answer belongs to.
    pub parent: Option<String>,
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
    /// The state of their text and tools: it differs after every change.
    pub state: (i64, i64),
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

    /// The newest messages that a session and its subagents have, for [`Database::messages_after`]; none if they have no
    /// messages. These are two if a person has reverted the session: opencode removes the reverted messages when the
    /// next prompt arrives, and then the second one is the newest.
    pub fn newest_messages(&self, id: &SessionId) -> Result<Vec<String>, DatabaseError> {
        let newest = format!(
            "{FAMILY} SELECT m.id FROM message m JOIN family f ON m.session_id = f.id ORDER BY m.rowid DESC LIMIT 1"
        );
        let kept = "SELECT m.id FROM session s JOIN message m ON m.session_id = s.id \
                    WHERE s.id = ?1 AND m.rowid < (SELECT r.rowid FROM message r \
                        WHERE json_valid(s.revert) AND r.id = json_extract(s.revert, '$.messageID')) \
                    ORDER BY m.rowid DESC LIMIT 1";
        self.read(|handle| {
            let mut found = Vec::new();
            for sql in [newest.as_str(), kept] {
                let mut statement = handle.connection.prepare_cached(sql)?;
                found.extend(
                    statement
                        .query_row([id.as_str()], |row| row.get::<_, String>(0))
                        .optional()?,
                );
            }
            Ok(found)
        })
    }

    /// The messages of a session that opencode stored after these, in the order in which it stored them.
    pub fn messages_after(
        &self,
        id: &SessionId,
        after: &[String],
    ) -> Result<Vec<StoredMessage>, DatabaseError> {
        let sql = format!(
            "SELECT id, data FROM message WHERE session_id = ?1 AND rowid > {BOUNDARY} ORDER BY rowid"
        );
        self.read(|handle| {
            let mut statement = handle.connection.prepare_cached(&sql)?;
            let rows = statement.query_map(params![id.as_str(), json_list(after)], stored_message)?;
            rows.collect()
        })
    }

    /// The ids of a session's messages, in the order in which opencode stored them.
    pub fn message_ids(&self, id: &SessionId) -> Result<Vec<String>, DatabaseError> {
        let sql = "SELECT id FROM message WHERE session_id = ?1 ORDER BY rowid";
        self.read(|handle| {
            let mut statement = handle.connection.prepare_cached(sql)?;
            statement.query_map([id.as_str()], |row| row.get(0))?.collect()
        })
    }

    /// The message of the user that holds this text, and the message that was stored before it in its session.
    pub fn prompt_with(
        &self,
        id: &SessionId,
        text: &str,
    ) -> Result<Option<(String, Option<String>)>, DatabaseError> {
        let sql = "SELECT m.id, (SELECT b.id FROM message b WHERE b.session_id = ?1 AND b.rowid < m.rowid \
                      ORDER BY b.rowid DESC LIMIT 1) \
                   FROM part p JOIN message m ON m.id = p.message_id \
                   WHERE p.session_id = ?1 AND instr(p.data, ?2) AND json_valid(m.data) \
                   AND json_extract(m.data, '$.role') = 'user' ORDER BY m.rowid LIMIT 1";
        self.read(|handle| {
            let mut statement = handle.connection.prepare_cached(sql)?;
            statement
                .query_row(params![id.as_str(), text], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
    }

    /// The order in which opencode reads a session's messages, as far as a new prompt depends on it.
    pub fn message_order(&self, id: &SessionId) -> Result<MessageOrder, DatabaseError> {
        let times = "SELECT max(time_created) FROM message WHERE session_id = ?1";
        let read_last =
            "SELECT id FROM message WHERE session_id = ?1 ORDER BY time_created DESC, id DESC LIMIT 1";
        let stored_last = "SELECT id FROM message WHERE session_id = ?1 ORDER BY rowid DESC LIMIT 1";
        self.read(|handle| {
            let last = |sql: &str| {
                let mut statement = handle.connection.prepare_cached(sql)?;
                let row: rusqlite::Result<String> = statement.query_row([id.as_str()], |row| row.get(0));
                row.optional()
            };
            Ok(MessageOrder {
                newest_ms: handle
                    .connection
                    .prepare_cached(times)?
                    .query_row([id.as_str()], |row| row.get(0))?,
                last: last(read_last)?,
                stored_last: last(stored_last)?,
            })
        })
    }

    /// The cost in US dollars and the tokens of a session and of its subagents' sessions, in the messages that opencode
    /// stored after these.
    pub fn spent(&self, id: &SessionId, after: &[String]) -> Result<(f64, TokenCount), DatabaseError> {
        let sql = format!(
            "{FAMILY} SELECT m.data FROM message m JOIN family f ON m.session_id = f.id \
             WHERE m.rowid > {BOUNDARY} AND json_valid(m.data) AND json_extract(m.data, '$.role') = 'assistant'"
        );
        self.read(|handle| {
            let mut statement = handle.connection.prepare_cached(&sql)?;
            let rows = statement.query_map(params![id.as_str(), json_list(after)], |row| {
                row.get::<_, String>(0)
            })?;
            let mut spent = (0.0, TokenCount::default());
            for row in rows {
                let info: MessageInfo = read(&row?);
                spent.0 += info.cost_usd;
                spent.1 += info.tokens;
            }
            Ok(spent)
        })
    }

    /// The part that was stored last, of any session, for [`Database::subagents`]; 0 if there is none.
    pub fn newest_part(&self) -> Result<i64, DatabaseError> {
        self.read(|handle| {
            handle
                .connection
                .query_row("SELECT coalesce(max(rowid), 0) FROM part", [], |row| row.get(0))
        })
    }

    /// The work of a session's subagents in parts that were stored after this one. Cheap enough to run every few
    /// seconds.
    pub fn subagents(&self, id: &SessionId, after_part: i64) -> Result<SubagentWork, DatabaseError> {
        let sql = format!(
            "{FAMILY} SELECT p.id, p.session_id, p.time_updated, length(p.data), \
                   json_extract(p.data, '$.type') AS kind, p.data \
             FROM part p JOIN family f ON p.session_id = f.id \
             WHERE f.id <> ?1 AND p.rowid > ?2 AND json_valid(p.data) \
             AND kind IN ('text', 'reasoning', 'tool', 'step-finish') ORDER BY p.rowid"
        );
        self.read(|handle| {
            let mut statement = handle.connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params![id.as_str(), after_part])?;
            let mut work = SubagentWork::default();
            while let Some(row) = rows.next()? {
                let (updated, length): (i64, i64) = (row.get(2)?, row.get(3)?);
                work.state.0 = work.state.0.wrapping_add(updated);
                work.state.1 = work.state.1.wrapping_add(length);
                if row.get_ref(4)?.as_str() == Ok("step-finish") {
                    let step: Part = read(&row.get::<_, String>(5)?);
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

    /// Whether a tool call in a message that was stored after these, also of a subagent, has begun and not ended. The
    /// tool that waits for a subagent does not count. If opencode was killed during the call, the result stays true for
    /// ever, so it is valid only while opencode lives.
    pub fn tool_runs(&self, id: &SessionId, after: &[String]) -> Result<bool, DatabaseError> {
        let sql = format!(
            "{FAMILY} SELECT EXISTS (SELECT 1 FROM family f JOIN message m ON m.session_id = f.id \
                     JOIN part p ON p.message_id = m.id \
                     WHERE m.rowid > {BOUNDARY} AND json_valid(p.data) \
                     AND json_extract(p.data, '$.type') = 'tool' AND json_extract(p.data, '$.tool') IS NOT ?3 \
                     AND json_extract(p.data, '$.state.status') = 'running')"
        );
        self.read(|handle| {
            let mut statement = handle.connection.prepare_cached(&sql)?;
            let parameters = params![id.as_str(), json_list(after), SUBAGENT_TOOL];
            statement.query_row(parameters, |row| row.get(0))
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
}

/// The session `?1` and the sessions of its subagents.
const FAMILY: &str = "WITH RECURSIVE family(id) AS ( \
    SELECT ?1 UNION SELECT s.id FROM session s JOIN family f ON s.parent_id = f.id)";

/// The `rowid` after which messages are newer than those in the JSON list `?2`. If all of them are gone, opencode has
/// removed them because a person had reverted the session, and what is left is newer.
const BOUNDARY: &str =
    "(SELECT coalesce(max(b.rowid), 0) FROM message b WHERE b.id IN (SELECT value FROM json_each(?2)))";

fn json_list(ids: &[String]) -> String {
    serde_json::Value::from(ids).to_string()
}

/// How opencode reads the messages of a session: by time, then by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageOrder {
    /// The greatest time of a message, in milliseconds since the epoch.
    pub newest_ms: Option<i64>,
    /// The message that opencode reads as the last one.
    pub last: Option<String>,
    /// The message that opencode stored last.
    pub stored_last: Option<String>,
}

impl MessageOrder {
    /// Whether opencode takes an older message for the newest one, because the clock went back between them.
    pub fn is_reversed(&self) -> bool {
        self.last != self.stored_last
    }
}

/// Reads a value; empty if it cannot be read.
fn read<T: Tolerant>(data: &str) -> T {
    tolerant::from_slice(data.as_bytes()).unwrap_or_default()
}

fn stored_message(row: &Row<'_>) -> rusqlite::Result<StoredMessage> {
    // A message that cannot be read still counts as a message, but proves nothing else.
    let info: MessageInfo = read(&row.get::<_, String>(1)?);
    Ok(StoredMessage {
        id: row.get(0)?,
        role: info.role,
        parent: info.parent,
        finish: info.finish,
        error: info.error,
        cost_usd: info.cost_usd,
        tokens: info.tokens,
    })
}
