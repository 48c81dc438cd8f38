//! Texts of any size: what is read has a limit, and a text beyond it is never taken for a whole one.

use crate::support::kit::{fake_world, record, run, scripted_world};
use kugetsu_testing::{FakeScript, Output, Stdin, Step, World};
use serde_json::json;

const MIB: usize = 1 << 20;

fn turn(world: &World) -> Output {
    run(
        world,
        ["start", "14", "hello", "--transport", "run", "--output", "json"],
    )
}

#[test]
fn an_answer_of_seven_megabytes_is_whole() {
    let world = scripted_world(&FakeScript::steps([Step::Answer("x".repeat(7 * MIB))]));
    let output = turn(&world);
    output.expect_status(0);
    assert_eq!(output.json()["answer"].as_str().map(str::len), Some(7 * MIB));
    assert_eq!(output.json()["log_gap"], json!(null));
    let shown = run(&world, ["logs", "14", "--answer"]).expect_status(0).stdout();
    assert_eq!(shown.trim_end().len(), 7 * MIB);
}

#[test]
fn an_answer_that_opencode_did_not_write_is_taken_from_its_database() {
    let (first, long) = ("the first step", "0123456789abcde\n".repeat(MIB / 2));
    for (before, text, printed) in [
        (None, long.as_str(), 300_000),
        (None, "short", 200),
        (None, "nothing of it is printed", 0),
        (Some(first), "the second step", 300),
    ] {
        let mut steps = Vec::new();
        if let Some(before) = before {
            let part = json!({"type": "text", "id": "prt_0", "text": before});
            steps.push(Step::step_start());
            steps.push(Step::Event {
                kind: "text".to_owned(),
                part,
            });
            steps.push(Step::step_finish("tool-calls", 0.0));
        }
        steps.push(Step::TornAnswer(text.to_owned(), printed));
        let world = scripted_world(&FakeScript::steps(steps));
        let result = turn(&world).expect_status(0).json();
        assert_eq!(result["verdict"], "completed");
        let answer = result["answer"].as_str().unwrap_or_default();
        assert!(answer == text, "{} of {} bytes", answer.len(), text.len());
        let shown = run(&world, ["logs", "14", "--answer"]).expect_status(0).stdout();
        assert!(
            shown.trim_end().ends_with(text.trim_end()),
            "{} bytes are shown",
            shown.len()
        );
    }
}

#[test]
fn a_longer_answer_than_is_read_is_never_taken_for_a_whole_one() {
    let world = scripted_world(&FakeScript::steps([
        Step::step_start(),
        Step::BigLine(64 * MIB),
        Step::Answer(String::new()),
    ]));
    let output = turn(&world);
    let result = output.expect_status(73).json();
    assert_eq!(
        (&result["verdict"], &result["answer"]),
        (&json!("completed"), &json!("")),
        "{output}"
    );
    let why = result["log_gap"].as_str().unwrap_or_default();
    assert!(why.contains("too long to be read"), "{output}");
    assert!(
        output.stderr().contains("for the whole text: kugetsu attach"),
        "{output}"
    );
    // Pieces that are short enough, and too many of them.
    let pieces = Step::Flood {
        lines: 40,
        bytes: MIB,
    };
    world.fake(&FakeScript::steps([
        Step::step_start(),
        pieces,
        Step::Answer("end".to_owned()),
    ]));
    let output = run(
        &world,
        [
            "continue",
            "14",
            "hello",
            "--transport",
            "run",
            "--output",
            "json",
        ],
    );
    let result = output.json();
    let kept = result["answer"].as_str().map_or(0, str::len);
    assert!(kept <= 16 * MIB, "{kept} bytes of the answer are kept");
}

#[test]
fn the_error_of_a_provider_is_cut_and_the_raw_log_has_all_of_it() {
    let world = fake_world();
    let page = format!("begin{}end-of-page", "<p>it broke</p>\n".repeat(400_000));
    world.fake(&FakeScript::steps([
        Step::step_start(),
        Step::Error {
            name: "APIError".to_owned(),
            message: page,
        },
    ]));
    let output = turn(&world);
    let result = output.expect_status(1).json();
    let reason = result["reason"].as_str().unwrap_or_default();
    assert!(
        reason.starts_with("APIError: begin<p>it broke</p> <p>"),
        "{reason}"
    );
    assert!(
        reason.ends_with("... (the whole text: kugetsu logs github.com/shoko/kugetsu#14 --raw)"),
        "{reason}"
    );
    assert!(reason.len() < 800, "{reason}");
    assert!(output.stderr().len() < 4096, "{}", output.stderr());
    let record = record(&world, "14").expect("a record");
    assert!(
        record.to_string().len() < 64 * 1024,
        "the record has {} bytes",
        record.to_string().len()
    );
    assert_eq!(record["last"]["reason"], reason);
    for words in [
        &["show", "14"][..],
        &["logs", "14"],
        &["show", "14", "--turns"],
        &["query"],
    ] {
        let shown = run(&world, words.iter().copied());
        let size = shown.stdout().len() + shown.stderr().len();
        assert!(size < 16 * 1024, "{words:?} prints {size} bytes");
    }
    let raw = run(&world, ["logs", "14", "--raw"]).expect_status(0).stdout();
    assert!(raw.contains("end-of-page"), "the raw log has {} bytes", raw.len());
}

#[test]
fn json_that_no_text_can_hold_or_that_contradicts_itself_has_a_defined_answer() {
    let line = |part: &str| format!("{{\"type\":\"text\",\"sessionID\":\"ses_x\",\"part\":{part}}}\n");
    let (open, close) = ("[".repeat(5000), "]".repeat(5000));
    let deep = format!(
        "{{\"type\":\"tool_use\",\"sessionID\":\"ses_x\",\"part\":{{\"tool\":\"bash\",\"callID\":\"call_1\",\
         \"state\":{{\"status\":\"completed\",\"input\":{open}1{close}}}}}}}\n"
    );
    world_with_lines(&[
        line(r#"{"id":"prt_1","text":"half \ud83d of a pair, \ud83d\ude00 whole"}"#),
        line(r#"{"id":"prt_3","text":"one","text":"two"}"#),
        deep,
        line(r#"{"id":"prt_4","text":"a number","time":1e999}"#),
    ]);
}

/// Checks that the first line is a part of the answer, and that the others, which are not valid, are only diagnostics.
#[track_caller]
fn world_with_lines(lines: &[String]) {
    let steps = lines.iter().cloned().map(Step::Raw);
    let steps = steps.chain([Step::Answer(String::new())]).collect::<Vec<_>>();
    let world = scripted_world(&FakeScript::steps([vec![Step::step_start()], steps].concat()));
    let output = turn(&world);
    output.expect_status(0);
    let events = run(&world, ["logs", "14", "--json"])
        .expect_status(0)
        .json_lines();
    let texts: Vec<_> = events
        .iter()
        .filter(|event| event["type"] == "message_end")
        .filter_map(|event| event["text"].as_str())
        .filter(|text| !text.is_empty())
        .collect();
    assert_eq!(texts, ["half \u{fffd} of a pair, \u{1f600} whole"], "{output}");
    let diagnostics = events
        .iter()
        .filter(|event| event["level"] == "diagnostic")
        .count();
    assert_eq!(diagnostics, lines.len() - 1, "{output}");
}

#[test]
fn input_beyond_its_limit_is_refused_before_anything_begins() {
    let world = fake_world();
    let file = world.root().join("huge");
    std::fs::write(&file, "x".repeat((8 << 20) + 1)).unwrap();
    let path = file.to_str().expect("a path in UTF-8");
    for words in [
        &["init", "--force", "--prompt-file", path][..],
        &["start", "14", "hello", "--answers", path],
    ] {
        let output = run(&world, words.iter().copied());
        assert!(
            output.expect_status(64).stderr().contains("it has more than"),
            "{output}"
        );
    }
    let output = world.run_with(["start", "14", "-"], Stdin::Bytes(std::fs::read(&file).unwrap()));
    assert!(
        output
            .expect_status(64)
            .stderr()
            .contains("it has more than 8 MiB"),
        "{output}"
    );
    // Without an end.
    let output = run(&world, ["start", "14", "hello", "--answers", "/dev/zero"]);
    assert!(
        output
            .expect_status(64)
            .stderr()
            .contains("it has more than 1 MiB"),
        "{output}"
    );
    std::fs::copy(&file, world.kugetsu_home().join("config.toml")).unwrap();
    let output = run(&world, ["list"]);
    assert!(output.stderr().contains("it has more than 1 MiB"), "{output}");
    assert!(record(&world, "14").is_none());
}
