//! Finds the processes below a process, and ends them.

#[cfg(target_os = "linux")]
pub(super) use linux::{Target, below, closure, end_all, signal, target};
#[cfg(not(target_os = "linux"))]
pub(super) use portable::{below, end_all, signal, target};

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::{HashMap, HashSet};

    use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

    use crate::process::procfs::{self, Entry};

    /// A process to signal.
    pub(in crate::process) type Target = Entry;

    /// The process with this id.
    pub(in crate::process) fn target(pid: u32) -> Option<Target> {
        procfs::entry(pid)
    }

    /// All processes whose chain of parents leads to `root`, without `root` itself.
    pub(in crate::process) fn below(root: u32) -> Vec<Target> {
        closure(procfs::all(), &HashSet::new(), |entry| entry.parent == root)
    }

    /// The processes that `first` selects and everything below them, without the processes in `spared` and those
    /// reached only through them.
    pub(in crate::process) fn closure(
        all: Vec<Entry>,
        spared: &HashSet<u32>,
        first: impl Fn(&Entry) -> bool,
    ) -> Vec<Entry> {
        let mut children: HashMap<u32, Vec<usize>> = HashMap::new();
        for (index, entry) in all.iter().enumerate() {
            children.entry(entry.parent).or_default().push(index);
        }
        let mut seen = vec![false; all.len()];
        let mut open: Vec<usize> = (0..all.len()).filter(|&index| first(&all[index])).collect();
        while let Some(index) = open.pop() {
            if seen[index] || spared.contains(&all[index].pid) {
                continue;
            }
            seen[index] = true;
            open.extend(children.get(&all[index].pid).into_iter().flatten());
        }
        let mut seen = seen.into_iter();
        all.into_iter().filter(|_| seen.next().unwrap_or(false)).collect()
    }

    /// Signals this exact process and never a later one that reuses its id. Returns true if the process existed.
    pub(in crate::process) fn signal(target: &Target, signal: Signal) -> bool {
        let Some(pid) = raw(target.pid) else { return false };
        // The handle is opened before the start time is read, so the start time belongs to the process that the handle
        // names.
        let handle = pidfd_open(pid, PidfdFlags::empty());
        if procfs::entry(target.pid).is_none_or(|now| now.start_ticks != target.start_ticks) {
            return false;
        }
        match handle {
            Ok(handle) => pidfd_send_signal(handle, signal).is_ok(),
            Err(rustix::io::Errno::SRCH) => false,
            // Kernels before 5.3, and sandboxes that deny the call.
            Err(_) => kill_process(pid, signal).is_ok(),
        }
    }

    /// One pass of killing everything below `root`. Returns the processes that it found; later forks are left to the
    /// next pass.
    pub(in crate::process) fn end_all(root: u32) -> Vec<Target> {
        let targets = below(root);
        for target in &targets {
            signal(target, Signal::KILL);
        }
        targets
    }

    fn raw(pid: u32) -> Option<Pid> {
        Pid::from_raw(i32::try_from(pid).ok()?)
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use rustix::process::{Pid, Signal, kill_process, test_kill_process};

    /// A process to signal.
    #[derive(Clone, Debug)]
    pub(in crate::process) struct Target {
        pub(in crate::process) pid: u32,
    }

    impl Target {
        pub(in crate::process) fn is_dead(&self) -> bool {
            raw(self.pid).is_none_or(|pid| test_kill_process(pid).is_err())
        }
    }

    pub(in crate::process) fn target(pid: u32) -> Option<Target> {
        Some(Target { pid }).filter(|target| !target.is_dead())
    }

    /// Returns nothing: this system does not reveal the processes below a process.
    pub(in crate::process) fn below(_root: u32) -> Vec<Target> {
        Vec::new()
    }

    pub(in crate::process) fn signal(target: &Target, signal: Signal) -> bool {
        raw(target.pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    pub(in crate::process) fn end_all(_root: u32) -> Vec<Target> {
        Vec::new()
    }

    fn raw(pid: u32) -> Option<Pid> {
        Pid::from_raw(i32::try_from(pid).ok()?)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::collections::HashSet;

    use rustix::process::Signal;

    use super::*;
    use crate::process::procfs::Entry;

    fn entry(pid: u32, parent: u32) -> Entry {
        Entry {
            pid,
            parent,
            state: b'S',
            start_ticks: 1,
        }
    }

    fn pids(entries: &[Entry]) -> Vec<u32> {
        let mut pids: Vec<u32> = entries.iter().map(|entry| entry.pid).collect();
        pids.sort_unstable();
        pids
    }

    #[test]
    fn everything_below_the_first_is_found_and_nothing_beside_it() {
        let all = vec![
            entry(9, 5),
            entry(1, 0),
            entry(5, 1),
            entry(6, 1),
            entry(7, 6),
            entry(8, 5),
        ];
        let found = closure(all, &HashSet::new(), |entry| entry.pid == 5);
        assert_eq!(pids(&found), [5, 8, 9]);
    }

    #[test]
    fn what_is_spared_spares_what_is_below_it() {
        let all = vec![entry(5, 1), entry(6, 5), entry(7, 6), entry(8, 5)];
        let found = closure(all, &HashSet::from([6]), |entry| entry.pid == 5);
        assert_eq!(pids(&found), [5, 8]);
    }

    #[test]
    fn a_ring_of_parents_is_no_endless_walk() {
        // Possible when a process id is reused while `/proc` is read.
        let all = vec![entry(5, 6), entry(6, 5)];
        assert_eq!(
            pids(&closure(all, &HashSet::new(), |entry| entry.parent == 5)),
            [5, 6]
        );
    }

    #[test]
    fn a_later_process_of_the_same_number_is_not_signalled() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let real = target(child.id()).unwrap();
        let earlier = Entry {
            start_ticks: real.start_ticks - 1,
            ..real.clone()
        };
        assert!(!signal(&earlier, Signal::KILL));
        assert!(child.try_wait().unwrap().is_none());
        assert!(signal(&real, Signal::TERM));
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()),
            Some(15)
        );
    }
}
