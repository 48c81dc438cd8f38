//! An issue reference becomes the address of a durable, headless opencode session.
//!
//! The layers and what may depend on what are drawn in ARCHITECTURE.md.

pub mod exit;
pub mod opencode;
pub mod permission;
pub mod session;
