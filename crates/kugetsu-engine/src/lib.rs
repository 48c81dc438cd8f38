//! The engine of kugetsu: it makes, runs, remembers and removes opencode sessions.
//!
//! A front end opens an [`Engine`](operations::Engine) on a home folder, with [`Settings`](settings::Settings) and an
//! [`Environment`](operations::Environment), and calls its [`operations`]. A turn is a handle
//! ([`TurnHandle`](operations::TurnHandle)); what it does is followed by its stream ([`turn::stream`]). Another way to reach
//! opencode is a [`Connector`](transport::Connector).
//!
//! The engine must not know who calls it: it prints nothing, asks nobody, ends no process but those that it started, and
//! reads neither the environment nor the current directory. ARCHITECTURE.md has the map of its modules; those that are
//! not listed here are nobody else's business. The feature `internals` shows them to benches and fuzz targets.
#![cfg_attr(
    not(feature = "internals"),
    allow(
        unreachable_pub,
        unused_imports,
        dead_code,
        reason = "benches and fuzz targets see more with the feature `internals`"
    )
)]

mod aside;
mod cancel;
mod crash;
pub mod duration;
mod environment;
mod git;
pub mod operations;
pub mod settings;
pub mod transport;
pub mod turn;

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
pub use process::{Containment, GUARD_COMMAND, guard_main};
pub use redact::{Redactor, SHORTEST as SHORTEST_SECRET};
pub use worktree::Rebased;

/// Has the process kill itself at one of the crash points, for tests. `name`, or `name:n` for the n-th time that the point
/// is passed; `log:FILE` writes the names of the points that are passed into FILE instead. The error says which names
/// there are.
pub fn set_crash_point(spec: &str) -> Result<(), String> {
    crash::arm(
        spec,
        &[fsx::points::ALL, store::points::ALL, operations::points::ALL],
    )
}
