//! Tests of opencode's binary, database, lines and events. The tests create all files here; `real.rs` runs the real
//! opencode.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test makes files as it likes, and a panic is how it fails"
)]

mod binary;
pub(crate) mod database;
mod events;
mod real;

use std::path::Path;

pub(crate) const VERSIONS: [&str; 2] = ["1.3.2", "1.18.33"];

fn fixture(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)).unwrap()
}
