//! A short soak on the real opencode: turns through both transports side by side, while supervisors and opencodes
//! are killed. `cargo xtask soak` does the same for longer.
#![allow(clippy::disallowed_macros, reason = "a soak says what it did")]

use kugetsu_testing::{SoakPlan, SoakTally, on_both_versions, soak};

on_both_versions! {
    fn kills_lose_no_session_and_double_none(world: &World) {
        let plan = SoakPlan { turns: 16, seed: 2773 };
        let tally = soak(world, &plan);
        println!("seed {}", plan.seed);
        println!("{}\n{}", SoakTally::HEAD, tally.rows("the real one"));
        assert!(tally.problems.is_empty(), "seed {}: {}", plan.seed, tally.problems.join("\n"));
        let all = tally.all();
        assert_eq!(all.turns, plan.turns);
        // Those that are struck at the model are struck on any machine.
        assert!(all.supervisors_killed > 0 && all.opencodes_killed > 0, "{all:?}");
        assert!(all.completed > 0 && tally.by_transport.len() == 2, "{tally:?}");
    }
}
