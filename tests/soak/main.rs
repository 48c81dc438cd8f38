//! A short soak on the real opencode: concurrent turns on both transports, while supervisors and opencodes are killed.
//! `cargo xtask soak` runs a longer one.
//!
//! Each test here starts more opencodes than the machine has cores, so the tests run one after the other, and never
//! beside those of `tests/real`.
#![allow(
    dead_code,
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a soak says what it did, writes what it needs, may panic, and needs a part of the support alone"
)]

#[path = "../support/mod.rs"]
mod support;

mod one_process;

use std::sync::{Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use kugetsu_testing::{Fault, LoadPlan, LoadTally, SoakPlan, SoakTally, load, on_both_versions, soak};

static ALONE: Mutex<()> = Mutex::new(());

/// While this value lives, no other test of this program runs.
fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

on_both_versions! {
    fn kills_lose_no_session_and_double_none(world: &World) {
        let _alone = alone();
        // This seed kills a supervisor and an opencode of each transport at the model.
        let plan = SoakPlan { turns: 12, seed: 2942 };
        let tally = soak(world, &plan);
        println!("seed {}", plan.seed);
        println!("{}\n{}", SoakTally::HEAD, tally.rows("the real one"));
        assert!(tally.problems.is_empty(), "seed {}: {}", plan.seed, tally.problems.join("\n"));
        let all = tally.all();
        assert_eq!(all.turns, plan.turns);
        // Kills at the model strike on every machine, those at a moment only on some.
        assert!(all.supervisors_killed > 0 && all.opencodes_killed > 0, "{all:?}");
        assert!(all.completed > 0 && tally.by_transport.len() == 2, "{tally:?}");
    }

    fn tasks_survive_the_death_of_their_daemon(world: &World) {
        let _alone = alone();
        let plan = LoadPlan {
            tasks: 32,
            issues: 8,
            clients: 4,
            max_concurrent: 4,
            pause: Duration::from_secs(2),
            fault: Some(Fault::DaemonKilled),
        };
        let tally = load(world, &plan);
        println!("{}\n{}", LoadTally::HEAD, tally.row("the real one", &plan));
        assert!(tally.problems.is_empty(), "{}", tally.problems.join("\n"));
        assert!(tally.strikes > 0, "{tally:?}");
    }
}
