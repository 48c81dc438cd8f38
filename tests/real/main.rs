//! Everything that is proven on the real opencode. One program, so that its tests fill the cores to the end: most of
//! their time is opencode's, and a program for each subject would wait for its own slowest test.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests say what they ran, write what they need and may panic"
)]

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod asking;
mod attach;
mod concurrency;
mod control;
mod crash;
mod hangs;
mod lifecycle;
mod readme;
mod ssh;
mod subagents;
mod transports;
mod worktree;
mod world;
