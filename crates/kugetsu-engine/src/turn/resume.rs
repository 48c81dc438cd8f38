//! After a crash: what does the session hold of this turn already?

use std::path::Path;

use jiff::Timestamp;

use crate::opencode::{Database, DatabaseError, StoredMessage};
use kugetsu_api::SessionId;

/// What is delivered to a session that holds the prompt, and whose answer a crash cut off.
pub(super) const GO_ON: &str = "The process that ran you ended unexpectedly. Go on where you stopped.";

/// What is delivered to a session that holds the prompt, and was paused.
pub(super) const RESUMED: &str = "You were paused. Go on where you stopped.";

/// What the session holds.
pub(super) enum StoredTurn {
    /// Not the prompt.
    Nothing,
    /// The prompt, and no complete answer.
    Prompt,
    /// The prompt and its complete answer.
    Answer,
}

/// Looks at the messages since the turn began.
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
    // Under the lease every message since then is of this turn; the last one may be opencode's own, such as that of
    // a compaction.
    Ok(StoredTurn::Prompt)
}
