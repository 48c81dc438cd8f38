//! The program `kugetsu`: the command line, other hosts over ssh, and what people see.

pub mod cli;
pub mod ssh;
mod terminal;
