//! `sessions-example/` is a true example of kugetsu's home: its files mean to the code what they say, and they have
//! the fields and types of what the code writes today. When they have changed: `cargo xtask example` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kugetsu_api::{BaseRecord, SessionRecord, TurnRecord};
use kugetsu_engine::operations::Environment;
use kugetsu_engine::settings::Settings;
use kugetsu_engine::store::{Index, Store, record_text};
use kugetsu_engine::turn::stream::StreamLine;
use kugetsu_testing::{FakeScript, Opencode, ServeMode, Step, World};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const REPO: &str = "sessions/github.com/shoko/kugetsu";

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sessions-example")
}

fn text(home: &Path, name: &str) -> String {
    let path = home.join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file of the folder, by its path in it.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// The stream files of the first turn of issue 14.
fn stream(home: &Path) -> String {
    let folder = format!("{REPO}/14/");
    files(home)
        .into_iter()
        .find(|name| name.starts_with(&folder) && name.ends_with(".events.jsonl"))
        .expect("a stream")
}

#[test]
fn every_file_is_read_and_written_again_as_it_was() {
    fn file<T: DeserializeOwned>(name: &str, write: impl Fn(&T) -> serde_json::Result<Vec<u8>>) -> T {
        let text = text(&example(), name);
        let value: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = String::from_utf8(write(&value).unwrap()).unwrap();
        assert_eq!(again.trim_end(), text.trim_end(), "{name}");
        value
    }
    fn lines<T: Serialize + DeserializeOwned>(name: &str) -> usize {
        let text = text(&example(), name);
        for line in text.lines() {
            let value: T = serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(serde_json::to_string(&value).unwrap(), line, "{name}");
        }
        text.lines().count()
    }

    let index: Index = file("index.json", serde_json::to_vec_pretty);
    let base: BaseRecord = file(&format!("sessions/{}", index.base.unwrap()), record_text);
    let mut known: BTreeSet<String> = ["config.toml", "index.json"].map(str::to_owned).into();
    known.insert(format!("{REPO}/base.json"));
    for (reference, path) in index.issues {
        let record: SessionRecord = file(&format!("sessions/{path}"), record_text);
        assert_eq!(record.address.to_string(), reference);
        assert_eq!(record.base_session, base.session);
        let turns = format!("{REPO}/{}/turns.jsonl", record.address.issue().unwrap().number());
        assert_eq!(lines::<TurnRecord>(&turns) as u64, record.totals.turns);
        known.extend([format!("sessions/{path}"), turns]);
    }
    let stream = stream(&example());
    assert!(lines::<StreamLine>(&stream) > 5);
    known.insert(stream);
    assert_eq!(files(&example()), known, "a file that nothing checks");

    let config = Settings::load(&example().join("config.toml"), &Environment::default()).unwrap();
    assert_eq!(config.policy(), base.policy);
}

#[test]
fn the_store_finds_nothing_wrong_with_it() {
    let home = tempfile::tempdir().unwrap();
    for name in files(&example()) {
        let to = home.path().join(&name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(example().join(name), to).unwrap();
    }
    let store = Store::open(home.path().to_owned());
    assert_eq!(store.check(), []);
    assert_eq!(store.session_records().unwrap().found.len(), 2);
    let report = store.rebuild_index().unwrap();
    assert_eq!((report.bases, report.issues), (1, 2));
    assert_eq!(text(home.path(), "index.json"), text(&example(), "index.json"));
}

/// A value with nothing but its structure: fields and types.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(_) => json!("bool"),
        Value::Number(number) if number.is_f64() => json!("float"),
        Value::Number(_) => json!("integer"),
        Value::String(_) => json!("string"),
        // The different shapes in it, each once.
        Value::Array(items) => {
            let shapes: BTreeMap<_, _> = items
                .iter()
                .map(shape)
                .map(|one| (one.to_string(), one))
                .collect();
            shapes.into_values().collect()
        }
        // The error in a proof is opencode's own.
        Value::Object(fields) if fields.contains_key("last_events") => json!("proof"),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (key(name), shape(value)))
            .collect(),
    }
}

/// The example's days are not today.
fn key(name: &str) -> String {
    let day = name.parse::<jiff::civil::Date>().is_ok();
    if day { "a day".to_owned() } else { name.to_owned() }
}

/// The shapes of the events in a stream, by their type.
fn events(home: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut shapes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text(home, &stream(home)).lines() {
        let mut event: Value = serde_json::from_str(line).unwrap();
        // The arguments of a tool are the tool's; under `serve` a call is told of before they are complete.
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
    let world = World::new(Opencode::Fake);
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
    let script = FakeScript {
        serve: ServeMode::Sessions,
        ..FakeScript::default()
    };
    world.fake(
        &script
            .on("fix the crash", [calls, Step::Answer("done".to_owned())])
            .on("badkey", [refused]),
    );
    std::fs::copy(
        example().join("config.toml"),
        world.kugetsu_home().join("config.toml"),
    )
    .unwrap();
    let kugetsu = |arguments: &[&str], status: i32| {
        let mut command = world.kugetsu(arguments);
        command.env("KUGETSU_TRANSPORT", "run");
        world
            .finish(command, kugetsu_testing::Stdin::Null)
            .expect_status(status);
    };
    kugetsu(&["init"], 0);
    kugetsu(&["start", "github.com/shoko/kugetsu#14", "fix the crash"], 0);
    kugetsu(&["continue", "github.com/shoko/kugetsu#14", "now add a test"], 0);
    kugetsu(
        &["start", "https://github.com/shoko/kugetsu/issues/15", "badkey"],
        1,
    );
    let home = world.kugetsu_home();

    let same = |name: &str, parse: fn(&str) -> Value| {
        let of = |home: &Path| shape(&parse(&text(home, name)));
        assert_eq!(of(&example()), of(&home), "{name}");
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
    let mut shown = events(&example());
    // `opencode run`, which the fake plays, tells of a tool only when it is over.
    shown.remove("tool_execution_update").expect("one in the example");
    assert_eq!(shown, events(&home));
}
