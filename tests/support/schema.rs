//! The JSON Schema of a turn's stream, as it is checked in.

use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;

/// The validator of one line.
pub(crate) fn schema() -> Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.schema.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let schema: Value = serde_json::from_slice(&text).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is one")
}

/// Panics unless every line is valid.
#[track_caller]
pub(crate) fn assert_lines(lines: &[Value]) {
    let schema = schema();
    for line in lines {
        let errors: Vec<_> = schema.iter_errors(line).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{line}\n{errors:?}");
    }
}
