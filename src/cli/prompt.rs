//! Reads the prompt from the command line or from stdin.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use super::CommandError;

const WITH_ISSUE: &str = "or let the issue say what to do: --with-issue";

/// The prompt, byte for byte.
pub(super) fn read(words: &[String]) -> Result<String, CommandError> {
    let from_stdin = match words {
        [] if std::io::stdin().is_terminal() => {
            return Err(CommandError::usage(
                "there is no message",
                "write it after the reference, or pipe it in and write `-`",
            )
            .hint(WITH_ISSUE));
        }
        [] => true,
        [only] => only == "-",
        _ => false,
    };
    let text = if from_stdin {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| {
            CommandError::usage(format!("stdin cannot be read: {error}"), "pipe the message in")
        })?;
        String::from_utf8(bytes).map_err(|_| {
            CommandError::usage(
                "the message on stdin is not UTF-8",
                "convert it first, with iconv",
            )
        })?
    } else {
        words.join(" ")
    };
    not_empty(text).map_err(|error| error.hint(WITH_ISSUE))
}

/// Reads the prompt from a file.
pub(super) fn read_file(path: &Path) -> Result<String, CommandError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CommandError::usage(
            format!("the prompt file {} cannot be read: {error}", path.display()),
            "name a file of UTF-8 text",
        )
    })?;
    not_empty(text)
}

fn not_empty(text: String) -> Result<String, CommandError> {
    if text.trim().is_empty() {
        return Err(CommandError::usage(
            "the message is empty",
            "write it after the reference, or pipe it in and write `-`",
        ));
    }
    Ok(text)
}
