//! The program `kugetsu`: the command line, other hosts over ssh, and what people see.

pub mod cli;
mod daemon;
pub mod ssh;
mod terminal;
