//! What is done to a turn that runs in another process: signals, and the end.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use super::{Broker, BrokerError, TurnReport};
use crate::process::{self, Liveness};
use crate::session::{BlockedRebase, IssueRef, LiveTurn};
use crate::store::{Holder, Key};
use crate::turn::control::{self, Signal};
use crate::worktree::{self, Rebased};

/// How often a turn of another process is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How much longer than the grace period a turn may take to end.
const SLACK: Duration = Duration::from_secs(10);

/// What `stop` did.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// How the turn ended.
    pub report: TurnReport,
    /// The supervisor did not heed the signal file and was sent SIGTERM.
    pub forced: bool,
}

impl Broker {
    /// The turn that runs on an issue's session.
    pub fn live_turn(&self, issue: &IssueRef) -> Result<LiveTurn, BrokerError> {
        let record = self.record(issue)?;
        match record.live {
            Some(live) if self.supervisor_lives(issue, &live) => Ok(live),
            Some(live) => Err(BrokerError::NotFound {
                problem: format!(
                    "{issue} has no running turn: the supervisor of its last one (process {}) died",
                    live.supervisor.pid
                ),
                hint: format!("adopt it: kugetsu continue {issue}, or kugetsu doctor --fix"),
            }),
            None => Err(BrokerError::NotFound {
                problem: format!("{issue} has no running turn"),
                hint: format!("run one: kugetsu continue {issue}"),
            }),
        }
    }

    /// Sends a signal to the turn that runs. It is heard within a second.
    pub fn signal(&self, issue: &IssueRef, signal: Signal) -> Result<LiveTurn, BrokerError> {
        let live = self.live_turn(issue)?;
        control::send(&self.store, &Key::from(issue), live.turn, signal)?;
        Ok(live)
    }

    /// Ends the turn that runs and waits for its end: by the signal file, and where that is not heeded, by SIGTERM to
    /// the supervisor.
    pub fn stop(&self, issue: &IssueRef) -> Result<Stopped, BrokerError> {
        let live = self.signal(issue, Signal::Stop)?;
        let patience = self.config.duration("grace").saturating_add(SLACK);
        if let Some(report) = self.ended_within(issue, live.turn, patience)? {
            return Ok(Stopped {
                report,
                forced: false,
            });
        }
        // Only while the number still means that process.
        if process::is_alive(&live.supervisor) == Liveness::Alive {
            process::terminate(live.supervisor.pid)?;
        }
        match self.ended_within(issue, live.turn, patience)? {
            Some(report) => Ok(Stopped { report, forced: true }),
            None => Err(BrokerError::StillRunning {
                issue: issue.clone(),
                after: patience * 2,
                hint: format!(
                    "its supervisor (process {} on {}) heeds no signal; end it there with: kill -9 {}",
                    live.supervisor.pid, live.supervisor.host, live.supervisor.pid
                ),
            }),
        }
    }

    /// Between turns: rebases the issue's worktree onto its base branch. That branch, and what came of it; after conflicts
    /// the worktree is as it was before, and the record names them.
    pub fn rebase(&self, issue: &IssueRef) -> Result<(String, Rebased), BrokerError> {
        self.record(issue)?;
        let lease = self
            .store
            .lease_issue(issue, Holder::this_process("signal rebase"), None)?;
        let mut record = self.record(issue)?;
        self.adopt(&lease, &mut record, None)?;
        let Some(worktree) = &mut record.worktree else {
            return Err(BrokerError::Usage {
                problem: format!("{issue} has no worktree of its own, so there is nothing to rebase"),
                hint: "an issue gets one when it begins: kugetsu start --worktree".to_owned(),
            });
        };
        let (onto, rebased) = worktree::rebase(worktree).map_err(super::worktree::of(issue))?;
        let before = worktree.clone();
        worktree.blocked_rebase = None;
        match &rebased {
            Rebased::UpToDate => {}
            Rebased::Onto(commit) => worktree.base_commit.clone_from(commit),
            Rebased::Conflicts(files) => {
                worktree.blocked_rebase = Some(BlockedRebase {
                    onto: onto.clone(),
                    conflicts: files.clone(),
                });
            }
        }
        if *worktree != before {
            record.updated = Timestamp::now();
            self.store.save_issue(&lease, &record)?;
        }
        Ok((onto, rebased))
    }

    /// Waits for the end of a turn, for ever or at most so long.
    pub fn wait_turn(
        &self,
        issue: &IssueRef,
        turn: Uuid,
        at_most: Option<Duration>,
    ) -> Result<TurnReport, BrokerError> {
        // A century, where somebody means for ever.
        let patience = at_most.unwrap_or(Duration::from_hours(24 * 365 * 100));
        self.ended_within(issue, turn, patience)?
            .ok_or_else(|| BrokerError::StillRunning {
                issue: issue.clone(),
                after: patience,
                hint: format!("wait longer, or end it: kugetsu stop {issue}"),
            })
    }

    fn ended_within(
        &self,
        issue: &IssueRef,
        turn: Uuid,
        patience: Duration,
    ) -> Result<Option<TurnReport>, BrokerError> {
        let began = Instant::now();
        loop {
            if let Some(report) = self.ended_turn(issue, turn)? {
                return Ok(Some(report));
            }
            let left = patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(LOOK.min(left));
        }
    }
}
