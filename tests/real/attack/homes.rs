//! Two homes on one opencode database start the same issue with the same words at the same moment.

use std::collections::BTreeSet;

use crate::support::homes::{session_in, start_at, two_homes, with_prompt};
use crate::support::kit::{SOON, opencode_sessions, with_base};
use kugetsu_testing::{Reply, World, on_both_versions};

fn race(world: &World, transport: &str, rounds: usize) {
    let base = with_base(world);
    let homes = two_homes(world, &base);
    let before = opencode_sessions(world).len();
    world.model.on("the same words", [Reply::text("done")]);
    for round in 1..=rounds {
        let issue = round.to_string();
        let prompt = format!("the same words {round}");
        let started = homes
            .each_ref()
            .map(|home| start_at(world, home, &["start", &issue, &prompt, "--transport", transport]));
        for turn in started {
            turn.wait(SOON).expect_status(0);
        }
        let sessions: BTreeSet<_> = homes
            .iter()
            .map(|home| session_in(world, home, &issue).expect("a session"))
            .collect();
        assert_eq!(sessions.len(), 2, "round {round}");
        assert_eq!(
            with_prompt(world, &prompt),
            sessions,
            "round {round}: no orphan has the prompt"
        );
    }
    assert_eq!(opencode_sessions(world).len(), before + 2 * rounds);
    world.wait_nothing_left(SOON);
}

on_both_versions! {
    fn two_homes_never_record_one_fork_over_run(world: &World) {
        race(world, "run", 2);
    }

    fn two_homes_never_record_one_fork_over_serve(world: &World) {
        race(world, "serve", 1);
    }
}
