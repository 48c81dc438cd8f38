//! The end of a turn when the model's provider refuses, and when a tool takes long: the same verdict, reason and exit
//! status on both transports and both real versions, regardless of opencode's own exit status. `real/hangs.rs` covers
//! turns that would never end.

use crate::support::case::{Case, SOON, expect};
use kugetsu_testing::Reply;

on_every_combination! {
    fn a_refusal_of_the_model_is_a_failure(case: &Case) {
        for (issue, code, words) in [("#1", 401, "no such key"), ("#2", 400, "no such thing")] {
            case.model.on(issue, vec![Reply::status(code, words)]);
            let output = case.turn("start", issue, &[&format!("refuse {issue}")]);
            expect(&output, 1, "failed", words);
            assert_eq!(output.json()["steps"], 0, "{output}");
        }
        let output = case.turn("start", "#3", &["--model", "scripted/none", "use what is not there"]);
        expect(&output, 1, "failed", "scripted/none");
        assert!(output.json()["notes"][0].as_str().unwrap_or_default().contains("--model"), "{output}");
        let output = case.turn("start", "#4", &["--model", "none", "whose model"]);
        output.expect_status(64);
        assert!(output.stderr().contains("PROVIDER/MODEL"), "{output}");
        case.wait_nothing_left(SOON);
    }

    fn an_agent_that_there_is_not_is_a_failure(case: &Case) {
        case.model.on("whose work", vec![Reply::text("the default agent's")]);
        let output = case.turn("start", "#1", &["--agent", "nosuch", "whose work"]);
        expect(&output, 1, "failed", "nosuch");
        assert_ne!(output.json()["answer"], "the default agent's", "{output}");
        case.wait_nothing_left(SOON);
    }

    fn a_running_tool_is_no_stall(case: &Case) {
        // The limit leaves room for the start of opencode on a busy machine, and the tool runs longer than the limit.
        let command = "end=$(($(date +%s) + 34)); while [ $(date +%s) -lt $end ]; do sleep 1; done; echo slept";
        case.model.on("take long", vec![Reply::bash(command), Reply::text("rested")]);
        let output = case.turn("start", "#1", &["--stall-timeout", "30s", "take long"]);
        expect(&output, 0, "completed", "");
        assert_eq!(output.json()["answer"], "rested", "{output}");
    }
}
