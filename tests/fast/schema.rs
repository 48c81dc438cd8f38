//! Everything that programs read from kugetsu has a correct, checked-in JSON Schema. `Output::json` and
//! `Output::json_lines` of the tests' world validate every object that any test reads.

use std::collections::BTreeSet;
use std::path::Path;

use kugetsu_api::output::SCHEMAS;
use kugetsu_testing::schema::{assert_valid, problems};
use kugetsu_testing::{Opencode, World};
use serde_json::{Value, json};

use crate::support::kit::{fake_world, files_below, record, run, start};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema")
}

#[test]
fn the_checked_in_schemas_are_those_of_the_code() {
    for schema in SCHEMAS {
        let path = folder().join(format!("{}.schema.json", schema.name));
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == schema.text(),
            "{} is not what the code makes; write it anew with: cargo xtask schema",
            path.display()
        );
    }
    let names: BTreeSet<_> = SCHEMAS
        .iter()
        .map(|schema| format!("{}.schema.json", schema.name))
        .collect();
    let kept = std::fs::read_dir(folder()).unwrap();
    let kept: BTreeSet<_> = kept
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(kept, names);
}

#[test]
fn the_schema_refuses_what_is_no_line_of_a_turn() {
    let good = json!({
        "schema": 2, "time": "2026-01-01T00:00:00Z", "ref": "a.b/c/d#1",
        "turn": "01a1fbdd-6d77-7679-95ff-a3c0af00cef8", "type": "step_start", "step": 1,
    });
    assert_valid("event", &good);
    for (key, wrong) in [
        ("type", Value::from("turn_begin")),
        ("step", Value::from("one")),
        ("schema", Value::Null),
        ("unknown", Value::from(1)),
    ] {
        let mut bad = good.clone();
        bad[key] = wrong;
        assert!(!problems("event", &bad).is_empty(), "{bad}");
    }
}

#[test]
fn an_error_without_its_code_or_with_an_unknown_one_is_refused() {
    let world = World::new(Opencode::Fake);
    let good = run(&world, ["show", "github.com/a/b#1", "--json"]).json();
    assert_eq!(good["error"]["code"], "no-session");
    assert_valid("error", &good);
    for key in ["code", "message", "hints", "ref", "retryable", "exit_status"] {
        let mut bad = good.clone();
        bad["error"].as_object_mut().unwrap().remove(key);
        assert!(!problems("error", &bad).is_empty(), "{key}: {bad}");
    }
    let mut bad = good;
    bad["error"]["code"] = "not-a-code".into();
    assert!(!problems("error", &bad).is_empty(), "{bad}");
}

#[test]
fn the_files_that_a_turn_leaves_are_valid() {
    let world = fake_world();
    start(&world, "1", "work");
    start(&world, "2", "work");
    run(&world, ["destroy", "2", "-y"]).expect_status(0);
    let mut session = record(&world, "1").unwrap();
    session["state"] = "completed".into();
    assert_valid("session", &session);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let mut seen = BTreeSet::new();
    for path in files_below(&world.kugetsu_home()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (schema, text) = match name.as_str() {
            "base.json" => ("base", read(&path)),
            "entry.json" => ("trash-entry", read(&path)),
            "1.status.json" => ("status-file", read(&path)),
            "turns.jsonl" => ("turn-record", read(&path)),
            name if name.ends_with(".events.jsonl") => ("event", read(&path)),
            _ => continue,
        };
        seen.insert(schema);
        for value in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
            assert_valid(schema, &value.unwrap());
        }
    }
    assert_eq!(
        seen,
        BTreeSet::from(["base", "event", "status-file", "trash-entry", "turn-record"])
    );
}

#[test]
fn a_signal_file_needs_only_the_signal() {
    assert_valid("signal-file", &json!({"signal": "pause"}));
    let whole = json!({
        "schema": 1, "turn": "01a1fbdd-6d77-7679-95ff-a3c0af00cef8", "signal": "stop", "sent": "2026-01-01T00:00:00Z",
        "from": {"pid": 1, "host": "box", "since": "2026-01-01T00:00:00Z", "what": "signal stop"},
    });
    assert_valid("signal-file", &whole);
    assert!(!problems("signal-file", &json!({"signal": "dance"})).is_empty());
}
