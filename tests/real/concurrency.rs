//! Concurrent commands on the real opencode. A gate in the model holds turns in place; no test sleeps.

use crate::support::kit::{SOON, opencode_sessions, record, run, session_of, state_of, with_base};
use kugetsu_testing::{Gate, Reply, on_both_versions, without_mark};

on_both_versions! {
    fn two_issues_start_at_once(world: &World) {
        let base = with_base(world);
        let gate = Gate::new();
        world.model.on("the same words", vec![Reply::text("both").behind(&gate)]);
        // The same prompt, so that only the session distinguishes the two; one on each transport.
        let first = world.spawn(["start", "1", "the same words", "--transport", "run"]);
        let second = world.spawn(["start", "2", "the same words"]);
        gate.wait_arrivals(2, SOON);
        for issue in ["1", "2"] {
            world.wait_until("the fork is on disk", SOON, || record(world, issue).is_some_and(|r| r["session"].is_string()));
        }
        gate.open();
        first.wait(SOON).expect_status(0);
        second.wait(SOON).expect_status(0);
        let (one, two) = (session_of(world, "1"), session_of(world, "2"));
        assert_ne!(one, two);
        assert_eq!(opencode_sessions(world), [base, one, two].into());

        // Two continues of one issue: one runs; the other reports the holder, or waits.
        let gate = Gate::new();
        world.model.on("held here", vec![Reply::text("later").behind(&gate)]);
        let first = world.spawn(["continue", "1", "held here"]);
        gate.wait_arrived(SOON);
        assert_eq!(state_of(world, "1"), "running");
        let refused = run(world, ["continue", "1", "not now"]);
        refused.expect_status(75);
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        for word in [&format!("process {} ", first.pid()), &host, " since 20"] {
            assert!(refused.stderr().contains(word), "{word}\n{refused}");
        }
        let mut waiting = world.spawn(["continue", "1", "after that", "--wait"]);
        assert!(waiting.is_alive());
        assert!(world.model.turn_requests_with("after that").is_empty());
        gate.open();
        first.wait(SOON).expect_status(0);
        waiting.wait(SOON).expect_status(0);
        let last = world.model.turn_requests_with("after that");
        let texts: Vec<_> = last[0].user_texts().iter().map(|text| without_mark(text).trim().to_owned()).collect();
        assert_eq!(texts, ["the same words", "held here", "after that"]);
        assert!(world.model.turn_requests_with("not now").is_empty());
        world.wait_nothing_left(SOON);
    }

    fn one_issue_started_twice_has_one_session(world: &World) {
        with_base(world);
        let gate = Gate::new();
        world.model.on("the first", vec![Reply::text("mine").behind(&gate)]);
        let first = world.spawn(["start", "1", "the first"]);
        gate.wait_arrived(SOON);
        let second = run(world, ["start", "1", "the second"]);
        second.expect_status(75);
        assert!(second.stderr().contains(&format!("process {} ", first.pid())), "{second}");
        gate.open();
        first.wait(SOON).expect_status(0);
        let third = run(world, ["start", "1", "the third"]);
        third.expect_status(64);
        assert!(third.stderr().contains("kugetsu continue github.com/shoko/kugetsu#1"), "{third}");

        // At the same moment.
        let both = [
            world.spawn(["start", "2", "a race"]),
            world.spawn(["start", "2", "a race"]),
        ];
        let mut codes = both.map(|start| start.wait(SOON).code());
        codes.sort_unstable();
        assert_eq!(codes[0], 0, "{codes:?}");
        assert!([64, 75].contains(&codes[1]), "{codes:?}");
        assert_eq!(world.sessions().len(), 3, "the base and one fork for each issue");
        for never in ["the second", "the third"] {
            assert!(world.model.turn_requests_with(never).is_empty(), "{never}");
        }
    }
}
