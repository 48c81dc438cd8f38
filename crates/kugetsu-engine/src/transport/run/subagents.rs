//! Reads the work of a turn's subagents from the database, because `opencode run` does not print it.

use std::collections::HashSet;
use std::time::Duration;

use crate::opencode::{DatabaseFile, SubagentWork};
use crate::transport::{Target, TransportEvent, TurnSpec};
use kugetsu_api::SessionId;

/// The pause between two queries.
const QUERY_PAUSE: Duration = Duration::from_secs(2);

/// The known work of a turn's subagents.
pub(super) struct Subagents {
    database: DatabaseFile,
    /// The turn's session, once it is known.
    pub(super) session: Option<SessionId>,
    /// The last part that was stored before this run of opencode.
    after_part: i64,
    reported: HashSet<String>,
    /// The state of their text and tools at the last query.
    state: (i64, i64),
    /// opencode has begun its first step. It has the database open by then, so that a query is not the first
    /// connection.
    pub(super) database_open: bool,
    /// When the next query is due.
    pub(super) next_query: tokio::time::Instant,
}

impl Subagents {
    /// Begins before opencode is started. Blocks.
    pub(super) fn begin(spec: &TurnSpec, target: &Target) -> Self {
        let database = spec.launch.opencode.database_file();
        let newest = database.open_read().and_then(|database| database.newest_part());
        Self {
            database,
            // A database that cannot be read may hold older work. It is counted only once the turn has ended.
            after_part: newest.unwrap_or(i64::MAX),
            session: match target {
                Target::Session(session) => Some(session.clone()),
                Target::ForkOf { .. } => None,
            },
            reported: HashSet::new(),
            state: (0, 0),
            database_open: false,
            next_query: tokio::time::Instant::now() + QUERY_PAUSE,
        }
    }

    /// The next query; `None` while there is nothing to ask for.
    pub(super) fn query(&mut self) -> Option<SubagentQuery> {
        self.postpone_query();
        let session = self.session.clone().filter(|_| self.database_open)?;
        Some(SubagentQuery {
            database: self.database.clone(),
            session,
            after_part: self.after_part,
        })
    }

    /// Postpones the next query by the whole pause. Called after a query as well, because a locked database can take
    /// longer than the pause.
    pub(super) fn postpone_query(&mut self) {
        self.next_query = tokio::time::Instant::now() + QUERY_PAUSE;
    }

    /// The events for the new entries in the result of a query. `None` means that the database could not be read.
    pub(super) fn take_result(&mut self, work: Option<SubagentWork>) -> Vec<TransportEvent> {
        let Some(work) = work else {
            return Vec::new();
        };
        let mut events: Vec<TransportEvent> = work
            .steps
            .into_iter()
            .filter(|step| self.reported.insert(step.part.clone()))
            .map(|step| TransportEvent::SubagentStep {
                session: step.session,
                reason: step.reason,
                cost_usd: step.cost_usd,
                tokens: step.tokens,
            })
            .collect();
        if work.state != self.state {
            self.state = work.state;
            events.push(TransportEvent::Activity);
        }
        events
    }
}

/// One query of the database.
pub(super) struct SubagentQuery {
    database: DatabaseFile,
    session: SessionId,
    after_part: i64,
}

impl SubagentQuery {
    /// Runs the query. Blocks.
    pub(super) fn read(&self) -> Option<SubagentWork> {
        let database = self.database.open_read().ok()?;
        database.subagents(&self.session, self.after_part).ok()
    }
}
