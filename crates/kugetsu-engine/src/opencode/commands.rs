//! The arguments of opencode's commands, and what `export` writes.

use std::ffi::OsString;
use std::io::Read;

use serde::Deserialize;

use super::Launch;
use super::tolerant::{self, Tolerant, tolerant, tolerant_objects};
use crate::process::GuardSpec;
use kugetsu_api::SessionId;

/// A prompt for one `opencode run`.
#[derive(Clone, Copy, Debug)]
pub struct RunPrompt<'a> {
    /// The session that it goes to, or whose fork it goes to.
    pub session: &'a SessionId,
    /// Whether it goes to a fork that is made with it.
    pub fork: bool,
    /// `provider/model`, if not the session's own.
    pub model: Option<&'a str>,
    /// The agent, if not the session's own.
    pub agent: Option<&'a str>,
    /// The prompt.
    pub text: &'a str,
}

/// `opencode run` with events on its standard output and, at least, errors of its log on its standard error.
pub fn run(launch: &Launch, prompt: &RunPrompt<'_>) -> GuardSpec {
    let mut args = vec!["run", "--format", "json"];
    if prompt.fork {
        args.push("--fork");
    }
    // Never --continue: with it, 1.3.2 ignores --session and goes on in the newest one.
    args.extend(["--session", prompt.session.as_str()]);
    for (flag, value) in [("--model", prompt.model), ("--agent", prompt.agent)] {
        args.extend(value.into_iter().flat_map(|value| [flag, value]));
    }
    if launch.debug_log.is_none() {
        // Nothing on standard output tells that opencode waits for the model's provider; its log does.
        args.extend(["--print-logs", "--log-level", "ERROR"]);
    }
    let mut spec = launch.guard_spec(args.into_iter().map(Into::into).collect());
    // An argument with spaces arrives wrapped in quotes, and an open standard input hangs opencode: so the prompt goes in
    // there, and it is closed.
    spec.stdin = prompt.text.as_bytes().into();
    spec.remove_env.push("OPENCODE_SERVER_PASSWORD".into());
    spec
}

/// Opens opencode's terminal interface on a session; in the session's own directory (measured on 1.3.2 and 1.18.33).
pub fn attach_args(session: &SessionId) -> Vec<OsString> {
    vec!["--session".into(), session.as_str().into()]
}

/// Removes a session.
pub fn delete_args(session: &SessionId) -> [&str; 3] {
    ["session", "delete", session.as_str()]
}

/// Writes a session to standard output, for [`parse_export`], and notices to standard error.
pub fn export_args(session: &SessionId) -> [&str; 2] {
    ["export", session.as_str()]
}

/// Brings back a session from such a file, under the same id. Measured on 1.3.2 and 1.18.33: it gets the directory that
/// it had, in the project of the caller's directory.
pub fn import_args(file: &str) -> [&str; 2] {
    ["import", file]
}

/// What an export says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The session; empty where it names none.
    pub session: String,
    /// How many messages it holds.
    pub messages: usize,
}

/// Reads an export. Fails on what is not valid JSON, such as a truncated one.
pub fn parse_export(export: impl Read) -> serde_json::Result<Export> {
    let tolerant::Read(object) = serde_json::from_reader::<_, tolerant::Read<ExportObject>>(export)?;
    Ok(Export {
        session: object.info.id,
        messages: object.messages.len(),
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ExportObject {
    #[serde(deserialize_with = "tolerant")]
    info: SessionInfo,
    #[serde(deserialize_with = "tolerant")]
    messages: Vec<ExportedMessage>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SessionInfo {
    #[serde(deserialize_with = "tolerant")]
    id: String,
}

/// Counted, and not read.
#[derive(Default)]
struct ExportedMessage;

impl Tolerant for ExportedMessage {}

tolerant_objects!(ExportObject, SessionInfo);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_counted_and_a_truncated_one_is_refused() {
        let whole = r#"{"info":{"id":"ses_1","title":"x"},"messages":[{"info":{},"parts":[{"a":[1]}]},{}]}"#;
        let export = parse_export(whole.as_bytes()).unwrap();
        assert_eq!((export.session.as_str(), export.messages), ("ses_1", 2));
        for cut in 0..whole.len() {
            assert!(parse_export(&whole.as_bytes()[..cut]).is_err(), "{cut}");
        }
        for odd in ["[]", "7", r#"{"info":"ses_1","messages":{}}"#] {
            let export = parse_export(odd.as_bytes()).unwrap();
            assert_eq!((export.session.as_str(), export.messages), ("", 0), "{odd}");
        }
    }
}
