//! The engine of kugetsu: makes, runs, records and removes opencode sessions.
//!
//! A front end opens an [`Engine`](operations::Engine) on a home folder, with [`Settings`](settings::Settings) and an
//! [`Environment`](operations::Environment), and calls its [`operations`]. A turn is a handle
//! ([`TurnHandle`](operations::TurnHandle)), and its stream ([`turn::stream`]) reports its progress. A
//! [`Connector`](transport::Connector) is a way to reach opencode.
//!
//! The engine must not know its caller. It prints nothing, asks no questions, ends only processes that it started, and
//! reads neither the environment nor the current directory. ARCHITECTURE.md has the map of its modules. Modules not
//! named above are private; the feature `internals` exposes them to benches and fuzz targets.
#![cfg_attr(
    not(feature = "internals"),
    allow(
        unreachable_pub,
        unused_imports,
        reason = "benches and fuzz targets see more with the feature `internals`"
    )
)]

mod aside;
mod backup;
mod cancel;
mod changes;
mod crash;
pub mod duration;
mod environment;
mod git;
pub mod home;
pub mod log_file;
pub mod money;
pub mod operations;
pub mod pool;
pub mod settings;
mod sqlite;
pub mod text;
pub mod transport;
pub mod turn;
mod upstream;

#[cfg(not(feature = "internals"))]
mod fsx;
#[cfg(feature = "internals")]
pub mod fsx;
#[cfg(not(feature = "internals"))]
mod opencode;
#[cfg(feature = "internals")]
pub mod opencode;
#[cfg(not(feature = "internals"))]
mod permission;
#[cfg(feature = "internals")]
pub mod permission;
#[cfg(not(feature = "internals"))]
mod process;
#[cfg(feature = "internals")]
pub mod process;
#[cfg(not(feature = "internals"))]
mod redact;
#[cfg(feature = "internals")]
pub mod redact;
#[cfg(not(feature = "internals"))]
mod store;
#[cfg(feature = "internals")]
pub mod store;
#[cfg(not(feature = "internals"))]
mod worktree;
#[cfg(feature = "internals")]
pub mod worktree;

#[cfg(test)]
mod documents;

pub use opencode::{Launch, Secrets};
pub use permission::CLASSES;
pub use process::sandbox::sandbox_main;
pub use process::{Containment, GUARD_COMMAND, WAY_OUT, guard_main, is_full, raise_open_files};
pub use redact::{Redactor, SHORTEST as SHORTEST_SECRET};
pub use store::refuse_shared_home;
pub use worktree::Rebased;

/// Replaces a file of the home, for front ends that keep files of their own there.
pub mod files {
    pub use crate::fsx::{FsError, write_atomic};
}

/// Arms a crash point, for tests. With `NAME`, or `NAME:N` for the N-th pass, the process kills itself at the point.
/// With `stall:NAME:N:FILE`, the thread of the N-th pass stops there for ever, and FILE is created. With `log:FILE`,
/// the name of each passed point is appended to FILE. The error for an unknown name lists the valid names.
pub fn set_crash_point(spec: &str) -> Result<(), String> {
    crash::arm(
        spec,
        &[
            fsx::points::ALL,
            store::points::ALL,
            operations::points::ALL,
            pool::points::ALL,
        ],
    )
}
