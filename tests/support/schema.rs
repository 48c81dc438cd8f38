//! The checked-in JSON Schema of a turn's stream.

use kugetsu_testing::schema::assert_valid;
use serde_json::Value;

/// Panics unless every line is valid.
#[track_caller]
pub(crate) fn assert_lines(lines: &[Value]) {
    for line in lines {
        assert_valid("event", line);
    }
}
