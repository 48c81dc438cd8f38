//! What the subagents of a turn do, which `opencode run` does not tell: it is read from the database.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use crate::opencode::{Database, SubagentWork};
use crate::transport::{Target, TransportEvent, TurnSpec};
use kugetsu_api::SessionId;

/// How often the database is asked what subagents do: `run` says nothing of them.
const SUBAGENTS: Duration = Duration::from_secs(2);

/// How far back each such look begins before the latest change that was seen: rows are not written in the order of their
/// times.
const LATE: i64 = 5000;

/// Looks at what subagents do, in the database.
pub(super) struct Subagents {
    database: PathBuf,
    /// Ours, once it is known.
    pub(super) session: Option<SessionId>,
    since_ms: i64,
    reported: HashSet<String>,
    /// When their text and tools last changed, or a request to the model last failed: what is older is no progress.
    pub(super) progress_ms: i64,
    /// opencode has made its first step: it has the database open, so that a look is not the first connection.
    pub(super) open: bool,
    pub(super) next: tokio::time::Instant,
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
            open: false,
            next: tokio::time::Instant::now() + SUBAGENTS,
        }
    }

    /// What to read now, where there is something to read.
    pub(super) fn begin_look(&mut self) -> Option<Look> {
        self.wait_for_next_look();
        let session = self.session.clone().filter(|_| self.open)?;
        Some(Look {
            database: self.database.clone(),
            session,
            from: self.since_ms.max(self.progress_ms - LATE),
        })
    }

    /// Puts the next look off by the whole pause. Called at the end of a look as well, because a locked database can take
    /// longer than the pause.
    pub(super) fn wait_for_next_look(&mut self) {
        self.next = tokio::time::Instant::now() + SUBAGENTS;
    }

    /// What has happened since the last look. A database that could not be read says nothing.
    pub(super) fn end_look(&mut self, work: Option<SubagentWork>) -> Vec<TransportEvent> {
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

/// One look into the database.
pub(super) struct Look {
    database: PathBuf,
    session: SessionId,
    from: i64,
}

impl Look {
    /// Reads what subagents did. Blocks.
    pub(super) fn read(&self) -> Option<SubagentWork> {
        let database = Database::open_read(&self.database).ok()?;
        database.subagents(&self.session, self.from).ok()
    }
}
