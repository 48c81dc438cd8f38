//! What an attacker tries, on the real opencode: see `docs/security.md`.

mod clock;
mod delegation;
mod git;
mod homes;
mod presets;
mod repository;
mod sandbox;
mod secrets;
