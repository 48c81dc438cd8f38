//! The protocol between a supervisor and its guard, over the guard's stdin, which is a socket.
//!
//! Supervisor to guard: one line of JSON ([`Header`]), `stdin_len` bytes for the program's stdin, then single bytes
//! ([`TERMINATE`], [`KILL`]), and the end of the socket. Guard to supervisor: lines of JSON ([`Report`]). The guard's
//! exit code repeats its last report as far as a number can: the program's exit status, or 128 plus the signal's number
//! (so 137 can mean either), [`GUARD_FAILED`] or [`LEFT_BEHIND`].

use std::ffi::OsString;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::limits::ProcessLimits;
use super::sandbox::Sandbox;

/// Requests the program to end; the tree is killed after the grace period.
pub(super) const TERMINATE: u8 = b'T';
/// Kills the tree at once.
pub(super) const KILL: u8 = b'K';

/// Exit code of a guard that could not start the program.
pub(super) const GUARD_FAILED: u8 = 125;
/// Exit code of a guard that could not kill all processes.
pub(super) const LEFT_BEHIND: u8 = 124;

/// The guard's instructions. `set_env` may hold secrets, so this type has no `Debug`.
#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) cwd: OsString,
    pub(super) set_env: Vec<(OsString, OsString)>,
    pub(super) remove_env: Vec<OsString>,
    pub(super) stdin_len: u64,
    pub(super) grace_ms: u64,
    pub(super) turn: Uuid,
    /// Whether the program gets a cgroup of its own.
    pub(super) cgroup: bool,
    /// What the guard and the program have instead of what they inherit.
    pub(super) limits: Option<ProcessLimits>,
    /// What the program sees and reaches, if that is limited.
    #[serde(default)]
    pub(super) sandbox: Option<Sandbox>,
}

/// A message from the guard.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The program runs. `port` leads to the server of a sandboxed program.
    Started { pid: u32, port: Option<u16> },
    /// The program could not be started; the last report.
    Failed { reason: String, not_found: bool },
    /// The last report: the program has ended, and nothing of its tree is left except `left`.
    Ended {
        code: Option<i32>,
        signal: Option<i32>,
        left: Vec<u32>,
    },
}

/// Assembles reports from the bytes that the guard sends.
#[derive(Default)]
pub(super) struct Inbox {
    pending: Vec<u8>,
}

impl Inbox {
    /// Adds bytes. Returns the reports that they complete, in order.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Report> {
        self.pending.extend_from_slice(bytes);
        let Some(end) = self.pending.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.pending.split_off(end + 1);
        let lines = std::mem::replace(&mut self.pending, rest);
        lines
            .split(|&byte| byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }
}
