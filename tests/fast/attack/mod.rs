//! What an attacker tries: see `docs/security.md`.

mod clock;
mod delegation;
mod git;
mod homes;
mod limits;
mod terminal;
