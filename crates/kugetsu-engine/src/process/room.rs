//! How many more processes and threads this user may start.
//!
//! A limit of the system refuses one with EAGAIN. opencode does not end then: it may run on without the threads that it
//! needs, for ever and without a word. So there must be room for it before it starts.

use std::io::Error;
use std::path::Path;

use rustix::process::{Resource, getrlimit, getuid};

use super::cgroup;

/// How many processes and threads a turn needs at least: the guard has 4, opencode has 9 when it waits (both versions,
/// on two processors), and its tools have some.
const NEEDED: u64 = 20;

/// The cause of an error, with a way out if the system starts nothing more.
pub(crate) fn cause(error: &Error) -> String {
    if is_full(error) {
        format!("{FULL}; {WAY_OUT}")
    } else {
        error.to_string()
    }
}

/// Whether the error means that the system starts no more processes or threads.
pub fn is_full(error: &Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AGAIN.raw_os_error())
}

/// What that error means.
pub(crate) const FULL: &str = "the system starts no more processes or threads for this user";
/// What a person can do about it.
pub const WAY_OUT: &str = "end some, or raise the limit: ulimit -u, or pids.max of the cgroup";

/// Why there is no room for opencode, if it is known that there is none.
pub(super) fn lacking() -> Option<String> {
    let left = [left_for_user(), cgroup::left()].into_iter().flatten().min()?;
    (left < NEEDED).then(|| {
        format!(
            "the system starts only {left} more processes and threads for this user, and opencode needs {NEEDED}; {WAY_OUT}"
        )
    })
}

/// By the limit of this user, which root does not have.
fn left_for_user() -> Option<u64> {
    let user = getuid();
    let limit = getrlimit(Resource::Nproc).current?;
    // Cheaper than to count those of the user alone.
    if user.is_root() || all_tasks()? + NEEDED <= limit {
        return None;
    }
    Some(limit.saturating_sub(tasks_of(user.as_raw())))
}

/// The processes and threads of the whole system (`proc_loadavg(5)`).
fn all_tasks() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let (_, all) = text.split(' ').nth(3)?.split_once('/')?;
    all.parse().ok()
}

fn tasks_of(user: u32) -> u64 {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| tasks_in(&entry.path(), user)).sum()
}

/// The threads of a process, if it is one of this user (`proc_pid_status(5)`).
fn tasks_in(process: &Path, user: u32) -> Option<u64> {
    let text = std::fs::read_to_string(process.join("status")).ok()?;
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| {
            line.strip_prefix(name)?
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        })
    };
    (field("Uid:")? == u64::from(user)).then(|| field("Threads:").unwrap_or(1))
}
