//! The session that `opencode run --fork` makes, found in the database before the first event names it.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::opencode::{Database, DatabaseError, SessionRow, is_same_prompt};
use crate::transport::{TransportError, TurnSpec};
use kugetsu_api::SessionId;

/// Looks for the fork that `opencode run --fork` makes.
pub(super) struct ForkSearch {
    /// Open for as long as the search. Opened anew for every look, it would again and again be the first
    /// connection, which locks the database to set up its write-ahead log; a starting 1.18.33 was seen to die of
    /// "database is locked".
    database: Database,
    base: SessionRow,
    since: Timestamp,
    known: HashSet<SessionId>,
    prompt: String,
}

impl ForkSearch {
    /// Forks of the base that were there before are not it.
    pub(super) fn begin(spec: &TurnSpec, base: &SessionId, prompt: &str) -> Result<Self, TransportError> {
        let since = Timestamp::now();
        let database = Database::open_read(&spec.launch.opencode.database)?;
        let base = database
            .session(base)?
            .ok_or_else(|| TransportError::NoSuchSession(base.clone()))?;
        let known = database
            .forks_of(&base, since.as_millisecond())?
            .into_iter()
            .map(|row| row.id)
            .collect();
        Ok(Self {
            database,
            base,
            since,
            known,
            prompt: prompt.to_owned(),
        })
    }

    /// Whether an event names a session that is new and that opencode has: an event may be garbage.
    pub(super) fn exists(&self, session: &SessionId) -> bool {
        *session != self.base.id
            && !self.known.contains(session)
            && matches!(self.database.session(session), Ok(Some(_)))
    }

    /// The fork that holds our prompt. A fork that somebody makes by hand meanwhile holds another one.
    pub(super) fn look(&self) -> Result<Option<SessionId>, DatabaseError> {
        for row in self.database.forks_of(&self.base, self.since.as_millisecond())? {
            let known = self.known.contains(&row.id);
            if !known
                && let Some(text) = self.database.last_user_text(&row.id)?
                && is_same_prompt(&text, &self.prompt)
            {
                return Ok(Some(row.id));
            }
        }
        Ok(None)
    }
}
