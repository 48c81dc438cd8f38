//! The arguments of opencode's commands, and the format of an export.

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
    /// The session that receives the prompt, or the session to fork.
    pub session: &'a SessionId,
    /// Whether a new fork of the session receives the prompt.
    pub fork: bool,
    /// The model as `provider/model`, unless the session's own is used.
    pub model: Option<&'a str>,
    /// The agent, unless the session's own is used.
    pub agent: Option<&'a str>,
    /// The prompt.
    pub text: &'a str,
}

/// `opencode run` with events on standard output and at least the errors of its log on standard error.
pub fn run(launch: &Launch, prompt: &RunPrompt<'_>) -> GuardSpec {
    let mut args = vec!["run", "--format", "json"];
    if prompt.fork {
        args.push("--fork");
    }
    // Never `--continue`: with it, 1.3.2 ignores `--session` and continues the newest session.
    args.extend(["--session", prompt.session.as_str()]);
    for (flag, value) in [("--model", prompt.model), ("--agent", prompt.agent)] {
        args.extend(value.into_iter().flat_map(|value| [flag, value]));
    }
    if launch.debug_log.is_none() {
        // Only opencode's log reports that opencode waits for the model's provider; standard output does not.
        args.extend(["--print-logs", "--log-level", "ERROR"]);
    }
    let mut spec = launch.guard_spec(args.into_iter().map(Into::into).collect());
    // The prompt goes to standard input, because opencode wraps an argument with spaces in quotes, and because opencode
    // hangs on an open standard input.
    spec.stdin = prompt.text.as_bytes().into();
    spec.remove_env.push("OPENCODE_SERVER_PASSWORD".into());
    spec
}

/// `opencode run` in a new session, with the prompt on standard input and events on standard output.
pub fn ask_args(model: Option<&str>) -> Vec<OsString> {
    let mut args = vec!["run", "--format", "json"];
    args.extend(model.into_iter().flat_map(|model| ["--model", model]));
    args.into_iter().map(Into::into).collect()
}

/// Opens opencode's terminal interface on a session, in the session's own directory (measured on 1.3.2 and 1.18.33).
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

/// Imports a session from an export, under the same id. Measured on 1.3.2 and 1.18.33: the session keeps its directory
/// and belongs to the project of the caller's directory.
pub fn import_args(file: &str) -> [&str; 2] {
    ["import", file]
}

/// A summary of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The session; empty if the export names none.
    pub session: String,
    /// The number of messages.
    pub messages: usize,
}

/// Reads an export. Fails if the export is not valid JSON, for example because it is truncated.
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

/// A message that is counted but not read.
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
