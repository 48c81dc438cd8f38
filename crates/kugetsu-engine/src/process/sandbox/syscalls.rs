//! System calls that nothing in a sandbox may make: those that reach what namespaces and Landlock do not cover.

use std::collections::BTreeMap;
use std::io::Error;

use libc::{c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// The bit of a file's mode that has a program run as its owner.
const SET_USER_ID: u64 = 0o4000;

/// The number of `fchmodat2`, which is the same on every architecture (`asm-generic/unistd.h` of Linux).
const FCHMODAT2: c_long = 452;

/// The index of an argument, and what it must be for a call to be refused.
type Condition = (u8, SeccompCmpArgLen, SeccompCmpOp, u64);

/// A refused call: all of the conditions hold.
type Refused = (c_long, Vec<Condition>);

/// Refuses the calls for this process and all its future children.
pub(super) fn restrict() -> std::io::Result<()> {
    apply(forbidden(), libc::EPERM)?;
    // Programs take this for an older kernel, and use calls whose arguments the filter can read.
    apply(unreadable(), libc::ENOSYS)
}

/// The calls that fail as forbidden.
fn forbidden() -> Vec<Refused> {
    let mode = |call, argument: u8| (call, vec![bits(argument, SET_USER_ID)]);
    let creates = |call, flags: u8| {
        let creates = bits(flags, libc::O_CREAT.unsigned_abs().into());
        (call, vec![creates, bits(flags + 1, SET_USER_ID)])
    };
    let mut calls = vec![
        // The keyring of the session that started kugetsu is none of the sandbox's.
        (libc::SYS_keyctl, Vec::new()),
        (libc::SYS_add_key, Vec::new()),
        (libc::SYS_request_key, Vec::new()),
        // Neither namespaces nor Landlock cover the sockets between a virtual machine and its host.
        (libc::SYS_socket, vec![is(0, libc::AF_VSOCK)]),
        // A command could take files and memory from opencode. A process may limit itself (0), and read limits (no pointer).
        (
            libc::SYS_prlimit64,
            vec![
                is_set(0, SeccompCmpArgLen::Dword),
                is_set(2, SeccompCmpArgLen::Qword),
            ],
        ),
        // Whoever runs such a program later would be the user.
        mode(libc::SYS_fchmod, 1),
        mode(libc::SYS_fchmodat, 2),
        mode(FCHMODAT2, 2),
        mode(libc::SYS_mknodat, 2),
        creates(libc::SYS_openat, 2),
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        mode(libc::SYS_chmod, 1),
        mode(libc::SYS_creat, 1),
        mode(libc::SYS_mknod, 1),
        creates(libc::SYS_open, 1),
    ]);
    calls
}

/// The calls whose arguments a filter cannot read, because they are in memory.
fn unreadable() -> Vec<Refused> {
    vec![
        (libc::SYS_openat2, Vec::new()),
        (libc::SYS_io_uring_setup, Vec::new()),
    ]
}

/// The argument has these bits.
fn bits(argument: u8, bits: u64) -> Condition {
    (
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(bits),
        bits,
    )
}

fn is(argument: u8, value: c_int) -> Condition {
    (
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        value.unsigned_abs().into(),
    )
}

/// The argument is not zero. A pointer is a `Qword`.
fn is_set(argument: u8, length: SeccompCmpArgLen) -> Condition {
    (argument, length, SeccompCmpOp::Ne, 0)
}

fn apply(calls: Vec<Refused>, error: c_int) -> std::io::Result<()> {
    let program = program(calls, error).map_err(|error| Error::other(format!("seccomp: {error}")))?;
    seccompiler::apply_filter(&program).map_err(|error| Error::other(format!("seccomp: {error}")))
}

fn program(calls: Vec<Refused>, error: c_int) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (call, conditions) in calls {
        let of_call = rules.entry(call).or_default();
        let conditions = conditions
            .into_iter()
            .map(|(argument, length, operator, value)| {
                SeccompCondition::new(argument, length, operator, value)
            })
            .collect::<Result<Vec<_>, _>>()?;
        // A call without rules is refused whatever its arguments are.
        if !conditions.is_empty() {
            of_call.push(SeccompRule::new(conditions)?);
        }
    }
    let refuse = SeccompAction::Errno(error.unsigned_abs());
    let here = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, here)?.try_into()
}
