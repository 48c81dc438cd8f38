//! Reads the work of a turn's subagents from the database, because `opencode run` does not print it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use crate::opencode::{Database, SubagentWork};
use crate::transport::{Target, TransportEvent, TurnSpec};
use kugetsu_api::SessionId;

/// The pause between two queries.
const QUERY_PAUSE: Duration = Duration::from_secs(2);

/// How far before the latest known change a query begins, in milliseconds: rows are not written in the order of their
/// times.
const QUERY_OVERLAP_MS: i64 = 5000;

/// The known work of a turn's subagents.
pub(super) struct Subagents {
    database: PathBuf,
    /// The turn's session, once it is known.
    pub(super) session: Option<SessionId>,
    since_ms: i64,
    reported: HashSet<String>,
    /// When text and tools of the subagents last changed, or a request to the model last failed. An older change does
    /// not count as progress.
    pub(super) progress_ms: i64,
    /// opencode has begun its first step. It has the database open by then, so that a query is not the first
    /// connection.
    pub(super) database_open: bool,
    /// When the next query is due.
    pub(super) next_query: tokio::time::Instant,
}

impl Subagents {
    pub(super) fn begin(spec: &TurnSpec, target: &Target) -> Self {
        let now = Timestamp::now().as_millisecond();
        Self {
            database: spec.launch.opencode.database.clone(),
            session: match target {
                Target::Session(session) => Some(session.clone()),
                Target::ForkOf(_) => None,
            },
            since_ms: now,
            reported: HashSet::new(),
            progress_ms: now,
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
            from: self.since_ms.max(self.progress_ms - QUERY_OVERLAP_MS),
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
        if work.changed_ms > self.progress_ms {
            self.progress_ms = work.changed_ms;
            events.push(TransportEvent::Activity);
        }
        events
    }
}

/// One query of the database.
pub(super) struct SubagentQuery {
    database: PathBuf,
    session: SessionId,
    from: i64,
}

impl SubagentQuery {
    /// Runs the query. Blocks.
    pub(super) fn read(&self) -> Option<SubagentWork> {
        let database = Database::open_read(&self.database).ok()?;
        database.subagents(&self.session, self.from).ok()
    }
}
