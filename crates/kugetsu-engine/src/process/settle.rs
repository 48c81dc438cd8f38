//! Ends what a program has started, and leaves the program itself running.

use std::time::{Duration, Instant};

use super::{ProcessError, tree};

/// How long processes may take to die after they were killed.
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);

/// The processes of a guarded program that runs on. Everything that the program starts stays below its guard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    pub(super) guard: u32,
    pub(super) program: u32,
}

impl Tree {
    /// Whether this system reveals what is below a process.
    pub(crate) const IS_KNOWN: bool = cfg!(target_os = "linux");

    /// The program's process id.
    pub(crate) fn program(self) -> u32 {
        self.program
    }

    /// The living processes below the guard, without the program.
    fn others(self) -> Vec<tree::Target> {
        let mut others = tree::below(self.guard);
        others.retain(|target| target.pid != self.program && !target.is_dead());
        others
    }

    /// The number of living processes below the guard, without the program. Blocks.
    pub(crate) fn count_others(self) -> usize {
        self.others().len()
    }

    /// Kills everything below the guard but the program, until nothing is left. Blocks.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Unkillable`] if some processes are left after five seconds.
    pub(crate) fn end_others(self) -> Result<(), ProcessError> {
        let until = Instant::now() + LIMIT;
        let mut clean = 0;
        loop {
            let others = self.others();
            for target in &others {
                tree::signal(target, rustix::process::Signal::KILL);
            }
            // One pass may miss a process that forks while `/proc` is read.
            clean = if others.is_empty() { clean + 1 } else { 0 };
            if clean == 2 {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(ProcessError::Unkillable {
                    pids: others.iter().map(|target| target.pid).collect(),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The program's resident memory in bytes, if the system tells it. Blocks.
    pub(crate) fn memory(self) -> Option<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.program)).ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }
}
