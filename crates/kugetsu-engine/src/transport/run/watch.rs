//! Merges the two outputs of one `opencode run` with what only the database holds: the fork's id and the work of
//! subagents. This is a task of its own, because a query of the database must go on to its end although
//! [`TurnLink::next`](crate::transport::TurnLink::next) is cancelled.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::fork_search::ForkSearch;
use super::subagents::Subagents;
use crate::aside::aside;
use crate::opencode::{DatabaseError, StderrReport};
use crate::transport::TransportEvent;
use kugetsu_api::SessionId;

/// How often the database is asked for the new fork. Its row is there before the first request to the model,
/// seconds before the first event names it.
const FORK_POLL: Duration = Duration::from_millis(25);

/// The search for the fork. The link continues the search if the task has not found the fork.
pub(super) type SharedSearch = Arc<Mutex<Option<ForkSearch>>>;

/// A report of the task.
pub(super) enum Report {
    Event(TransportEvent),
    /// Another agent than the one asked for would run the turn.
    AgentRefused(String),
}

/// The task, before it runs.
pub(super) struct Watch {
    pub(super) events: mpsc::Receiver<TransportEvent>,
    pub(super) stderr: Option<mpsc::Receiver<StderrReport>>,
    pub(super) search: SharedSearch,
    pub(super) subagents: Subagents,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) failed_attempts: u64,
}

impl Watch {
    /// Runs until opencode's output ends, or the receiver of the reports is dropped.
    pub(super) async fn run(mut self) {
        let mut searching = lock(&self.search).is_some();
        let mut next_search = Instant::now() + FORK_POLL;
        loop {
            let subagents_due = self.subagents.database_open.then_some(self.subagents.next_query);
            let next_search_due = searching.then_some(next_search);
            let stderr = async {
                match &mut self.stderr {
                    Some(reports) => reports.recv().await,
                    None => std::future::pending().await,
                }
            };
            // Queries that are due come first, or an opencode that never pauses would keep them from being made.
            let is_open = tokio::select! {
                biased;
                () = until(next_search_due) => {
                    let began = Instant::now();
                    // After an error the database is asked again.
                    let found = find_fork(&self.search).await.and_then(Result::ok).flatten();
                    // A query of a locked database takes long. The events then get as much time as the query took.
                    next_search = Instant::now() + FORK_POLL.max(began.elapsed());
                    match found {
                        Some(fork) => {
                            searching = false;
                            self.found(fork).await
                        }
                        None => true,
                    }
                }
                () = until(subagents_due) => self.query_subagents().await,
                event = self.events.recv() => match event {
                    Some(TransportEvent::Session(session)) => {
                        if searching && self.is_fork(&session).await {
                            searching = false;
                            self.found(session).await
                        } else {
                            true
                        }
                    }
                    Some(event) => self.event(event).await,
                    None => return,
                },
                report = stderr => match report {
                    Some(StderrReport::AgentRefused(message)) => {
                        self.reports.send(Report::AgentRefused(message)).await.is_ok()
                    }
                    Some(StderrReport::AttemptFailed(message)) => self.attempt_failed(message).await,
                    None => {
                        self.stderr = None;
                        true
                    }
                },
            };
            if !is_open {
                return;
            }
        }
    }

    /// Reports an event. Like every step of the task, this returns whether the receiver is still there.
    async fn send(&self, event: TransportEvent) -> bool {
        self.reports.send(Report::Event(event)).await.is_ok()
    }

    async fn event(&mut self, event: TransportEvent) -> bool {
        self.subagents.database_open |= event == TransportEvent::StepStarted;
        let subagent_ended = matches!(&event, TransportEvent::Tool(call) if call.is_subagent());
        self.send(event).await
            // The cost of the subagent counts before the next step begins.
            && (!subagent_ended || self.query_subagents().await)
    }

    async fn attempt_failed(&mut self, message: String) -> bool {
        self.failed_attempts += 1;
        // Work from before the failure does not count as progress after it.
        let is_open = self.query_subagents().await;
        is_open
            && self
                .send(TransportEvent::Retrying {
                    attempt: self.failed_attempts,
                    message,
                    next: None,
                })
                .await
    }

    async fn query_subagents(&mut self) -> bool {
        let Some(query) = self.subagents.query() else {
            return true;
        };
        let work = aside(move || query.read()).await;
        self.subagents.postpone_query();
        for event in self.subagents.take_result(work) {
            if !self.send(event).await {
                return false;
            }
        }
        true
    }

    /// Also false if the database cannot be read; the search keeps the session and checks it again.
    async fn is_fork(&self, session: &SessionId) -> bool {
        let (search, session) = (Arc::clone(&self.search), session.clone());
        let is_fork = aside(move || lock(&search).as_mut().map(|search| search.is_fork(&session))).await;
        matches!(is_fork, Some(Ok(true)))
    }

    async fn found(&mut self, fork: SessionId) -> bool {
        *lock(&self.search) = None;
        self.subagents.session = Some(fork.clone());
        self.send(TransportEvent::Session(fork)).await
    }
}

/// Waits for a moment; for ever if there is no moment.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Searches once for the fork, off the event loop. `None`: no search is under way.
pub(super) async fn find_fork(search: &SharedSearch) -> Option<Result<Option<SessionId>, DatabaseError>> {
    let search = Arc::clone(search);
    aside(move || lock(&search).as_mut().map(ForkSearch::find)).await
}

fn lock(search: &SharedSearch) -> std::sync::MutexGuard<'_, Option<ForkSearch>> {
    search.lock().unwrap_or_else(PoisonError::into_inner)
}
