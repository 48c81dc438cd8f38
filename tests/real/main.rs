//! Tests on the real opencode. They are one program, so that they keep all cores busy: they mostly wait for opencode,
//! and with several programs, each would wait for its own slowest test.
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
mod attack;
mod concurrency;
mod control;
mod crash;
mod daemon;
mod forge;
mod hangs;
mod keeping;
mod lifecycle;
mod sandbox;
mod ssh;
mod subagents;
mod transports;
mod walks;
mod worktree;
mod world;
