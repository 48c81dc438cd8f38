//! Finds the session that `opencode run --fork` makes in the database, before the first event names it.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::opencode::{Database, DatabaseError, SessionRow, is_same_prompt};
use crate::transport::{TransportError, TurnSpec};
use kugetsu_api::SessionId;

/// The search for the fork that one `opencode run --fork` makes.
pub(super) struct ForkSearch {
    /// Stays open for the whole search. A connection for each query could be the first one to the database, which locks
    /// it to set up its write-ahead log: a starting 1.18.33 was seen to fail with "database is locked".
    database: Database,
    base: SessionRow,
    since: Timestamp,
    known: HashSet<SessionId>,
    prompt: String,
    /// Sessions that an event named while the database could not be read.
    unchecked: Vec<SessionId>,
}

impl ForkSearch {
    /// Begins before opencode is started: forks that exist already are ruled out. Blocks.
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
            unchecked: Vec::new(),
        })
    }

    /// Whether the session that an event names is the fork: the session is new and in the database. The database is
    /// checked because an event may be garbage. If the database cannot be read, [`ForkSearch::find`] checks the session
    /// again. Blocks.
    pub(super) fn is_fork(&mut self, session: &SessionId) -> Result<bool, DatabaseError> {
        if self.unchecked.contains(session) {
            // Every event names the session, and each check would wait for a locked database.
            return Ok(false);
        }
        let exists = self.exists(session);
        if exists.is_err() {
            self.unchecked.push(session.clone());
        }
        exists
    }

    fn exists(&self, session: &SessionId) -> Result<bool, DatabaseError> {
        let is_new = *session != self.base.id && !self.known.contains(session);
        Ok(is_new && self.database.session(session)?.is_some())
    }

    /// The session that an event named, or the fork that holds the turn's prompt. A fork that somebody makes by hand at
    /// the same time holds another prompt.
    pub(super) fn find(&mut self) -> Result<Option<SessionId>, DatabaseError> {
        while let Some(session) = self.unchecked.first() {
            if self.exists(session)? {
                return Ok(Some(session.clone()));
            }
            self.unchecked.remove(0);
        }
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
