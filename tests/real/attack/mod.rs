//! What an attacker tries, on the real opencode: see `docs/security.md`.

mod delegation;
mod git;
mod sandbox;
