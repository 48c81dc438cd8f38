//! A configuration file that opencode refuses, in one line with the place.
//!
//! Measured on 1.3.2 and 1.18.33: opencode prints the whole file, which may hold keys, and below it each error.
//!
//! - `serve` with a broken file of the project starts, is healthy, and answers the first request of the directory with
//!   `{"name":"ConfigJsonError","data":{"path","message"}}` or `{"name":"ConfigInvalidError","data":{"path","issues",
//!   "message"}}`, HTTP 500 on 1.3.2 and 400 on 1.18.33.
//! - `serve` with a broken file of the user, and `run` with any broken file, end with status 1 and print `Error: Config
//!   file at PATH is not valid JSON(C): ` with the file and `CODE at line N, column M`, or `Error: Configuration is
//!   invalid at PATH` with `↳ MESSAGE KEY.KEY` for each error.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::jsonc;
use crate::fsx;

/// The largest file in which the place of an error is looked for.
const MAX_FILE: u64 = 4 << 20;
/// What opencode prints before and after the text of a broken file.
const INPUT: &str = "--- JSONC Input ---";
const ERRORS: &str = "--- Errors ---";
const END: &str = "--- End ---";
/// How opencode's messages begin and end.
const NOT_JSON: (&str, &str) = ("Config file at ", " is not valid JSON(C)");
const INVALID: &str = "Configuration is invalid at ";

/// A configuration file that opencode refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("opencode refuses its configuration: {}{}: {what}", .file.display(), shown(*.place))]
pub struct ConfigProblem {
    /// The file.
    pub file: PathBuf,
    /// Line and column, from 1, if they are known.
    pub place: Option<(usize, usize)>,
    /// What is wrong.
    pub what: String,
}

fn shown(place: Option<(usize, usize)>) -> String {
    place.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"))
}

impl ConfigProblem {
    /// Reads a file's text itself, to tell an error of syntax before opencode starts. `None` does not mean that opencode
    /// accepts the file.
    pub(super) fn of_text(file: &Path, text: &str) -> Option<Self> {
        let (what, line, column) = jsonc::problem(text)?;
        Some(Self::syntax(file.to_owned(), Some((&what, line, column))))
    }

    /// Reads the body of a response.
    pub(super) fn from_body(body: &str) -> Option<Self> {
        let body: Value = serde_json::from_str(body).ok()?;
        let name = body["name"].as_str()?;
        let data = &body["data"];
        let file = PathBuf::from(data["path"].as_str()?);
        let message = data["message"].as_str();
        match name {
            "ConfigJsonError" => {
                let errors = message.map_or("", |text| {
                    text.rsplit_once(ERRORS).map_or(text, |(_, errors)| errors)
                });
                Some(Self::syntax(file, errors.lines().find_map(located)))
            }
            "ConfigInvalidError" => {
                let issue = &data["issues"][0];
                let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let keys = issue["path"]
                    .as_array()
                    .map(|path| path.iter().map(text).collect::<Vec<_>>());
                let what = issue["message"].as_str().or(message).unwrap_or("it is not valid");
                Some(Self::schema(file, what, &keys.unwrap_or_default()))
            }
            _ => None,
        }
    }

    /// Reads the whole standard error of a command.
    pub(crate) fn from_output(stderr: &[u8]) -> Option<Self> {
        let mut page = ErrorPage::default();
        let lines: Vec<_> = String::from_utf8_lossy(stderr)
            .lines()
            .filter(|line| page.keeps(line))
            .map(str::to_owned)
            .collect();
        Self::from_stderr(&lines)
    }

    /// Reads the last lines on standard error.
    pub(crate) fn from_stderr(lines: &[String]) -> Option<Self> {
        for (at, line) in lines.iter().enumerate() {
            let rest = &lines[at + 1..];
            if let Some((_, path)) = line.split_once(NOT_JSON.0)
                && let Some((path, _)) = path.split_once(NOT_JSON.1)
            {
                return Some(Self::syntax(
                    path.into(),
                    rest.iter().find_map(|line| located(line)),
                ));
            }
            if let Some((_, path)) = line.split_once(INVALID) {
                let (path, what) = match path.split_once(": ") {
                    Some((path, what)) => (path, Some(what)),
                    None => (path, None),
                };
                let issue = rest.iter().find_map(|line| line.trim().strip_prefix("↳ "));
                // The keys follow the message without a mark, and a message may end with any word.
                let (what, keys) = match (what, issue) {
                    (Some(what), _) => (what, Vec::new()),
                    (None, Some(issue)) => match issue.rsplit_once(' ') {
                        Some((what, keys)) if !keys.is_empty() && in_file(path, keys) => {
                            (what, keys.split('.').map(str::to_owned).collect())
                        }
                        _ => (issue, Vec::new()),
                    },
                    (None, None) => ("it is not valid", Vec::new()),
                };
                return Some(Self::schema(path.trim().into(), what, &keys));
            }
        }
        None
    }

    fn syntax(file: PathBuf, error: Option<(&str, usize, usize)>) -> Self {
        match error {
            Some((code, line, column)) => Self {
                what: format!("not valid JSON ({code})"),
                place: Some((line, column)),
                file,
            },
            None => Self {
                what: "not valid JSON".to_owned(),
                place: None,
                file,
            },
        }
    }

    fn schema(file: PathBuf, what: &str, keys: &[String]) -> Self {
        let text = read(&file);
        Self {
            place: text
                .filter(|_| !keys.is_empty())
                .and_then(|text| jsonc::place(&text, keys)),
            what: match keys {
                [] => what.trim().to_owned(),
                keys => format!("{}: {}", keys.join("."), what.trim()),
            },
            file,
        }
    }
}

fn read(file: &Path) -> Option<String> {
    let bytes = fsx::read_bounded(&file.canonicalize().ok()?, MAX_FILE).ok()?;
    String::from_utf8(bytes).ok()
}

/// Whether the file has a value at these keys, or could lack it.
fn in_file(path: &str, keys: &str) -> bool {
    let first = keys.split('.').next().unwrap_or_default();
    read(Path::new(path.trim()))
        .and_then(|text| jsonc::keys(&text))
        .is_some_and(|known| known.iter().any(|key| key == first))
}

/// `CODE at line N, column M`.
fn located(line: &str) -> Option<(&str, usize, usize)> {
    let (code, place) = line.trim().split_once(" at line ")?;
    let (line, column) = place.split_once(", column ")?;
    Some((code, line.parse().ok()?, column.parse().ok()?))
}

/// Leaves out of opencode's messages the text of a broken file, which may hold keys, and all errors but the first.
#[derive(Debug, Default)]
pub(super) struct ErrorPage {
    inside: bool,
    errors: bool,
}

impl ErrorPage {
    /// Whether this line is kept.
    pub(super) fn keeps(&mut self, line: &str) -> bool {
        let line = line.trim();
        match line {
            INPUT => (self.inside, self.errors) = (true, false),
            ERRORS if self.inside => self.errors = true,
            END if self.inside => self.inside = false,
            _ if !self.inside => return true,
            _ if self.errors && located(line).is_some() => {
                self.errors = false;
                return true;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "Error: Config file at /c/opencode.json is not valid JSON(C): \n--- JSONC Input ---\n{\n  \"apiKey\": \"sk-1\" \"y\"\n}\n--- Errors ---\nCommaExpected at line 2, column 20\n   Line 2:   \"apiKey\": \"sk-1\" \"y\"\n                      ^\nValueExpected at line 3, column 1\n--- End ---\nlast";

    fn kept() -> Vec<String> {
        let mut page = ErrorPage::default();
        PAGE.lines()
            .filter(|line| page.keeps(line))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_page_is_kept_without_the_file() {
        let kept = kept();
        assert_eq!(
            kept,
            [
                "Error: Config file at /c/opencode.json is not valid JSON(C): ",
                "CommaExpected at line 2, column 20",
                "last"
            ]
        );
        let problem = ConfigProblem::from_stderr(&kept).unwrap();
        assert_eq!(
            problem.to_string(),
            "opencode refuses its configuration: /c/opencode.json:2:20: not valid JSON (CommaExpected)"
        );
        assert_eq!(
            ConfigProblem::from_stderr(&["Error: Session not found".to_owned()]),
            None
        );
    }

    #[test]
    fn a_response_tells_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("opencode.json");
        fsx::write_atomic(&file, b"{\n  \"mcp\": {\n    \"a\": 7\n  }\n}").unwrap();
        let body = serde_json::json!({"name": "ConfigInvalidError", "data": {
            "path": file, "issues": [{"path": ["mcp", "a"], "message": "Invalid input"}]}});
        let problem = ConfigProblem::from_body(&body.to_string()).unwrap();
        assert_eq!(
            (problem.place, problem.what.as_str()),
            (Some((3, 5)), "mcp.a: Invalid input")
        );
        let lines = [
            format!("Error: Configuration is invalid at {}", file.display()),
            "↳ Invalid input mcp.a".to_owned(),
        ];
        assert_eq!(ConfigProblem::from_stderr(&lines), Some(problem));
        let body =
            serde_json::json!({"name": "ConfigJsonError", "data": {"path": "/c/o.json", "message": PAGE}});
        assert_eq!(
            ConfigProblem::from_body(&body.to_string()).unwrap().place,
            Some((2, 20))
        );
        for other in [
            "",
            "{}",
            "[]",
            r#"{"name":"ConfigJsonError"}"#,
            r#"{"name":"NotFoundError","data":{"path":"/c"}}"#,
        ] {
            assert_eq!(ConfigProblem::from_body(other), None, "{other}");
        }
    }
}
