//! opencode is killed in the middle of a turn: it is restarted, and no prompt reaches the model twice. Both transports,
//! both real versions.

use kugetsu_testing::{Gate, Reply};

use super::signals::signal_opencode;
use crate::support::case::{Case, SOON, expect};

on_every_combination! {
    fn a_crash_is_survived_and_the_prompt_is_not_sent_again(case: &Case) {
        let gate = Gate::new();
        case.model.on("the one prompt", vec![Reply::text("cut off").behind(&gate)]);
        case.model.on("Go on where you stopped", vec![Reply::text("gone on")]);
        let running = case.begin("start", "#1", &["--max-restarts", "1", "the one prompt"]);
        gate.wait_arrived(SOON);
        signal_opencode(case, "-KILL");
        let output = running.wait(SOON);
        expect(&output, 0, "completed", "");
        assert_eq!(output.json()["restarts"], 1, "{output}");
        assert!(output.json()["answer"].as_str().unwrap().contains("gone on"), "{output}");
        let last = case.model.turn_requests().pop().unwrap();
        let prompts = last.user_texts();
        let sent = prompts.iter().filter(|text| text.contains("the one prompt")).count();
        assert_eq!(sent, 1, "{prompts:?}");

        let gate = Gate::new();
        case.model.on("once more", vec![Reply::text("cut off").behind(&gate)]);
        let running = case.begin("continue", "#1", &["--max-restarts", "0", "once more"]);
        gate.wait_arrived(SOON);
        signal_opencode(case, "-KILL");
        expect(&running.wait(SOON), 1, "failed", "signal");
        case.wait_nothing_left(SOON);
    }
}
