//! Reads process information from Linux.

use std::fmt::Display;

/// SIGINT.
pub(crate) const SIGINT: u32 = 2;
/// SIGTERM.
pub(crate) const SIGTERM: u32 = 15;

/// A field of `/proc/PID/status`; `None` if the process is gone.
pub(crate) fn field(pid: impl Display, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// Whether a signal is in one of the masks: `SigCgt` (caught), `SigIgn` (ignored), `ShdPnd` (pending).
pub(crate) fn has_signal(pid: u32, mask: &str, signal: u32) -> bool {
    let mask = field(pid, mask).and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

/// The memory of a process that is not a part of its program's file, in KiB. A debug build's file alone takes 30 MB.
pub(crate) fn own_memory(pid: u32) -> u64 {
    let now = field(pid, "RssAnon").and_then(|now| now.strip_suffix(" kB")?.trim().parse().ok());
    now.unwrap_or(0)
}
