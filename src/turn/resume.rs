//! After a crash: what does the session hold of this turn already?

use std::path::Path;

use jiff::Timestamp;

use crate::opencode::{After, Database, DatabaseError};
use crate::session::SessionId;

/// What is delivered to a session that holds the prompt, and whose answer a crash cut off.
pub(super) const GO_ON: &str = "The process that ran you ended unexpectedly. Go on where you stopped.";

/// What is delivered to a session that holds the prompt, and was paused.
pub(super) const RESUMED: &str = "You were paused. Go on where you stopped.";

/// What the session holds.
pub(super) enum Held {
    /// Not the prompt.
    Nothing,
    /// The prompt, and no complete answer.
    Prompt,
    /// The prompt and its complete answer.
    Answer,
}

/// Looks at the messages since the turn began.
pub(super) fn held(
    database: &Path,
    session: &SessionId,
    prompt: &str,
    started: Timestamp,
) -> Result<Held, DatabaseError> {
    let database = Database::open_read(database)?;
    let messages = database.messages_after(session, Some(After::Time(started.as_millisecond())))?;
    if !messages.iter().any(|message| message.role == "user") {
        return Ok(Held::Nothing);
    }
    let complete = messages
        .last()
        .is_some_and(|message| message.role == "assistant" && message.finish.as_deref() == Some("stop"));
    if complete {
        return Ok(Held::Answer);
    }
    let last = database.last_user_text(session)?;
    let ours = last.is_some_and(|text| {
        text.trim_start_matches('\n') == prompt.trim_start_matches('\n')
            || [GO_ON, RESUMED].contains(&text.trim())
    });
    Ok(if ours { Held::Prompt } else { Held::Nothing })
}
