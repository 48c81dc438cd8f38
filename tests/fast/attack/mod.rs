//! What an attacker tries: see `docs/security.md`.

mod clock;
mod delegation;
mod git;
mod home;
mod homes;
mod hooks;
mod limits;
mod presets;
mod repository;
mod secrets;
mod terminal;
