//! Finds what the session already holds of this turn after a crash.

use std::path::Path;

use jiff::Timestamp;

use crate::opencode::{Database, DatabaseError, StoredMessage};
use kugetsu_api::SessionId;

/// The prompt for a session that holds the original prompt, and whose answer a crash interrupted.
pub(super) const GO_ON: &str = "The process that ran you ended unexpectedly. Go on where you stopped.";

/// The prompt for a session that holds the original prompt and was paused.
pub(super) const RESUMED: &str = "You were paused. Go on where you stopped.";

/// What the session holds of the turn.
pub(super) enum StoredTurn {
    /// Not even the prompt.
    Nothing,
    /// The prompt without a complete answer.
    Prompt,
    /// The prompt and its complete answer.
    Answer,
}

/// Reads the messages since the turn began.
pub(super) fn stored_turn(
    database: &Path,
    session: &SessionId,
    started: Timestamp,
) -> Result<StoredTurn, DatabaseError> {
    let database = Database::open_read(database)?;
    let messages = database.messages_after(session, started.as_millisecond())?;
    if !messages.iter().any(StoredMessage::is_prompt) {
        return Ok(StoredTurn::Nothing);
    }
    if messages.last().is_some_and(StoredMessage::is_end_of_answer) {
        return Ok(StoredTurn::Answer);
    }
    // Under the lease, every message since then belongs to this turn; the last may be opencode's own, such as a
    // compaction's.
    Ok(StoredTurn::Prompt)
}
