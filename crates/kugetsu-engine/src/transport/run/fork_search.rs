//! Finds the session that `opencode run --fork` makes in the database, before the first event names it.

use std::collections::HashSet;

use crate::opencode::{Database, DatabaseError, SessionRow};
use crate::transport::{TransportError, TurnSpec};
use kugetsu_api::SessionId;

/// The search for the fork that one `opencode run --fork` makes. Only a session whose prompt has the mark is this fork.
pub(super) struct ForkSearch {
    /// Stays open for the whole search. A connection for each query could be the first one to the database, which locks
    /// it to set up its write-ahead log: a starting 1.18.33 was seen to fail with "database is locked".
    database: Database,
    base: SessionRow,
    /// Older forks, which need not be read.
    known: HashSet<SessionId>,
    mark: String,
    /// Sessions that an event named while the database could not be read.
    unchecked: Vec<SessionId>,
}

impl ForkSearch {
    /// Begins before opencode is started. Blocks.
    pub(super) fn begin(spec: &TurnSpec, base: &SessionId, mark: String) -> Result<Self, TransportError> {
        let database = spec.launch.opencode.database_file().open_read()?;
        let base = database
            .session(base)?
            .ok_or_else(|| TransportError::NoSuchSession(base.clone()))?;
        let known = database.forks_of(&base)?.into_iter().map(|row| row.id).collect();
        Ok(Self {
            database,
            base,
            known,
            mark,
            unchecked: Vec::new(),
        })
    }

    /// Whether the session that an event names is the fork. An event may be garbage. If the database cannot be read,
    /// [`ForkSearch::find`] checks the session again. Blocks.
    pub(super) fn is_fork(&mut self, session: &SessionId) -> Result<bool, DatabaseError> {
        if self.unchecked.contains(session) {
            // Every event names the session, and each check would wait for a locked database.
            return Ok(false);
        }
        let is_marked = self.is_marked(session);
        if is_marked.is_err() {
            self.unchecked.push(session.clone());
        }
        is_marked
    }

    fn is_marked(&self, session: &SessionId) -> Result<bool, DatabaseError> {
        Ok(self.database.prompt_with(session, &self.mark)?.is_some())
    }

    /// The fork, if it is there by now.
    pub(super) fn find(&mut self) -> Result<Option<SessionId>, DatabaseError> {
        while let Some(session) = self.unchecked.first() {
            if self.is_marked(session)? {
                return Ok(Some(session.clone()));
            }
            self.unchecked.remove(0);
        }
        for row in self.database.forks_of(&self.base)? {
            if !self.known.contains(&row.id) && self.is_marked(&row.id)? {
                return Ok(Some(row.id));
            }
        }
        Ok(None)
    }
}
