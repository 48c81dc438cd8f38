//! Control of turns in other processes: signals by file, waiting, stopping, detaching, repeating and querying.
//!
//! These tests use the fake opencode; `real/control.rs` covers what only the real one can show.

use crate::support::kit::{SOON, record, status};
use kugetsu_testing::{FakeScript, Running, Step, World};
use serde_json::Value;

mod detached;
mod query;
mod rebase;
mod signals;

fn hanging() -> FakeScript {
    FakeScript::default().on("hang", [Step::step_start(), Step::Hang])
}

fn record_of(world: &World) -> Value {
    record(world, "14").expect("a record")
}

fn state(world: &World) -> String {
    status(world, "14").map_or_else(String::new, |status| {
        status["state"].as_str().unwrap_or_default().to_owned()
    })
}

/// A turn that hangs in opencode after starting a step, until it is ended.
fn hang(world: &World, arguments: &[&str]) -> Running {
    let words = ["start", "14", "hang", "--transport", "run"];
    let running = world.spawn(words.iter().chain(arguments));
    world.wait_until("the step has begun", SOON, || {
        status(world, "14").is_some_and(|status| status["current_step"] == 1)
    });
    running
}

fn detached(world: &World, arguments: &[&str]) -> String {
    let output = world.run(arguments);
    output.expect_status(0);
    let id = output.stdout().trim().to_owned();
    assert_eq!(id.len(), 36, "the id alone\n{output}");
    id
}
