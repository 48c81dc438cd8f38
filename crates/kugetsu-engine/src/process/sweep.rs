//! Kills what a turn left behind, found by the mark in its environment, when the turn's guard is dead.

use uuid::Uuid;

use super::{ProcessError, cgroup};

/// Kills every process of this user that carries the mark of `turn`, every process below those, and everything in the
/// turn's cgroups. Returns how many processes carried the mark or were below one that does. Spares this process and its
/// ancestors. Returns when none is left.
///
/// # Errors
///
/// [`ProcessError::Unkillable`] if some processes are left after ten seconds.
pub fn sweep_marked(turn: Uuid) -> Result<usize, ProcessError> {
    let killed = imp::sweep(turn);
    cgroup::sweep(turn);
    killed
}

#[cfg(target_os = "linux")]
mod imp {
    use std::collections::{HashMap, HashSet};
    use std::time::{Duration, Instant};

    use rustix::process::Signal;
    use uuid::Uuid;

    use crate::process::procfs::{self, Entry};
    use crate::process::{ProcessError, TURN_ENV, tree};

    const LIMIT: Duration = Duration::from_secs(10);
    const PAUSE: Duration = Duration::from_millis(2);

    pub(super) fn sweep(turn: Uuid) -> Result<usize, ProcessError> {
        let mark = format!("{TURN_ENV}={turn}").into_bytes();
        let own = std::process::id();
        let until = Instant::now() + LIMIT;
        let mut killed = HashSet::new();
        let mut clean = 0;
        loop {
            let targets = marked(&mark, own);
            for target in &targets {
                if tree::signal(target, Signal::KILL) {
                    killed.insert((target.pid, target.start_ticks));
                }
            }
            // One pass may miss a process that forks during the read; its child carries the mark too.
            clean = if targets.is_empty() { clean + 1 } else { 0 };
            if clean == 2 {
                return Ok(killed.len());
            }
            if Instant::now() >= until {
                return Err(ProcessError::Unkillable {
                    pids: targets.iter().map(|target| target.pid).collect(),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The living processes that carry the mark, and those below them.
    fn marked(mark: &[u8], own: u32) -> Vec<Entry> {
        let all = procfs::all();
        let spared = ancestry(&all, own);
        tree::closure(all, &spared, |entry| {
            !spared.contains(&entry.pid) && procfs::has_in_environment(entry.pid, mark)
        })
        .into_iter()
        .filter(|entry| !entry.is_dead())
        .collect()
    }

    /// A process and all its ancestors.
    fn ancestry(all: &[Entry], of: u32) -> HashSet<u32> {
        let parents: HashMap<u32, u32> = all.iter().map(|entry| (entry.pid, entry.parent)).collect();
        let mut line = HashSet::new();
        let mut next = Some(of);
        while let Some(pid) = next.filter(|&pid| line.insert(pid)) {
            next = parents.get(&pid).copied();
        }
        line
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use uuid::Uuid;

    use crate::process::ProcessError;

    /// Does nothing: this system does not reveal the environment of other processes.
    pub(super) fn sweep(_turn: Uuid) -> Result<usize, ProcessError> {
        Ok(0)
    }
}
