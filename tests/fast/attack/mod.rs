//! What an attacker tries: see `docs/security.md`.

mod delegation;
mod git;
mod limits;
mod terminal;
