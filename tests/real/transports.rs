//! The contract of the transports, on both transports and both real versions: what the model receives, what the user
//! gets back, what a session holds, and how a turn ends.

mod endings;
mod private;
mod restart;
mod signals;

use std::time::Duration;

use crate::support::case::{Case, SOON, expect};
use kugetsu_testing::{Gate, Reply, Request, Stdin, Version, usage, without_mark};
use serde_json::{Value, json};

fn close(value: &Value, wanted: f64) {
    let value = value.as_f64().unwrap_or(f64::NAN);
    assert!((value - wanted).abs() < 1e-9, "{value} is not {wanted}");
}

/// The token usage of this many answered requests.
fn tokens(requests: u64) -> Value {
    json!({
        "input": requests * (usage::INPUT - usage::CACHED),
        "output": requests * usage::OUTPUT,
        "reasoning": 0,
        "cache_read": requests * usage::CACHED,
        "cache_write": 0,
    })
}

on_every_combination! {
    fn a_long_answer_is_whole(case: &Case) {
        // Seven megabytes in pieces, and in one piece.
        let piece = "0123456789abcde\n".repeat(1 << 16);
        let whole = piece.repeat(7);
        case.model.on("in pieces", vec![Reply::chunks(vec![piece; 7], Duration::ZERO)]);
        case.model.on("at once", vec![Reply::text(whole.clone())]);
        for (verb, words) in [("start", "in pieces"), ("continue", "at once")] {
            let output = case.turn(verb, "#1", &[words]);
            output.expect_status(0);
            let result = output.json();
            assert_eq!(result["verdict"], "completed", "{words}");
            // opencode drops the line feed at the end.
            let answer = result["answer"].as_str().unwrap_or_default();
            assert!(answer.trim_end() == whole.trim_end(), "{words}: {} bytes", answer.len());
        }
    }

    fn answers_and_counts(case: &Case) {
        case.model.on("call it", vec![
            Reply::bash("echo from the tool"),
            Reply::chunks(["it ", "works"], Duration::from_millis(20)),
        ]);
        let first = case.turn("start", "#1", &["call it"]);
        expect(&first, 0, "completed", "");
        let result = first.json();
        assert_eq!(result["answer"], "it works", "{first}");
        assert_eq!(result["transport"], case.transport);
        assert_eq!((&result["steps"], &result["tool_calls"]), (&json!(2), &json!(1)), "{first}");
        assert_eq!(result["tokens"], tokens(2), "{first}");
        close(&result["cost_usd"], 2.0 * usage::COST);
        assert_eq!(case.model.turn_requests()[1].tool_results(), ["from the tool\n"]);

        let second = case.turn("continue", "#1", &["once more"]);
        expect(&second, 0, "completed", "");
        let result = second.json();
        assert_eq!(result["answer"], "done", "{second}");
        assert_eq!(result["tokens"], tokens(1), "{second}");
        close(&result["cost_usd"], usage::COST);
        let record = case.record(1);
        for totals in [&result["totals"], &record["totals"]] {
            assert_eq!(totals["turns"], 2);
            assert_eq!(totals["tokens"], tokens(3));
            close(&totals["cost_usd"], 3.0 * usage::COST);
        }
        assert_eq!(record["last"]["tokens"], tokens(1));
        assert_eq!(record["session"], result["session"]);
        // The second turn continues where the first one ended.
        let last = case.model.turn_requests_with("once more").pop().unwrap();
        assert_eq!(last.user_texts().len(), 2, "{:?}", last.user_texts());
        assert!(last.assistant_texts().iter().any(|text| text == "it works"));

        // The session was deleted without kugetsu: nothing is sent, and no other session is continued instead.
        let id = case.row(1).id;
        case.sql_write(&format!("DELETE FROM session WHERE id = '{id}'"));
        let asked = case.model.turn_requests().len();
        let output = case.turn("continue", "#1", &["hello again"]);
        output.expect_status(66);
        assert!(output.stderr().contains(&id), "{output}");
        assert_eq!(case.model.turn_requests().len(), asked);
        case.wait_nothing_left(SOON);
    }

    fn prompts_arrive_byte_for_byte(case: &Case) {
        let nasty = "--flag -x \"double\" 'single' $(touch gone) `touch gone` \\ \\n %s {} \u{1f980} e\u{301}\t\r\n\r\n  -- end \n\n";
        let line = "0123456789 \u{1f980} \"quoted\" $(x)\n";
        let large = format!("\n\n - {}{nasty}", line.repeat((1 << 20) / line.len() + 1));
        assert!(large.len() > 1 << 20);
        expect(&case.turn("start", "#1", &["--", nasty]), 0, "completed", "");
        let output = case.turn_with("continue", "#1", &["-"], Stdin::text(large.as_str()));
        expect(&output, 0, "completed", "");
        // `run` of 1.3.2 adds one line feed before the prompt on its stdin; nothing else ever differs.
        let added = match (case.transport, case.version) {
            ("run", Version::V1_3_2) => "\n",
            _ => "",
        };
        let arrived: Vec<String> = case.model.turn_requests().iter().map(Request::last_user_text).collect();
        assert_eq!(arrived.len(), 2);
        for (arrived, sent) in arrived.iter().zip([nasty, &large]) {
            // With `run`, the first prompt has the mark of the fork that is made with it.
            let arrived = without_mark(arrived);
            let same = arrived.strip_prefix(added) == Some(sent);
            let head = |text: &str| text.chars().take(200).collect::<String>();
            assert!(same, "{} bytes {:?} instead of {} bytes {:?}", arrived.len(), head(arrived), sent.len(), head(sent));
        }
        assert!(!case.repo().join("gone").exists());
    }

    fn a_fork_carries_policy_directory_and_title(case: &Case) {
        let gate = Gate::new();
        case.model.on("look", vec![Reply::text("seen").behind(&gate)]);
        let running = case.begin("start", "#7", &["look"]);
        gate.wait_arrived(SOON);
        if case.transport == "run" {
            // The environment covers the first prompt; the row is written after the fork.
            let id = || case.record(7)["session"].as_str().map(str::to_owned);
            case.wait_until("the row has rules", SOON, || id().is_some_and(|id| case.session(&id).permission.is_some()));
        }
        let (record, row) = (case.record(7), case.row(7));
        gate.open();
        expect(&running.wait(SOON), 0, "completed", "");
        let rules: Value = serde_json::from_str(&row.permission.expect("the fork has rules")).unwrap();
        let shown = case.to_end(["permit", "#7", "--json"], Stdin::Null).json();
        assert_eq!(rules, shown["effective"], "{shown:#}");
        assert!(rules.as_array().unwrap().contains(&json!({"permission": "question", "pattern": "*", "action": "deny"})));
        assert_eq!(row.directory, case.repo().to_str().unwrap());
        assert_eq!(case.row(7).title, "github.com/shoko/kugetsu#7");
        assert_eq!(record["live"]["transport"], case.transport);
        // The model is told its issue in the system prompt, and the message is unchanged.
        let asked = &case.model.turn_requests()[0];
        let told = asked.system_text();
        for words in [
            "the issue github.com/shoko/kugetsu#7: https://github.com/shoko/kugetsu/issues/7\n",
            "unattended",
            "refused: question",
        ] {
            assert!(told.contains(words), "{words}\n{told}");
        }
        assert!(!told.contains("worktree is"), "{told}");
        assert_eq!(without_mark(&asked.last_user_text()).trim(), "look");
        // opencode did not change the row afterwards, and did not offer the tool.
        assert_eq!(case.row(7).title, "github.com/shoko/kugetsu#7");
        let offered = case.model.turn_requests()[0].tool_names();
        assert!(!offered.iter().any(|tool| tool == "question"), "{offered:?}");
    }

    fn a_subagent_that_asks_hangs_nothing(case: &Case) {
        let ask = Reply::tool("question", json!({"questions": [{
            "question": "Which one?", "header": "Which", "options": [{"label": "A", "description": "a"}],
        }]}));
        case.model.on("delegate", vec![
            Reply::tool("task", json!({
                "description": "ask for me", "prompt": "subagent, ask", "subagent_type": "general",
            })),
            Reply::text("the subagent is back"),
        ]);
        case.model.on("subagent, ask", vec![ask, Reply::text("asked")]);
        let output = case.turn("start", "#2", &["delegate"]);
        expect(&output, 0, "completed", "");
        assert_eq!(output.json()["answer"], "the subagent is back", "{output}");
        assert_eq!(case.model.turn_requests_with("subagent, ask").len(), 2);
        case.wait_nothing_left(SOON);
    }
}
