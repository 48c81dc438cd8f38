//! The model's replies in docs/walks/first-answer.md, which the demo shows and a test runs.

use std::time::Duration;

use crate::{Reply, World};

/// Makes the world's model give the tour's replies, one word every `pace`.
pub fn script_tour(world: &World, pace: Duration) {
    let words = |text: &str| Reply::chunks(text.split_inclusive(' '), pace);
    let fixed = words("The index was read before it was checked. I check it first now.");
    world
        .model
        .on("fix the crash", vec![Reply::bash("git log --oneline"), fixed]);
    world.model.on(
        "write the README",
        vec![words("The README tells what kugetsu is and how to start.")],
    );
    let test =
        "mkdir tests; seq 12 > tests/crash.rs; git add tests; git commit --quiet --message 'Test the crash'";
    let tested = words("The crash has a test that fails without the fix.");
    world.model.on("now add a test", vec![Reply::bash(test), tested]);
}
