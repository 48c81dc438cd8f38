//! The stream of a turn has a JSON Schema, checked in and true.

use std::path::Path;

use kugetsu_engine::turn::stream::StreamLine;
use serde_json::Value;

use crate::support::schema::schema;

/// Run with `KUGETSU_BLESS=1` to write the file anew.
#[test]
fn the_checked_in_schema_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.schema.json");
    let made = serde_json::to_string_pretty(&schemars::schema_for!(StreamLine)).unwrap() + "\n";
    if std::env::var_os("KUGETSU_BLESS").is_some() {
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        kept, made,
        "write it anew with: KUGETSU_BLESS=1 cargo xtask test schema::"
    );
}

#[test]
fn the_schema_refuses_what_is_no_line_of_a_turn() {
    let schema = schema();
    let good = serde_json::json!({
        "schema": 1, "time": "2026-01-01T00:00:00Z", "ref": "a.b/c/d#1",
        "turn": "01a1fbdd-6d77-7679-95ff-a3c0af00cef8", "type": "turn_start", "step": 1,
    });
    assert!(
        schema.is_valid(&good),
        "{:?}",
        schema
            .iter_errors(&good)
            .map(|e| e.to_string())
            .collect::<Vec<_>>()
    );
    for (key, wrong) in [
        ("type", Value::from("turn_begin")),
        ("step", Value::from("one")),
        ("schema", Value::Null),
    ] {
        let mut bad = good.clone();
        bad[key] = wrong;
        assert!(!schema.is_valid(&bad), "{bad}");
    }
}
