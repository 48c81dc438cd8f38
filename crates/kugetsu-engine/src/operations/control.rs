//! Control of a turn that runs in another process: signals, stopping and waiting.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use super::deliver::TO_RECORD;
use super::interrupts::Interrupts;
use super::{Engine, EngineError, TurnReport};
use crate::process::{self, Liveness};
use crate::store::{RecordKey, this_process};
use crate::turn::Interrupt;
use crate::turn::control::{self, Signal};
use crate::worktree::{self, Rebased};
use kugetsu_api::{Address, BlockedRebase, ErrorCode, LiveTurn};

/// The interval between two checks of a turn in another process.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long git may take to undo an interrupted rebase. A second interrupt cuts the undo off a second later.
const REBASE_ABORT: Duration = Duration::from_secs(10);
/// The time that a turn may take to end after the grace period, with its record.
const SLACK: Duration = TO_RECORD.saturating_add(Duration::from_secs(5));

/// The result of `stop`.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// How the turn ended.
    pub report: TurnReport,
    /// True if the supervisor ignored the signal file and received SIGTERM.
    pub forced: bool,
}

/// The session of a turn that is to be stopped, and the turn, or why there is none.
type TurnToStop = (Address, Result<Uuid, EngineError>);

impl Engine {
    /// The running turn of a session.
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
                hint: format!("close the turn as lost: kugetsu continue {address}, or kugetsu doctor --fix"),
            }),
            None => Err(EngineError::NotFound {
                code: ErrorCode::NotRunning,
                problem: format!("{address} has no running turn"),
                hint: format!("run one: kugetsu continue {address}"),
            }),
        }
    }

    /// Sends a signal to the running turn. The turn's supervisor reads it within a second.
    pub fn signal(&self, address: &Address, signal: Signal) -> Result<LiveTurn, EngineError> {
        self.refuse_own_turn(address)?;
        let live = self.live_turn(address)?;
        control::send(&self.store, &RecordKey::from(address), live.turn, signal)?;
        Ok(live)
    }

    /// Stops the running turn and waits for its end: first by the signal file, then, if the supervisor ignores the
    /// file, by SIGTERM to the supervisor.
    pub fn stop(&self, address: &Address) -> Result<Stopped, EngineError> {
        let live = self.signal(address, Signal::Stop)?;
        self.stopped(address, &live)
    }

    /// Stops the running turns of these sessions with all turns that tools of them began, and that tools of those
    /// began, also where the first turn has ended or its session is gone. Lets no further turn begin below them. Waits
    /// for their ends. The result has each turn once; one that cannot be told to stop keeps no other one running.
    pub fn stop_with_delegates(&self, addresses: &[Address]) -> Vec<(Address, Result<Stopped, EngineError>)> {
        let mut found: Vec<TurnToStop> = Vec::new();
        let mut known = Vec::new();
        for address in addresses {
            let turns = self.turns_to_stop(address);
            for (address, turn) in turns.unwrap_or_else(|error| vec![(address.clone(), Err(error))]) {
                if let Ok(turn) = &turn {
                    if known.contains(turn) {
                        continue;
                    }
                    known.push(*turn);
                }
                let told = turn.and_then(|turn| {
                    control::send(&self.store, &RecordKey::from(&address), turn, Signal::Stop)?;
                    Ok(turn)
                });
                found.push((address, told));
            }
        }
        // All at once, because each may take as long as its grace period.
        std::thread::scope(|scope| {
            let ends: Vec<_> = found
                .into_iter()
                .map(|(address, turn)| {
                    let of = address.clone();
                    let end = scope.spawn(move || turn.and_then(|turn| self.stopped_turn(&address, turn)));
                    (of, end)
                })
                .collect();
            let failed = || Err(EngineError::Internal("the turn could not be stopped"));
            ends.into_iter()
                .filter_map(|(of, end)| {
                    let end = end.join().unwrap_or_else(|_| failed());
                    Some((of, end.transpose()?))
                })
                .collect()
        })
    }

    /// The running turn of a session and all turns below its turns. Lets no further turn begin below them. If there are
    /// some below, an error about the session's own turn is only one part of the result.
    fn turns_to_stop(&self, address: &Address) -> Result<Vec<TurnToStop>, EngineError> {
        self.refuse_own_family(address)?;
        let below = self.store.close_below(address)?;
        let mut turns: Vec<_> = below
            .into_iter()
            .map(|member| (member.own.address, Ok(member.own.turn)))
            .collect();
        let own = match self.live_turn(address) {
            Ok(live) => Ok(live.turn),
            Err(error) if turns.is_empty() => return Err(error),
            // Those below may outlive the turn and its session.
            Err(error) if matches!(error.code(), ErrorCode::NotRunning | ErrorCode::NoSession) => {
                return Ok(turns);
            }
            Err(error) => Err(error),
        };
        turns.insert(0, (address.clone(), own));
        Ok(turns)
    }

    /// Waits for the end of a turn that was told to stop, however far it has come. `None` if it never began.
    fn stopped_turn(&self, address: &Address, turn: Uuid) -> Result<Option<Stopped>, EngineError> {
        let limit = self.settings.grace.saturating_add(SLACK);
        let began = Instant::now();
        loop {
            if let Ok(live) = self.live_turn(address)
                && live.turn == turn
            {
                return self.stopped(address, &live).map(Some);
            }
            // The turn is in its lease before it is on record.
            let holder = self.store.lease_holder(&RecordKey::from(address)).flatten();
            if holder.and_then(|holder| holder.turn) != Some(turn) {
                let report = match self.ended_turn(address, turn) {
                    Ok(report) => report,
                    Err(error) if matches!(error.code(), ErrorCode::NoSession | ErrorCode::NoTurn) => None,
                    Err(error) => return Err(error),
                };
                return Ok(report.map(|report| Stopped {
                    report,
                    forced: false,
                }));
            }
            if began.elapsed() >= limit {
                return Err(EngineError::StillRunning {
                    address: address.clone(),
                    after: limit,
                    hint: "it has not begun yet, and ends when it does".to_owned(),
                });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits for the end of a turn that was told to stop.
    fn stopped(&self, address: &Address, live: &LiveTurn) -> Result<Stopped, EngineError> {
        let limit = self.settings.grace.saturating_add(SLACK);
        if let Some(report) = self.ended_within(address, live.turn, limit)? {
            return Ok(Stopped {
                report,
                forced: false,
            });
        }
        if let Some(control) = self.turns.control(live.turn) {
            control.interrupt(Interrupt::Terminated);
        } else if !live.shared && process::is_alive(&live.supervisor) == Liveness::Alive {
            // The process id must still belong to the supervisor, and the supervisor must run nothing else.
            process::terminate(live.supervisor.pid)?;
        }
        match self.ended_within(address, live.turn, limit)? {
            Some(report) => Ok(Stopped { report, forced: true }),
            None => Err(EngineError::StillRunning {
                address: address.clone(),
                after: limit * 2,
                hint: if live.shared {
                    format!(
                        "its supervisor (process {} on {}) ignores signals and also runs other turns",
                        live.supervisor.pid, live.supervisor.host
                    )
                } else {
                    format!(
                        "its supervisor (process {} on {}) ignores signals; end it on that host with: kill -9 {}",
                        live.supervisor.pid, live.supervisor.host, live.supervisor.pid
                    )
                },
            }),
        }
    }

    /// Rebases the session's worktree onto its base branch, between turns. Returns that branch and the result. After
    /// conflicts and after an interrupt, the worktree is unchanged; the record stores the conflicts.
    pub async fn rebase(
        &self,
        address: &Address,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<(String, Rebased), EngineError> {
        let mut interrupts = Interrupts::from(interrupts);
        let subject = address.clone();
        self.run_required(REBASE_ABORT, &mut interrupts, move |engine| {
            engine.rebase_blocking(&subject)
        })
        .await
        .map_err(|error| {
            error.or_if_interrupted(|interrupt| EngineError::InterruptedWhile {
                subject: address.to_string(),
                doing: "its branch was being rebased",
                code: None,
                interrupt,
                hint: format!("try again: kugetsu signal {address} rebase"),
            })
        })
    }

    fn rebase_blocking(&self, address: &Address) -> Result<(String, Rebased), EngineError> {
        self.refuse_own_turn(address)?;
        self.record(address)?;
        let lease = self
            .store
            .lease_session(address, this_process("signal rebase"), None)?;
        let mut record = self.record(address)?;
        self.adopt(&lease, &mut record, None)?;
        let Some(worktree) = &mut record.worktree else {
            return Err(EngineError::Usage {
                problem: format!("{address} has no worktree of its own, so there is nothing to rebase"),
                hint: "a session gets its worktree when it starts: kugetsu start --worktree".to_owned(),
            });
        };
        let (onto, rebased) =
            worktree::rebase(&self.git(), worktree).map_err(super::worktree::worktree_error(address))?;
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

    /// Waits for the end of a turn, at most until `at_most` has passed since `began`.
    pub fn wait_turn(
        &self,
        address: &Address,
        turn: Uuid,
        began: Instant,
        at_most: Option<Duration>,
    ) -> Result<TurnReport, EngineError> {
        // Without a limit: a century.
        let limit = at_most.unwrap_or(Duration::from_hours(24 * 365 * 100));
        self.ended_within(address, turn, limit.saturating_sub(began.elapsed()))?
            .ok_or_else(|| EngineError::StillRunning {
                address: address.clone(),
                after: limit,
                hint: format!("wait longer, or end it: kugetsu stop {address}"),
            })
    }

    fn ended_within(
        &self,
        address: &Address,
        turn: Uuid,
        limit: Duration,
    ) -> Result<Option<TurnReport>, EngineError> {
        let began = Instant::now();
        loop {
            if let Some(report) = self.ended_turn(address, turn)? {
                return Ok(Some(report));
            }
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(POLL_INTERVAL.min(left));
        }
    }
}
