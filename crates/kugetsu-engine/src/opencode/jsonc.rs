//! JSON with comments, as opencode reads its configuration: comments and trailing commas are allowed, nothing else.

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::errors::ParseErrorKind;
use jsonc_parser::{CollectOptions, ParseOptions, ParseStringErrorKind, parse_to_ast, parse_to_serde_value};

fn options() -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

/// The value; `None` if the text is not valid. The last of several equal keys counts.
pub(super) fn value(text: &str) -> Option<serde_json::Value> {
    parse_to_serde_value(text, &options()).ok()
}

/// What is wrong with a text that is not valid, with line and column, from 1. `None` also if opencode could still read it:
/// it replaces variables and files in a text before it parses the text, and its parser accepts any depth and any Unicode
/// escape.
pub(super) fn problem(text: &str) -> Option<(String, usize, usize)> {
    if text.starts_with('\u{feff}') || ["{env:", "{file:"].iter().any(|variable| text.contains(variable)) {
        return None;
    }
    let error = parse_to_ast(text, &CollectOptions::default(), &options()).err()?;
    let accepted = matches!(
        error.kind(),
        ParseErrorKind::NestingDepthExceeded
            | ParseErrorKind::String(ParseStringErrorKind::InvalidUnicodeEscapeSequence(_))
    );
    if accepted {
        return None;
    }
    let (what, line, column) = (
        error.kind().to_string(),
        error.line_display(),
        error.column_display(),
    );
    Some((what.to_lowercase(), line, column))
}

/// All keys of the outermost object, in order and with repetitions; `None` if the text is not valid.
pub(super) fn keys(text: &str) -> Option<Vec<String>> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &options()).ok()?;
    Some(match &parsed.value {
        Some(Value::Object(object)) => object
            .properties
            .iter()
            .map(|property| property.name.as_str().to_owned())
            .collect(),
        _ => Vec::new(),
    })
}

/// Line and column, from 1, of the value at this path of keys and indices, or of the last part of the path that is there.
pub(super) fn place(text: &str, path: &[String]) -> Option<(usize, usize)> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &options()).ok()?;
    let mut at = parsed.value.as_ref()?;
    let mut start = start_of(at);
    for part in path {
        let next = match at {
            Value::Object(object) => last(object, part),
            Value::Array(array) => {
                let element = part.parse::<usize>().ok();
                element
                    .and_then(|index| array.elements.get(index))
                    .map(|value| (start_of(value), value))
            }
            _ => None,
        };
        let Some((place, value)) = next else {
            break;
        };
        (start, at) = (place, value);
    }
    let before = text.get(..start)?;
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Some((line, column))
}

/// The last property of this name, and where its name begins.
fn last<'a, 'b>(object: &'b Object<'a>, name: &str) -> Option<(usize, &'b Value<'a>)> {
    let found = object
        .properties
        .iter()
        .rfind(|property| property.name.as_str() == name)?;
    Some((found.range.start, &found.value))
}

fn start_of(value: &Value<'_>) -> usize {
    use jsonc_parser::common::Ranged as _;
    value.range().start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_comments_and_trailing_commas_are_allowed() {
        assert_eq!(
            keys("// c\n{\"a\": 1, /* b */ \"b\": [1,],}"),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        // An escaped key is the same key, and each of several equal ones counts.
        assert_eq!(
            keys("{\"\\u0061\": 1, \"a\": 2}"),
            Some(vec!["a".to_owned(), "a".to_owned()])
        );
        for wrong in [
            "{a: 1}",
            "{'a': 1}",
            "{\"a\" 1}",
            "{\"a\": 1 \"b\": 2}",
            "{\"a\": .5}",
            "{\"a\": 1}}",
            &"[".repeat(100_000),
        ] {
            assert_eq!(keys(wrong), None, "{}", &wrong[..wrong.len().min(20)]);
            assert_eq!(value(wrong), None);
        }
    }

    #[test]
    fn only_what_opencode_cannot_parse_is_a_problem() {
        for (wrong, place) in [
            ("{\n  \"model\": \"a\n}\n", (2, 12)),
            ("{\"a\" 1}", (1, 6)),
            ("{\"a\": 1", (1, 1)),
        ] {
            let (what, line, column) = problem(wrong).unwrap();
            assert_eq!((line, column), place, "{wrong}: {what}");
        }
        // Measured: opencode accepts all of these.
        for accepted in [
            "",
            "{}",
            "// c\n{\"a\": [1,], /* b */}",
            "{\"a\": {env:NUMBER}}",
            "{\"a\": \"\\ud800\"}",
            "{\"a\": 1, \"a\": 2}",
            &format!("{{\"a\": {}1{}}}", "[".repeat(600), "]".repeat(600)),
        ] {
            assert_eq!(problem(accepted), None, "{}", &accepted[..accepted.len().min(20)]);
        }
    }

    #[test]
    fn a_place_is_found_by_its_path() {
        let text = "{\n  // c\n  \"mcp\": {\n    \"a\": [1, {\"b\": 2}]\n  }\n}";
        let path = |parts: &[&str]| parts.iter().map(|&part| part.to_owned()).collect::<Vec<_>>();
        assert_eq!(place(text, &path(&["mcp", "a"])), Some((4, 5)));
        assert_eq!(place(text, &path(&["mcp", "a", "1", "b"])), Some((4, 15)));
        assert_eq!(place(text, &path(&["mcp", "nothing"])), Some((3, 3)));
        assert_eq!(place(text, &[]), Some((1, 1)));
        assert_eq!(place("{", &[]), None);
    }
}
