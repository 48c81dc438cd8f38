//! Tests that start `kugetsu` on the fake opencode, and tests that compare the documents with the program. They are one
//! program, so that it is linked once and its tests, which mostly wait, keep all cores busy.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests say what they measured, write and damage what they need, and may panic"
)]

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod agents;
mod attack;
mod backup;
mod commands;
mod control;
mod crash;
mod daemon;
mod dist;
mod docs;
mod errors;
mod example;
mod faults;
mod forge;
mod interrupts;
mod moving;
mod old_home;
mod output;
mod removal;
mod retention;
mod schema;
mod skill;
mod ssh;
mod tables;
mod telling;
mod terminal;
mod testing;
mod transports;
mod typing;
mod unattended;
mod upkeep;
mod waiting;
mod worktree;
