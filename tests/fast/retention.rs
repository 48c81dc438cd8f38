//! What stays on the disk: logs of chatty turns, errors of any size, `gc`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::support::kit::{
    SOON, has_lease, record, record_path, refused, run, run_in, scripted_world, snapshot, start,
};
use kugetsu_testing::{FakeScript, Signal, Step, World};
use serde_json::{Value, json};

/// The files of an issue's turns with this ending.
fn logs(world: &World, issue: &str, ending: &str) -> Vec<PathBuf> {
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
    for (text, end) in [
        (&result["reason"], "--raw)"),
        (&result["proof"]["error"]["data"]["message"], mark.as_str()),
    ] {
        let text = text.as_str().unwrap();
        assert!(
            text.contains("<p>Bad Gateway</p>") && text.ends_with(end),
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

/// The ids of an issue's turns, oldest first.
fn turns(world: &World, issue: &str) -> Vec<String> {
    let shown = run(world, ["show", issue, "--turns", "--json"]).json();
    let list = shown["turn_list"].as_array().unwrap();
    list.iter()
        .map(|turn| turn["turn"].as_str().unwrap().to_owned())
        .collect()
}

/// A session of three turns. The logs of the first two are as an old version left them, three days ago.
fn aged(world: &World) -> Vec<String> {
    start(world, "1", "first");
    run(world, ["continue", "1", "second"]).expect_status(0);
    run(world, ["continue", "1", "third"]).expect_status(0);
    let turns = turns(world, "1");
    for turn in &turns[..2] {
        let folder = record_path(world, "1").with_extension("");
        let plain = folder.join(format!("{turn}.raw.log"));
        std::fs::remove_file(folder.join(format!("{turn}.raw.log.zst"))).unwrap();
        std::fs::write(&plain, format!("what opencode said in {turn}\n").repeat(100_000)).unwrap();
        let stream = folder.join(format!("{turn}.events.jsonl"));
        for path in [plain, stream] {
            let file = std::fs::File::options().append(true).open(path).unwrap();
            let days = Duration::from_hours(3 * 24);
            file.set_modified(SystemTime::now() - days).unwrap();
        }
    }
    turns
}

/// Everything that people and programs can read of these turns.
fn readable(world: &World, turns: &[String]) -> Vec<String> {
    let of = |turn: &String| {
        [
            vec!["logs", "1", "--turn", turn],
            vec!["logs", "1", "--turn", turn, "--json"],
            vec!["logs", "1", "--turn", turn, "--raw"],
            vec!["wait", "1", "--turn", turn],
            vec!["wait", "1", "--turn", turn, "--output", "json"],
        ]
        .map(|words| {
            let output = run(world, words);
            output.expect_status(0);
            assert!(!output.stdout().is_empty(), "{output}");
            output.stdout()
        })
    };
    turns.iter().flat_map(of).collect()
}

/// A world whose answers are long enough to be worth compressing.
fn talking_world() -> World {
    let words = "a word after another ".repeat(400);
    let script = ["first", "second", "third", "fourth"]
        .into_iter()
        .fold(FakeScript::default(), |script, prompt| {
            script.on(prompt, [Step::Answer(format!("{prompt}: {words}"))])
        });
    scripted_world(&script)
}

#[test]
fn gc_compresses_old_logs_and_every_reader_still_has_them() {
    let world = talking_world();
    let turns = aged(&world);
    let before = readable(&world, &turns);
    let untouched = snapshot(&world);
    let preview = run(&world, ["gc", "--dry-run", "--json"]).json();
    assert_eq!(preview["compressed"].as_array().unwrap().len(), 4, "{preview}");
    assert_eq!((&preview["removed"], &preview["trash"]), (&json!([]), &json!([])));
    assert!(
        run(&world, ["gc", "--dry-run"])
            .stdout()
            .contains("4 would be compressed")
    );
    assert_eq!(snapshot(&world), untouched);

    // Two at once, and one that is killed between the new log and the old one.
    run_in(&world, &[("KUGETSU_CRASH_AT", "log_compressed")], &["gc"]);
    let both = logs(&world, "1", ".raw.log").len() + logs(&world, "1", ".raw.log.zst").len();
    assert_eq!(both, 4);
    assert_eq!(readable(&world, &turns), before);
    let left = record_path(&world, "1").with_file_name("1/.tmp-7-0-left");
    std::fs::write(&left, "half a log").unwrap();
    let file = std::fs::File::options().append(true).open(&left).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_hours(1))
        .unwrap();
    let rivals = [world.spawn(["gc"]), world.spawn(["gc"])];
    for rival in rivals {
        rival.wait(SOON).expect_status(0);
    }
    assert!(!left.exists());
    assert_eq!(logs(&world, "1", ".raw.log"), Vec::<PathBuf>::new());
    assert_eq!(
        logs(&world, "1", ".events.jsonl").len(),
        1,
        "the newest stream is not compressed"
    );
    assert_eq!(readable(&world, &turns), before);
    let size = run(&world, ["show", "1", "--json"]).json()["size_bytes"]
        .as_u64()
        .unwrap();
    assert!(size < 60_000, "{size}");
    let sizes = &run(&world, ["doctor", "--json"]).json()["sizes"];
    assert!(sizes["logs_bytes"].as_u64().unwrap() < size, "{sizes}");
    assert!(run(&world, ["show", "1"]).stdout().contains("on disk"));

    // Compressed logs go to the trash and come back.
    run(&world, ["destroy", "1", "-y"]).expect_status(0);
    run(&world, ["restore", "1"]).expect_status(0);
    assert_eq!(readable(&world, &turns), before);
    let again = run(&world, ["gc", "--json"]).json();
    assert_eq!(
        (&again["compressed"], &again["removed"]),
        (&json!([]), &json!([]))
    );
    world.wait_nothing_left(SOON);
}

#[test]
fn logs_are_bounded_and_the_newest_turn_and_the_record_stay() {
    let world = talking_world();
    let turns = aged(&world);
    let newest = readable(&world, &turns[2..]);
    let of_record = record(&world, "1");
    // Age: the logs of the first two turns are three days old.
    let removed = run_in(&world, &[("KUGETSU_LOG_KEEP", "48h")], &["gc", "--json"]).json();
    assert_eq!(removed["removed"].as_array().unwrap().len(), 4, "{removed}");
    assert_eq!(readable(&world, &turns[2..]), newest);
    assert_eq!(record(&world, "1"), of_record);
    assert_eq!(self::turns(&world, "1"), turns);
    refused(&world, &["logs", "1", "--turn", &turns[0]], 66, &["log_keep"]);
    // A program is told that the answer is missing, not that there was none.
    let waited = run(&world, ["wait", "1", "--turn", &turns[0], "--output", "json"]);
    waited.expect_status(73);
    assert!(
        waited.json()["log_gap"].as_str().unwrap().contains("removed"),
        "{waited}"
    );

    // Size, of one session and of all.
    run(&world, ["continue", "1", "fourth"]).expect_status(0);
    start(&world, "2", "first");
    run(&world, ["continue", "2", "second"]).expect_status(0);
    run_in(&world, &[("KUGETSU_LOG_MAX_BYTES", "1")], &["gc"]).expect_status(0);
    for issue in ["1", "2"] {
        assert_eq!(logs(&world, issue, ".events.jsonl").len(), 1);
        assert_eq!(logs(&world, issue, ".raw.log.zst").len(), 1);
    }
    run(&world, ["continue", "2", "third"]).expect_status(0);
    run_in(&world, &[("KUGETSU_LOG_MAX_TOTAL_BYTES", "1")], &["gc"]).expect_status(0);
    assert_eq!(logs(&world, "2", ".events.jsonl").len(), 1);
    assert!(run(&world, ["logs", "2"]).stdout().starts_with("third"));
    assert!(run(&world, ["logs", "1"]).stdout().starts_with("fourth"));
}

#[test]
fn a_turn_tidies_the_logs_of_its_session_and_gc_leaves_a_running_turn_alone() {
    let world = talking_world();
    let turns = aged(&world);
    let before = readable(&world, &turns);
    world.fake(&FakeScript::default().on("wait", [tool("running", "so far"), Step::Hang]));
    let running = world.spawn(["continue", "1", "wait", "--transport", "run"]);
    world.wait_until("the session's old logs are compressed", SOON, || {
        logs(&world, "1", ".raw.log").is_empty() && logs(&world, "1", ".events.jsonl").len() == 2
    });
    assert_eq!(readable(&world, &turns), before);
    world.wait_until("the tool runs", SOON, || {
        run(&world, ["logs", "1", "--raw"]).stdout().contains("so far")
    });
    let all = [
        ("KUGETSU_LOG_MAX_BYTES", "0"),
        ("KUGETSU_LOG_MAX_TOTAL_BYTES", "0"),
        ("KUGETSU_LOG_KEEP", "0s"),
    ];
    run_in(&world, &all, &["gc"]).expect_status(0);
    assert!(has_lease(&world, "1"));
    assert!(run(&world, ["logs", "1", "--raw"]).stdout().contains("so far"));
    let stream = run(&world, ["logs", "1", "--json"]).stdout();
    assert!(stream.contains("tool_execution_start"), "{stream}");
    // The turn before it has the newest result.
    run(&world, ["logs", "1", "--turn", &turns[2]]).expect_status(0);
    refused(&world, &["logs", "1", "--turn", &turns[1]], 66, &["log_keep"]);
    running.signal(Signal::Terminate);
    running.wait(SOON);
    assert!(run(&world, ["logs", "1", "--json"]).stdout().contains("aborted"));
    world.wait_nothing_left(SOON);
}

#[test]
fn a_daemon_removes_by_itself_what_is_old() {
    let world = talking_world();
    let turns = aged(&world);
    start(&world, "2", "first");
    run(&world, ["destroy", "2", "-y"]).expect_status(0);
    let newest = readable(&world, &turns[2..]);
    let home = world.kugetsu_home();
    std::fs::write(
        home.join("config.toml"),
        "log_keep = \"48h\"\ntrash_keep = \"1s\"\n",
    )
    .unwrap();
    // Turns did a part of the work a moment ago.
    let stamp = std::fs::File::options()
        .append(true)
        .open(home.join("run/gc"))
        .unwrap();
    stamp
        .set_modified(SystemTime::now() - Duration::from_hours(48))
        .unwrap();
    world.start_daemon();
    world.wait_until("old logs and the trash are removed", SOON, || {
        logs(&world, "1", ".events.jsonl").len() == 1
            && logs(&world, "1", ".raw.log").is_empty()
            && run(&world, ["trash", "list", "--json"]).json()["entries"] == json!([])
    });
    assert_eq!(readable(&world, &turns[2..]), newest);
    refused(&world, &["logs", "1", "--turn", &turns[0]], 66, &["log_keep"]);
    world.wait_until("it says so", SOON, || {
        run(&world, ["daemon", "logs"]).stdout().contains("4 removed")
    });
}
