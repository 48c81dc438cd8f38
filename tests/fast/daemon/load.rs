//! Many clients at once. `cargo xtask load` does it with more tasks and more faults.

use std::time::Duration;

use kugetsu_testing::{Fault, LoadPlan, Opencode, World, load};

/// Runs a load with few tasks.
#[track_caller]
fn holds(fault: Fault) {
    let plan = LoadPlan {
        tasks: 120,
        issues: 30,
        clients: 12,
        max_concurrent: 4,
        pause: Duration::from_millis(100),
        fault: Some(fault),
    };
    let tally = load(&World::new(Opencode::Fake), &plan);
    assert!(tally.problems.is_empty(), "{}", tally.problems.join("\n"));
    assert_eq!(tally.by_end.get("completed"), Some(&plan.tasks), "{tally:?}");
    assert!(tally.strikes > 0 && tally.most_at_once > Some(1), "{tally:?}");
}

#[test]
fn connections_that_are_cut_lose_and_double_no_task() {
    holds(Fault::ConnectionsCut);
}

#[test]
fn readers_that_stall_hold_nobody_up() {
    holds(Fault::Readers);
}
