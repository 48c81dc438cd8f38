//! Helpers shared by the test programs.
#![allow(dead_code, reason = "each program uses a part of it")]

pub(crate) mod browser;
#[macro_use]
pub(crate) mod case;
pub(crate) mod clock;
pub(crate) mod daemon;
pub(crate) mod git_attacks;
pub(crate) mod homes;
pub(crate) mod http;
pub(crate) mod kit;
pub(crate) mod otlp;
pub(crate) mod proc;
pub(crate) mod schema;
pub(crate) mod sshd;
pub(crate) mod terminal;
pub(crate) mod witness;
