//! An issue reference becomes the address of a durable, headless opencode session.
//!
//! The layers and what may depend on what are drawn in ARCHITECTURE.md.

pub mod broker;
pub mod cli;
pub mod config;
pub mod exit;
pub mod fsx;
pub mod opencode;
pub mod permission;
pub mod process;
pub mod redact;
pub mod session;
pub mod ssh;
pub mod store;
pub mod transport;
pub mod turn;
pub mod worktree;
