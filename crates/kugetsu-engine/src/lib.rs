//! The engine of kugetsu: it makes, runs, remembers and removes opencode sessions.
//!
//! The layers and what may depend on what are drawn in ARCHITECTURE.md. The engine prints nothing, ends no process but
//! those that it started, and reads neither the environment nor the current directory: a request carries them.

mod aside;
mod cancel;
mod crash;
#[cfg(test)]
mod documents;
pub mod duration;
pub mod environment;
pub mod fsx;
mod git;
pub mod opencode;
pub mod operations;
pub mod permission;
pub mod process;
pub mod redact;
pub mod settings;
pub mod store;
pub mod transport;
pub mod turn;
pub mod worktree;

/// Has the process kill itself at one of the crash points, for tests. `name`, or `name:n` for the n-th time that the point
/// is passed; `log:FILE` writes the names of the points that are passed into FILE instead. The error says which names
/// there are.
pub fn set_crash_point(spec: &str) -> Result<(), String> {
    crash::arm(
        spec,
        &[fsx::points::ALL, store::points::ALL, operations::points::ALL],
    )
}
