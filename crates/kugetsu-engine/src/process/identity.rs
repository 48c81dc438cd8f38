//! The identity of a process. The system reuses process ids, so the identity also holds host, boot and start time.

use super::ProcessError;
use kugetsu_api::ProcessIdentity;

/// Whether a process still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It runs or is stopped.
    Alive,
    /// It is gone, or only its zombie is left.
    Dead,
    /// It is on another host, so this host cannot know.
    Unknown,
}

/// The identity of this process.
pub fn current() -> ProcessIdentity {
    let pid = std::process::id();
    ProcessIdentity {
        host: host(),
        pid,
        start_ticks: start_ticks(pid).unwrap_or(0),
        boot_id: boot_id(),
    }
}

/// The identity of a process on this host, or `None` if no process has this id or only its zombie is left.
#[cfg(test)]
pub(crate) fn identity_of(pid: u32) -> Option<ProcessIdentity> {
    let start_ticks = start_ticks(pid)?;
    Some(ProcessIdentity {
        host: host(),
        pid,
        start_ticks,
        boot_id: boot_id(),
    })
}

/// Whether the process that `identity` describes still runs. Without `/proc`, a later process with the same id counts
/// as the same process.
pub fn is_alive(identity: &ProcessIdentity) -> Liveness {
    if identity.host != host() {
        return Liveness::Unknown;
    }
    if identity.boot_id != boot_id() {
        return Liveness::Dead;
    }
    match start_ticks(identity.pid) {
        Some(ticks) if ticks == identity.start_ticks => Liveness::Alive,
        _ => Liveness::Dead,
    }
}

/// The marks of the guards above this process, innermost first. No process can leave the tree of its guard.
#[cfg(target_os = "linux")]
pub fn enclosing_marks() -> Vec<uuid::Uuid> {
    let mut marks = Vec::new();
    let mut next = Some(std::process::id());
    // Process ids may be reused while this walks, so the walk has a limit.
    for _ in 0..MAX_ANCESTORS {
        let Some(parent) = next.and_then(super::procfs::entry).map(|entry| entry.parent) else {
            break;
        };
        marks.extend(super::procfs::guard_mark(parent));
        next = (parent > 1).then_some(parent);
    }
    marks
}

/// Nothing: this system does not tell the ancestors of a process.
#[cfg(not(target_os = "linux"))]
pub fn enclosing_marks() -> Vec<uuid::Uuid> {
    Vec::new()
}

/// How many ancestors of a process are looked at.
#[cfg(target_os = "linux")]
const MAX_ANCESTORS: usize = 1000;

/// Requests a process to end (SIGTERM). A process that is gone is not an error.
pub fn terminate(pid: u32) -> Result<(), ProcessError> {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return Ok(());
    };
    match rustix::process::kill_process(pid, rustix::process::Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(ProcessError::System {
            what: "cannot send SIGTERM to the supervisor",
            source: errno.into(),
        }),
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(target_os = "linux")]
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| String::new(), |id| id.trim().into())
}

#[cfg(not(target_os = "linux"))]
fn boot_id() -> String {
    String::new()
}

/// The start time of a process that is not a zombie.
#[cfg(target_os = "linux")]
fn start_ticks(pid: u32) -> Option<u64> {
    super::procfs::entry(pid)
        .filter(|entry| !entry.is_dead())
        .map(|entry| entry.start_ticks)
}

#[cfg(not(target_os = "linux"))]
fn start_ticks(pid: u32) -> Option<u64> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    rustix::process::test_kill_process(pid).is_ok().then_some(0)
}
