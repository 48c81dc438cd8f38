//! The model's replies in docs/walks, which the demo and the recording show in part and a test runs.

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

    // The rest of docs/walks/week.md and docs/walks/move.md.
    let faster = "echo 'test-threads = 4' > tests.toml; git add tests.toml; git commit --quiet --message 'Run four tests at once'";
    let measured = words("The tests take 20 s instead of 70 s: four of them run at once now.");
    world
        .model
        .on("make the tests faster", vec![Reply::bash(faster), measured]);
    world.model.on(
        "clean up the old branches",
        vec![words("Two branches are merged and can go.")],
    );
    let push = || Reply::bash("git push --quiet origin HEAD");
    world
        .model
        .on("push the branch", vec![push(), words("I may not push.")]);
    world
        .model
        .on("You may use bash", vec![push(), words("The branch is pushed.")]);
    world.model.on("rename all modules", vec![Reply::Hang]);
    world.model.on(
        "rename only the store",
        vec![words("The module is called store now.")],
    );
    world
        .model
        .on("what is left to do", vec![words("Nothing: the test passes.")]);
}
