//! What an attacker tries, on the real opencode: see `docs/security.md`.

mod git;
mod sandbox;
