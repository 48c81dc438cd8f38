//! How a turn ends when the model's provider fails, is silent or asks to wait: the same verdict, reason and exit
//! status on both transports and both real versions, whatever opencode's own exit status says.

use crate::case::{Case, SOON, expect};
use kugetsu_testing::{Reply, Version};

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
        case.wait_nothing_left(SOON);
    }

    fn a_model_without_end_loops_stalls_or_times_out(case: &Case) {
        case.model.on("silence", vec![Reply::Hang]);
        let output = case.turn("start", "#1", &["--stall-timeout", "3s", "--grace", "1s", "silence"]);
        expect(&output, 1, "stalled", "3s");
        let output = case.turn("start", "#2", &["--timeout", "5s", "--grace", "1s", "silence"]);
        expect(&output, 1, "timeout", "5s");

        case.model.on("cut", vec![Reply::CutShort { text: "half an ".to_owned() }]);
        let output = case.turn("start", "#3", &["--max-steps-without-progress", "3", "cut it"]);
        expect(&output, 1, "looping", "3 steps");
        // What opencode had begun before it heard of the end may still have been asked.
        let asked = case.model.turn_requests_with("cut it").len();
        assert!((3..=6).contains(&asked), "{asked} requests\n{output}");
        case.wait_nothing_left(SOON);
    }

    fn a_running_tool_is_no_stall(case: &Case) {
        let command = "end=$(($(date +%s) + 15)); while [ $(date +%s) -lt $end ]; do sleep 1; done; echo slept";
        case.model.on("take long", vec![Reply::bash(command), Reply::text("rested")]);
        let output = case.turn("start", "#1", &["--stall-timeout", "12s", "take long"]);
        expect(&output, 0, "completed", "");
        assert_eq!(output.json()["answer"], "rested", "{output}");
    }

    fn a_provider_that_asks_to_wait_is_a_quota(case: &Case) {
        for (issue, code) in [("#1", 429), ("#2", 500)] {
            let words = format!("come back later {code}");
            case.model.on(issue, vec![Reply::status(code, &words)]);
            let limits = ["--max-quota-wait", "3s", "--grace", "1s"];
            let prompt = format!("wait {issue}");
            let output = case.turn("start", issue, &[&limits[..], &[&prompt]].concat());
            expect(&output, 75, "quota", &words);
        }
        case.wait_nothing_left(SOON);
    }

    fn no_model_at_all_ends_within_the_limit(case: &Case) {
        std::fs::remove_file(case.repo().join("opencode.json")).unwrap();
        let output = case.turn("start", "#1", &["--max-quota-wait", "1s", "--grace", "1s", "who answers?"]);
        // Both take a model of their own, which they cannot reach without a network; 1.18.33 tries again.
        match case.version {
            Version::V1_3_2 => expect(&output, 1, "failed", "onnect"),
            Version::V1_18_33 => expect(&output, 75, "quota", "onnect"),
        }
        assert_eq!(case.model.turn_requests().len(), 0);
        case.wait_nothing_left(SOON);
    }
}
