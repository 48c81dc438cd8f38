//! Everything known of opencode: finding it, its database, the events of `run`, its rules.
//!
//! Measured facts stand beside the code that relies on them, with the versions they were measured on.

pub mod binary;
pub mod config;
pub mod database;
pub mod lines;
pub mod run_events;
