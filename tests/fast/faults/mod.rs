//! Faults around kugetsu: a full or read-only disk, a damaged store, a missing or misbehaving opencode, an unreadable
//! database. Each has its own message and exit status, and nothing is lost.

use crate::support::kit::{fake_world, run};
use kugetsu_testing::{Output, World};

mod disk;
mod opencode;
mod processes;
mod store;

/// A world with a base and one session.
fn world() -> World {
    let world = fake_world();
    run(&world, ["start", "1", "hello", "--transport", "run"]).expect_status(0);
    world
}

#[track_caller]
fn expect_error(output: &Output, status: i32, words: &[&str]) {
    output.expect_status(status);
    for word in words {
        assert!(output.stderr().contains(word), "{word:?} is missing\n{output}");
    }
    let lines = output
        .stderr()
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count();
    assert!(lines <= 3, "at most three lines\n{output}");
    assert!(!output.stderr().contains("panicked"), "{output}");
}

/// Checks that `doctor` reports the problem in the store's own line.
#[track_caller]
fn doctor_reports(output: &Output, words: &[&str]) {
    output.expect_status(1);
    let output = output.stdout();
    let bad: Vec<_> = output.lines().filter(|line| line.starts_with("bad")).collect();
    assert!(
        bad.len() == 1 && bad[0].contains("store: cannot write"),
        "{output}"
    );
    assert!(words.iter().all(|word| bad[0].contains(word)), "{output}");
    assert!(!output.contains("ok       store"), "{output}");
}
