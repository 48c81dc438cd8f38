//! What stays on the disk: logs of chatty turns, errors of any size, `gc`.

use crate::support::kit::{SOON, record_path, run, scripted_world};
use kugetsu_testing::{FakeScript, Step, World};
use serde_json::{Value, json};

/// The files of an issue's turns with this ending.
fn logs(world: &World, issue: &str, ending: &str) -> Vec<std::path::PathBuf> {
    let folder = record_path(world, issue).with_extension("");
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    found.sort();
    found
}

/// An event of a bash call, with the whole output so far.
fn tool(status: &str, output: &str) -> Step {
    Step::Event {
        kind: "tool_use".to_owned(),
        part: json!({
            "id": "prt_1", "type": "tool", "callID": "call_1", "tool": "bash",
            "state": {
                "status": status,
                "input": {"command": "seq 1500"},
                "output": output,
                "metadata": {"output": output},
            },
        }),
    }
}

#[test]
fn a_chatty_tool_leaves_small_logs_that_have_everything() {
    let mut output = String::new();
    let mut steps = Vec::new();
    for number in 0..400 {
        output.push_str(&format!("line {number} of a tool that prints short lines\n"));
        steps.push(tool("running", &output));
    }
    steps.push(tool("completed", &output));
    steps.push(Step::Answer("done".to_owned()));
    let world = scripted_world(&FakeScript::default().on("be chatty", steps));
    run(&world, ["start", "1", "--transport", "run", "be chatty"]).expect_status(0);

    let stream = run(&world, ["logs", "1", "--json"]);
    let tools: Vec<Value> = stream
        .json_lines()
        .into_iter()
        .filter(|line| line["call"] == "call_1")
        .collect();
    let types: Vec<_> = tools.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["tool_execution_start", "tool_execution_end"]);
    assert_eq!(tools[1]["output"], output);

    let raw = run(&world, ["logs", "1", "--raw"]).stdout();
    assert!(raw.len() > 7_000_000, "{} bytes", raw.len());
    for number in [0, 200, 399] {
        assert!(raw.contains(&format!("line {number} of a tool that prints short lines\\n\"")));
    }
    let [log] = &*logs(&world, "1", ".raw.log.zst") else {
        panic!("not one raw log");
    };
    let kept = log.metadata().unwrap().len();
    assert!(kept < 200_000, "{kept} bytes");
    world.wait_nothing_left(SOON);
}

#[test]
fn an_error_of_any_size_is_cut_where_it_enters() {
    let page = "<p>Bad Gateway</p>".repeat(150_000);
    let steps = [
        Step::Error {
            name: "APIError".to_owned(),
            message: page.clone(),
        },
        Step::Exit(1),
    ];
    let world = scripted_world(&FakeScript::default().on("fail", steps));
    let output = world
        .spawn(["start", "1", "--transport", "run", "--output", "json", "fail"])
        .wait(SOON);
    output.expect_status(1);
    let mark = format!("[cut: {} bytes in all]", page.len());
    let result = output.json();
    for text in [&result["reason"], &result["proof"]["error"]["data"]["message"]] {
        let text = text.as_str().unwrap();
        assert!(
            text.contains("<p>Bad Gateway</p>") && text.ends_with(&mark),
            "{text}"
        );
    }
    assert!(output.stdout().len() < 20_000 && output.stderr().len() < 5_000);
    let stream = run(&world, ["logs", "1", "--json"]).stdout();
    assert!(stream.contains(&mark) && stream.len() < 30_000);
    assert!(record_path(&world, "1").metadata().unwrap().len() < 20_000);
    // opencode's own words are still there.
    assert!(run(&world, ["logs", "1", "--raw"]).stdout().len() > page.len());
}
