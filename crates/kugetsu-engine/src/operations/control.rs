//! What is done to a turn that runs in another process: signals, and the end.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use super::interrupts::Interrupts;
use super::{Engine, EngineError, TurnReport};
use crate::process::{self, Liveness};
use crate::store::{RecordKey, this_process};
use crate::turn::Interrupt;
use crate::turn::control::{self, Signal};
use crate::worktree::{self, Rebased};
use kugetsu_api::{Address, BlockedRebase, ErrorCode, LiveTurn};

/// How often a turn of another process is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long git may take to undo an interrupted rebase. A second interrupt ends that as well.
const REBASE_ABORT: Duration = Duration::from_secs(10);
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

impl Engine {
    /// The turn that runs on an issue's session.
    pub fn live_turn(&self, address: &Address) -> Result<LiveTurn, EngineError> {
        let record = self.record(address)?;
        match record.live {
            Some(live) if self.turn_lives(address, &live) => Ok(live),
            Some(live) => Err(EngineError::NotFound {
                code: ErrorCode::NotRunning,
                problem: format!(
                    "{address} has no running turn: the supervisor of its last one (process {}) died",
                    live.supervisor.pid
                ),
                hint: format!("adopt it: kugetsu continue {address}, or kugetsu doctor --fix"),
            }),
            None => Err(EngineError::NotFound {
                code: ErrorCode::NotRunning,
                problem: format!("{address} has no running turn"),
                hint: format!("run one: kugetsu continue {address}"),
            }),
        }
    }

    /// Sends a signal to the turn that runs. It is heard within a second.
    pub fn signal(&self, address: &Address, signal: Signal) -> Result<LiveTurn, EngineError> {
        let live = self.live_turn(address)?;
        control::send(&self.store, &RecordKey::from(address), live.turn, signal)?;
        Ok(live)
    }

    /// Ends the turn that runs and waits for its end: by the signal file, and where that is not heeded, by SIGTERM to
    /// the supervisor.
    pub fn stop(&self, address: &Address) -> Result<Stopped, EngineError> {
        let live = self.signal(address, Signal::Stop)?;
        let patience = self.settings.grace.saturating_add(SLACK);
        if let Some(report) = self.ended_within(address, live.turn, patience)? {
            return Ok(Stopped {
                report,
                forced: false,
            });
        }
        if let Some(control) = self.turns.control(live.turn) {
            control.interrupt(Interrupt::Terminated);
        } else if !live.shared && process::is_alive(&live.supervisor) == Liveness::Alive {
            // Only while the number still means that process, and only where it runs nothing else.
            process::terminate(live.supervisor.pid)?;
        }
        match self.ended_within(address, live.turn, patience)? {
            Some(report) => Ok(Stopped { report, forced: true }),
            None => Err(EngineError::StillRunning {
                address: address.clone(),
                after: patience * 2,
                hint: if live.shared {
                    format!(
                        "its supervisor (process {} on {}) heeds no signal, and runs other turns as well",
                        live.supervisor.pid, live.supervisor.host
                    )
                } else {
                    format!(
                        "its supervisor (process {} on {}) heeds no signal; end it there with: kill -9 {}",
                        live.supervisor.pid, live.supervisor.host, live.supervisor.pid
                    )
                },
            }),
        }
    }

    /// Between turns: rebases the worktree onto its base branch. Gives that branch and the result. After conflicts
    /// and after an interrupt the worktree is as it was before; the record names conflicts.
    pub async fn rebase(
        &self,
        address: &Address,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<(String, Rebased), EngineError> {
        let mut interrupts = Interrupts::from(interrupts);
        let of = address.clone();
        self.begun(REBASE_ABORT, &mut interrupts, move |engine| {
            engine.rebase_blocking(&of)
        })
        .await
        .map_err(|error| match error {
            EngineError::Interrupted(interrupt) => EngineError::InterruptedWhile {
                of: address.to_string(),
                doing: "its branch was being rebased",
                code: None,
                interrupt,
                hint: format!("try again: kugetsu signal {address} rebase"),
            },
            error => error,
        })
    }

    fn rebase_blocking(&self, address: &Address) -> Result<(String, Rebased), EngineError> {
        self.record(address)?;
        let lease = self
            .store
            .lease_session(address, this_process("signal rebase"), None)?;
        let mut record = self.record(address)?;
        self.adopt(&lease, &mut record, None)?;
        let Some(worktree) = &mut record.worktree else {
            return Err(EngineError::Usage {
                problem: format!("{address} has no worktree of its own, so there is nothing to rebase"),
                hint: "an issue gets one when it begins: kugetsu start --worktree".to_owned(),
            });
        };
        let (onto, rebased) =
            worktree::rebase(&self.git(), worktree).map_err(super::worktree::of(address))?;
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
            self.store.save_session(&lease, &record)?;
        }
        Ok((onto, rebased))
    }

    /// Waits for the end of a turn, for ever or at most so long.
    pub fn wait_turn(
        &self,
        address: &Address,
        turn: Uuid,
        at_most: Option<Duration>,
    ) -> Result<TurnReport, EngineError> {
        // A century, where somebody means for ever.
        let patience = at_most.unwrap_or(Duration::from_hours(24 * 365 * 100));
        self.ended_within(address, turn, patience)?
            .ok_or_else(|| EngineError::StillRunning {
                address: address.clone(),
                after: patience,
                hint: format!("wait longer, or end it: kugetsu stop {address}"),
            })
    }

    fn ended_within(
        &self,
        address: &Address,
        turn: Uuid,
        patience: Duration,
    ) -> Result<Option<TurnReport>, EngineError> {
        let began = Instant::now();
        loop {
            if let Some(report) = self.ended_turn(address, turn)? {
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
