//! `sessions-example/` matches the code: its files have the fields and types that the code writes today. The engine's
//! tests check that the code reads them. After a change, `cargo xtask example` writes it again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kugetsu_testing::{FakeScript, ForgeServer, Opencode, ScriptedIssue, ServeMode, Step, World, example};
use serde_json::{Value, json};

const REPO: &str = "sessions/github.com/shoko/kugetsu";

/// The structure of a value: only fields and types.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(_) => json!("bool"),
        Value::Number(number) if number.is_f64() => json!("float"),
        Value::Number(_) => json!("integer"),
        Value::String(_) => json!("string"),
        // The distinct shapes of the items.
        Value::Array(items) => {
            let shapes: BTreeMap<_, _> = items
                .iter()
                .map(shape)
                .map(|one| (one.to_string(), one))
                .collect();
            shapes.into_values().collect()
        }
        // The error in the proof is opencode's own.
        Value::Object(fields) if fields.contains_key("last_events") => json!("proof"),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (key(name), shape(value)))
            .collect(),
    }
}

/// Replaces a day, because the example's days are in the past.
fn key(name: &str) -> String {
    let day = name.parse::<jiff::civil::Date>().is_ok();
    if day { "a day".to_owned() } else { name.to_owned() }
}

/// The shapes of the events in a stream, by their type.
fn events(home: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut shapes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in example::text(home, &example::stream(home)).lines() {
        let mut event: Value = serde_json::from_str(line).unwrap();
        // A tool's arguments depend on the tool, and `serve` reports a call before its arguments are complete.
        if let Some(input) = event.get_mut("input") {
            *input = Value::Null;
        }
        let kind = event["type"].as_str().unwrap().to_owned();
        shapes.entry(kind).or_default().insert(shape(&event).to_string());
    }
    shapes
}

#[test]
fn it_has_the_structure_of_what_is_written_today() {
    let world = World::with_worktrees(Opencode::Fake);
    let call = json!({
        "type": "tool", "id": "prt_1", "callID": "call_1", "tool": "bash",
        "state": {
            "status": "completed", "title": "git log", "output": "a commit\n", "metadata": {},
            "input": { "command": "git log --oneline", "description": "a scripted command" },
            "time": { "start": 1, "end": 2 },
        },
    });
    let calls = Step::Event {
        kind: "tool_use".to_owned(),
        part: call,
    };
    let refused = Step::Error {
        name: "APIError".to_owned(),
        message: "invalid key".to_owned(),
    };
    let test =
        "mkdir tests; seq 12 > tests/crash.rs; git add tests; git commit --quiet --message 'Test the crash'";
    let script = FakeScript {
        serve: ServeMode::Sessions,
        ..FakeScript::default()
    };
    world.fake(
        &script
            .on("fix the crash", [calls, Step::Answer("done".to_owned())])
            .on(
                "now add a test",
                [Step::Shell(test.to_owned()), Step::Answer("done".to_owned())],
            )
            .on("badkey", [refused]),
    );
    let forge = ForgeServer::start();
    forge.github("shoko/kugetsu", 14, &ScriptedIssue::new("It crashes", "", &[]));
    let config = std::fs::read_to_string(example::folder().join("config.toml")).unwrap();
    let forges = format!("\n[forges.\"github.com\"]\napi_url = \"{}\"\n", forge.url());
    std::fs::write(world.kugetsu_home().join("config.toml"), config + &forges).unwrap();
    let kugetsu = |arguments: &[&str], status: i32| {
        let mut command = world.kugetsu(arguments);
        command.env("KUGETSU_TRANSPORT", "run");
        world
            .finish(command, kugetsu_testing::Stdin::Null)
            .expect_status(status);
    };
    kugetsu(&["init"], 0);
    let start = [
        "start",
        "github.com/shoko/kugetsu#14",
        "fix the crash",
        "--with-issue",
    ];
    kugetsu(&start, 0);
    kugetsu(&["continue", "github.com/shoko/kugetsu#14", "now add a test"], 0);
    kugetsu(
        &["start", "https://github.com/shoko/kugetsu/issues/15", "badkey"],
        1,
    );
    let home = world.kugetsu_home();

    let same = |name: &str, parse: fn(&str) -> Value| {
        let of = |home: &Path| shape(&parse(&example::text(home, name)));
        assert_eq!(of(&example::folder()), of(&home), "{name}");
    };
    let whole = |text: &str| serde_json::from_str(text).unwrap();
    let lines = |text: &str| {
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .collect()
    };
    same("index.json", whole);
    for record in ["base", "14", "15"] {
        same(&format!("{REPO}/{record}.json"), whole);
    }
    for issue in ["14", "15"] {
        same(&format!("{REPO}/{issue}/turns.jsonl"), lines);
    }
    let mut shown = events(&example::folder());
    // `opencode run`, which the fake plays, reports a tool only when it has ended.
    shown.remove("tool_execution_update").expect("one in the example");
    assert_eq!(shown, events(&home));
}
