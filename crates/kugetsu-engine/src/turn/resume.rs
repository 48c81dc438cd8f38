//! Finds what the session already holds of this turn after a crash, or when opencode goes on after its answer.

use crate::opencode::{DatabaseError, DatabaseFile, TurnMessages};
use kugetsu_api::SessionId;

/// The prompt for a session that holds the original prompt, and whose answer a crash interrupted.
pub const GO_ON: &str = "The process that ran you ended unexpectedly. Go on where you stopped.";

/// The prompt for a session that holds the original prompt and was paused.
pub(super) const RESUMED: &str = "You were paused. Go on where you stopped.";

/// What the session holds of the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoredTurn {
    /// Not even the prompt.
    Nothing,
    /// The prompt without a complete answer.
    Prompt,
    /// The prompt and its complete answer.
    Answer,
}

/// One reading of the session.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) turn: StoredTurn,
    /// opencode takes an older message for the newest one.
    pub(super) is_reversed: bool,
    /// The greatest time of a message, in milliseconds since the epoch.
    pub(super) newest_ms: Option<i64>,
    /// The newest messages now.
    pub(super) newest: Vec<String>,
}

impl Stored {
    /// Reads what opencode stored after these messages.
    pub(super) fn read(
        database: &DatabaseFile,
        session: &SessionId,
        after: &[String],
    ) -> Result<Self, DatabaseError> {
        let database = database.open_read()?;
        let messages = TurnMessages::read(&database, session, after)?;
        let order = database.message_order(session)?;
        Ok(Self {
            turn: if messages.is_answered() {
                StoredTurn::Answer
            } else if messages.has_prompt() {
                StoredTurn::Prompt
            } else {
                StoredTurn::Nothing
            },
            is_reversed: order.is_reversed(),
            newest_ms: order.newest_ms,
            newest: database.newest_messages(session)?,
        })
    }
}
