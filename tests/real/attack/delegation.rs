//! Turns that tools of other turns begin, with the shell tool of the real opencode.

use crate::support::kit::{SOON, record, run, run_in, state_of, text};
use kugetsu_testing::{Gate, Reply, World, kugetsu_binary, on_both_versions, usage};
use serde_json::{Value, json};

fn kugetsu(words: &str) -> String {
    format!(
        "'{}' {words} 2>&1 < /dev/null; echo status $?",
        kugetsu_binary().display()
    )
}

fn last(world: &World, issue: &str) -> Value {
    record(world, issue).expect("a record")["last"].clone()
}

/// What the tools of the turn with this prompt told the model.
fn told(world: &World, prompt: &str) -> Vec<String> {
    let requests = world.model.turn_requests_with(prompt);
    requests.last().expect("a request").tool_results()
}

fn wait_for_turns(world: &World, issue: &str, turns: u64) -> Value {
    world.wait_until("the turn has ended", SOON, || {
        record(world, issue).is_some_and(|record| record["totals"]["turns"] == turns)
    });
    last(world, issue)
}

on_both_versions! {
    fn a_tool_begins_follows_and_detaches_turns_of_other_sessions(world: &World) {
        world.make_base();
        let gate = Gate::new();
        let answers = world.root().join("answers.json");
        std::fs::write(&answers, json!({"secrets": {"DEPLOY_KEY": "a-secret-of-the-first"}}).to_string()).unwrap();
        world.model.on("delegate", vec![
            // On a slow machine, a line of progress would come between the answer and the end of its line.
            Reply::bash(kugetsu("start 2 'the first of the child' --progress never")),
            Reply::bash(kugetsu("continue 1 'for ever' --wait")),
            Reply::bash(kugetsu("start 3 'the long work' --detach")),
            Reply::bash(kugetsu("wait 2")),
            Reply::text("delegated"),
        ]);
        world.model.on("first of the child", vec![Reply::bash("env | sort"), Reply::text("the child answers")]);
        world.model.on("long work", vec![Reply::text("the long work is done").behind(&gate)]);
        let words = ["start", "1", "delegate", "--answers", answers.to_str().unwrap()];
        run_in(world, &[], &words).expect_status(0);
        let told = told(world, "delegate");
        for (place, words) in [
            (0, &["the child answers\n", "status 0\n"][..]),
            (1, &["wait for itself", "status 75\n"]),
            (2, &["status 0\n"]),
            (3, &["the child answers\n", "status 0\n"]),
        ] {
            assert!(words.iter().all(|word| told[place].contains(word)), "{place}: {}", told[place]);
        }
        let environment = &world.model.turn_requests_with("first of the child").last().unwrap().tool_results()[0];
        assert!(environment.contains("KUGETSU_REF=github.com/shoko/kugetsu#2\n"), "{environment}");
        for leaked in ["a-secret", "DEPLOY_KEY", "kugetsu#1\n"] {
            assert!(!environment.contains(leaked), "{leaked}: {environment}");
        }
        // The first turn is over, and so is all that it started but the detached turn.
        gate.wait_arrived(SOON);
        assert_eq!(state_of(world, "3"), "running");
        gate.open();
        assert_eq!(run(world, ["wait", "3"]).expect_status(0).stdout(), "the long work is done\n");
        for issue in ["2", "3"] {
            let parent = last(world, issue)["parent"].clone();
            assert_eq!((&parent["turn"], &parent["depth"]), (&last(world, "1")["turn"], &json!(1)));
        }
        world.wait_nothing_left(SOON);
    }

    fn the_turn_of_a_tool_that_opencode_kills_ends_in_order(world: &World) {
        world.make_base();
        let gate = Gate::new();
        world.model.on("delegate", vec![Reply::bash(kugetsu("start 2 'the child'")), Reply::text("never")]);
        world.model.on("the child", vec![Reply::text("never").behind(&gate)]);
        let parent = world.spawn(["start", "1", "delegate"]);
        gate.wait_arrived(SOON);
        // opencode ends its tools: SIGTERM to the process group of the tool, then SIGKILL.
        run(world, ["signal", "1", "pause"]).expect_status(0);
        let ended = wait_for_turns(world, "2", 1);
        assert_eq!((&ended["verdict"], &ended["reason"]), (&json!("aborted"), &json!("terminated")));
        run(world, ["stop", "1"]).expect_status(0);
        parent.wait(SOON).expect_status(143);
        world.wait_nothing_left(SOON);
    }

    fn the_death_of_a_supervisor_ends_no_opencode_of_another_session(world: &World) {
        world.make_base();
        let (behind, beside) = (Gate::new(), Gate::new());
        world.model.on("delegate", vec![
            Reply::bash(kugetsu("start 2 'behind it' --detach")),
            Reply::bash(kugetsu("start 3 'beside it'")),
            Reply::text("never"),
        ]);
        world.model.on("behind it", vec![Reply::text("still here").behind(&behind)]);
        world.model.on("beside it", vec![Reply::text("never").behind(&beside)]);
        let parent = world.spawn(["start", "1", "delegate"]);
        behind.wait_arrived(SOON);
        beside.wait_arrived(SOON);
        parent.kill9();
        let ended = wait_for_turns(world, "3", 1);
        assert_eq!((&ended["verdict"], &ended["reason"]), (&json!("aborted"), &json!("terminated")));
        // This sweeps what the first turn has left.
        run(world, ["continue", "1", "go on"]).expect_status(0);
        assert_eq!(state_of(world, "2"), "running");
        behind.open();
        assert_eq!(run(world, ["wait", "2"]).expect_status(0).stdout(), "still here\n");
        assert_eq!(last(world, "2")["restarts"], 0);
        world.wait_nothing_left(SOON);
    }

    fn turns_of_tools_count_against_budget_and_depth(world: &World) {
        world.make_base();
        world.model.on("delegate", vec![
            Reply::bash(kugetsu("start 2 'the child'")),
            Reply::bash("echo too late"),
            Reply::text("never"),
        ]);
        world.model.on("the child", vec![Reply::bash(kugetsu("start 3 'too deep'")), Reply::text("the child is done")]);
        let most = (usage::COST * 2.5).to_string();
        let words = ["start", "1", "delegate", "--max-cost", &most, "--output", "json"];
        let result = run_in(world, &[("KUGETSU_MAX_DEPTH", "1")], &words);
        let reason = text(&result.expect_status(1).json()["reason"]);
        assert!(reason.starts_with("budget: ") && reason.contains("by turns that it began"), "{reason}");
        assert_eq!(last(world, "2")["verdict"], "completed", "it alone is within the budget");
        let told = told(world, "the child");
        assert!(told[0].contains("max_depth is 1") && told[0].contains("status 64"), "{told:?}");
        assert!(record(world, "3").is_none());
        world.wait_nothing_left(SOON);
    }
}
