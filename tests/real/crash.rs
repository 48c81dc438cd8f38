//! `kill -9` of kugetsu at some crash points, on the real opencode and both transports. `fast/crash.rs` tries every
//! point on the fake one.

use crate::support::kit::{
    SOON, known_sessions, no_partial_file, opencode_sessions, prompts_of, record, run, run_in, session_of,
    state_of, with_base,
};
use kugetsu_testing::{Gate, Reply, World, on_both_versions};

/// Kills `start` at a point and checks that none of its processes survive.
#[track_caller]
fn killed(world: &World, transport: &str, issue: &str, point: &str) {
    let prompt = format!("begin {issue}");
    let arguments = ["start", issue, &prompt, "--transport", transport];
    let output = run_in(world, &[("KUGETSU_CRASH_AT", point)], &arguments);
    assert_eq!(output.signal(), Some(9), "{point}\n{output}");
    left_in_order(world, issue, point);
}

#[track_caller]
fn left_in_order(world: &World, issue: &str, point: &str) {
    world.wait_nothing_left(SOON);
    no_partial_file(world);
    assert_eq!(state_of(world, issue), "lost", "{point}");
}

/// The permission rules in opencode's row of an issue's session.
#[track_caller]
fn policy(world: &World, issue: &str) -> Option<String> {
    world.session(&session_of(world, issue)).permission
}

/// Checks that after one `doctor --fix`, a record names every session of opencode and no turn is live.
#[track_caller]
fn adopted(world: &World, issues: &[&str], sessions: usize) {
    run(world, ["doctor", "--fix"]).expect_status(0);
    for issue in issues {
        let record = record(world, issue).expect("a record");
        assert!(
            record.get("live").is_none() && record.get("fork").is_none(),
            "{record}"
        );
        assert_eq!(record["last"]["verdict"], "lost", "{record}");
    }
    assert_eq!(opencode_sessions(world).len(), sessions);
    assert_eq!(known_sessions(world), opencode_sessions(world));
    no_partial_file(world);
}

on_both_versions! {
    fn serve(world: &World) {
        with_base(world);
        killed(world, "serve", "1", "fork_marked");
        killed(world, "serve", "2", "fork_intended");
        killed(world, "serve", "3", "turn_ended");
        killed(world, "serve", "4", "fork_known");
        assert!(policy(world, "4").is_none(), "it was killed before the policy was written");
        killed(world, "serve", "5", "fork_settled");
        let settled = policy(world, "5").expect("it was killed after the policy was written");
        // In the middle of a turn, while a tool runs that has left opencode's process group.
        world.model.on("begin 6", vec![Reply::bash("sleep 600")]);
        let turn = world.spawn(["start", "6", "begin 6", "--transport", "serve"]);
        world.wait_until("the tool runs", SOON, || {
            world.processes().iter().any(|process| process.command.ends_with("sleep 600"))
        });
        turn.kill9();
        left_in_order(world, "6", "in a tool");
        adopted(world, &["1", "2", "3", "4", "5", "6"], 6);
        assert!(record(world, "2").unwrap()["session"].is_null(), "no fork was asked for");
        for issue in ["1", "4", "5"] {
            assert_eq!(prompts_of(world, &session_of(world, issue)), [""; 0], "{issue}: its prompt never went out");
        }
        assert_eq!(prompts_of(world, &session_of(world, "3")), ["begin 3"]);

        // A session that never got its prompt can be started; one that did is continued.
        for issue in ["1", "4", "5"] {
            let session = session_of(world, issue);
            let prompt = format!("begin {issue}");
            run(world, ["start", issue, &prompt, "--transport", "serve"]).expect_status(0);
            assert_eq!(session_of(world, issue), session);
            assert_eq!(prompts_of(world, &session), [prompt]);
            assert_eq!(policy(world, issue).as_ref(), Some(&settled), "{issue}: its policy is written");
        }
        run(world, ["start", "6", "begin 6"]).expect_status(64);
        assert_eq!(opencode_sessions(world).len(), 6);
    }

    fn run_transport(world: &World) {
        with_base(world);
        killed(world, "run", "1", "fork_intended");
        killed(world, "run", "2", "fork_known");
        let gate = Gate::new();
        world.model.on("begin 3", vec![Reply::text("never").behind(&gate)]);
        let turn = world.spawn(["start", "3", "begin 3", "--transport", "run"]);
        gate.wait_arrived(SOON);
        turn.kill9();
        left_in_order(world, "3", "in the model's request");
        adopted(world, &["1", "2", "3"], 3);
        assert_eq!(prompts_of(world, &session_of(world, "3")), ["begin 3"]);

        let session = session_of(world, "3");
        let output = run_in(
            world,
            &[("KUGETSU_CRASH_AT", "turn_live")],
            &["continue", "3", "never sent", "--transport", "run"],
        );
        assert_eq!(output.signal(), Some(9), "{output}");
        left_in_order(world, "3", "turn_live");
        let next = run(world, ["continue", "3", "go on", "--transport", "run"]);
        next.expect_status(0);
        assert!(next.stderr().contains("lost"), "{next}");
        assert_eq!(session_of(world, "3"), session);
        let prompts = prompts_of(world, &session);
        assert_eq!((prompts.first().unwrap().as_str(), prompts.last().unwrap().as_str()), ("begin 3", "go on"));
        assert!(!prompts.contains(&"never sent".to_owned()), "{prompts:?}");
        assert_eq!(opencode_sessions(world).len(), 3);
    }
}

on_both_versions! {
    fn init(world: &World) {
        let other = "github.com/shoko/other";
        for (point, repo) in [("base_asked", crate::support::kit::REPO), ("base_made", other)] {
            let output = run_in(world, &[("KUGETSU_CRASH_AT", point)], &["init", "--repo", repo]);
            assert_eq!(output.signal(), Some(9), "{output}");
            world.wait_nothing_left(SOON);
            no_partial_file(world);
        }
        run(world, ["start", "1", "hi"]).expect_status(66);
        let forgotten = opencode_sessions(world);
        assert_eq!(forgotten.len(), 2);
        // A base of another kugetsu home is separate.
        let elsewhere = world.root().join("elsewhere");
        let home = [("KUGETSU_HOME", elsewhere.to_str().expect("UTF-8"))];
        run_in(world, &home, &["init"]).expect_status(0);
        for repo in [crate::support::kit::REPO, other] {
            run(world, ["init", "--repo", repo]).expect_status(0);
        }
        assert_eq!(known_sessions(world), forgotten, "the bases that were made are found again");

        let gate = Gate::new();
        world.model.on("what all forks know", vec![Reply::text("never").behind(&gate)]);
        let cut_off = world.spawn(["init", "--force", "--prompt", "what all forks know"]);
        gate.wait_arrived(SOON);
        cut_off.kill9();
        world.wait_nothing_left(SOON);
        no_partial_file(world);
        let prompted = opencode_sessions(world)
            .into_iter()
            .find(|session| !prompts_of(world, session).is_empty())
            .expect("its prompt went out");
        let refused = run(world, ["init", "--force"]);
        refused.expect_status(64);
        assert!(refused.stderr().contains(&format!("--adopt {prompted}")), "{refused}");
        let kept = run(world, ["init", "--force", "--adopt", &prompted, "--json"]);
        assert!(kept.expect_status(0).json()["adopted"].is_null(), "{kept}");
        assert!(known_sessions(world).contains(&prompted));
    }
}
