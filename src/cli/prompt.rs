//! Reads the prompt from the command line, from stdin, or from the user's editor.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use super::CommandError;
use super::bounded::{self, MAX_PROMPT};
use super::editor::Draft;
use super::output::{Output, can_ask};
use crate::ssh::quote;
use kugetsu_api::ErrorCode;

/// Marks a word of a message that begins like an option. No argument of a process contains this byte.
const MARK: u8 = 0;
/// The first line of what is left out of an edited message. Lines with `#` alone would be headings in Markdown.
const SCISSORS: &str = "# ------------------------ >8 ------------------------";

/// The arguments for the parser: words of a message such as `- fix this`, which cannot be options, are marked, because
/// the parser would refuse them.
pub(super) fn marked(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut has_message = false;
    arguments
        .map(|argument| {
            let bytes = argument.as_bytes();
            has_message |= [&b"start"[..], b"continue", b"submit"].contains(&bytes);
            let is_list = bytes.len() > 1 && bytes[0] == b'-' && bytes[1].is_ascii_whitespace();
            if has_message && is_list {
                OsString::from_vec([&[MARK], bytes].concat())
            } else {
                argument
            }
        })
        .collect()
}

/// Parses a word of a message.
pub(super) fn word(text: &str) -> Result<String, Infallible> {
    Ok(text.trim_start_matches(char::from(MARK)).to_owned())
}

/// The bytes of a word of a message, as the user typed them.
pub(super) fn raw_word(word: &OsStr) -> OsString {
    let bytes = word.as_bytes();
    OsStr::from_bytes(bytes.strip_prefix(&[MARK]).unwrap_or(bytes)).to_owned()
}

const WITH_ISSUE: &str = "or let the issue say what to do: --with-issue";

/// The prompt, byte for byte.
pub(super) fn read(words: &[String]) -> Result<String, CommandError> {
    let terminal = std::io::stdin().is_terminal();
    let from_stdin = match words {
        [] if terminal => {
            return Err(CommandError::usage(
                "there is no message",
                "write it after the reference, or pipe it in and write `-`",
            )
            .hint("or write it in your editor: --edit")
            .hint(WITH_ISSUE));
        }
        [] => true,
        [only] => only == "-",
        _ => false,
    };
    let text = if from_stdin {
        if terminal {
            Output::new(false).note("kugetsu: type the message and end it with Ctrl-D on a line of its own");
        }
        bounded::read_text(std::io::stdin().lock(), MAX_PROMPT).map_err(|error| {
            CommandError::usage(
                format!("the message on stdin cannot be used: {error}"),
                "pipe in UTF-8 text of at most 8 MiB",
            )
        })?
    } else {
        words.join(" ")
    };
    not_empty(text).map_err(|error| error.hint(WITH_ISSUE))
}

/// A message that a person has written in an editor, for the session at the address `about`.
#[derive(Debug)]
pub(super) struct Written {
    message: String,
    about: String,
    /// The host that the message is for.
    host: Option<String>,
    /// The id of a turn that may have begun with the message.
    turn: Option<String>,
    /// The whole text, in case that a signal ends the process.
    draft: Draft,
}

impl Written {
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The same message for another host.
    pub(super) fn on_host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// Says that the turn with this id may have begun, so that the message is not sent twice.
    pub(super) fn may_have_begun(&mut self, turn: &str) {
        self.turn = Some(turn.to_owned());
    }

    /// Keeps the message of a turn that may not have begun in a file, and says where it is.
    pub(super) fn keep(self) {
        let note = match self.into_file() {
            Ok([place, next]) => format!("kugetsu: {place}\n  if no turn has begun, {next}"),
            Err(unkept) => unkept.for_people(),
        };
        Output::new(false).note(note);
    }

    /// Keeps the message of a turn that failed to begin in a file. Returns the error with the place of the file.
    pub(super) fn keep_after(self, error: CommandError) -> CommandError {
        match self.into_file() {
            Ok([place, next]) => error.hint(place).hint(next),
            Err(unkept) => error.hint(unkept.for_people()),
        }
    }

    fn into_file(self) -> Result<[String; 2], CommandError> {
        let message = Draft::new(&self.message, ".md").and_then(Draft::keep);
        // Without room for the message alone, the whole text serves.
        let path = message.or_else(|_| self.draft.keep())?;
        let (about, quoted) = (&self.about, quote(path.as_os_str()));
        let option = |name: &str, value: &Option<String>| {
            let value = value.as_ref().map(|value| quote(OsStr::new(value)));
            value.map_or_else(String::new, |value| format!("--{name} {} ", value.display()))
        };
        let (host, turn) = (option("host", &self.host), option("turn-id", &self.turn));
        Ok([
            format!("your message is in {}", path.display()),
            format!(
                "send it: kugetsu {host}continue --or-start {turn}'{about}' - < {}",
                quoted.display()
            ),
        ])
    }
}

/// The message from the user's editor, which begins with these words. `about` is the address of the session.
pub(super) fn edit(words: &[String], about: &str) -> Result<Written, CommandError> {
    if !can_ask() {
        return Err(CommandError::usage(
            "an editor needs a terminal on stdin and stderr",
            "write the message after the reference, or pipe it in and write `-`",
        ));
    }
    let begun = words.join(" ");
    let draft = format!(
        "{begun}\n\n{SCISSORS}\n\
         # This is the message for {about}. This line, the one above and all below are left out.\n\
         # Without a message, no turn runs.\n",
    );
    let draft = Draft::new(&draft, ".md")?;
    let edited = draft.edit();
    // Some editors fail after they have written the file.
    let mut message = match &edited {
        Ok(text) => text.clone(),
        Err(_) => match draft.text() {
            Ok(text) => text,
            Err(unreadable) => return Err(draft.keep_after(unreadable)),
        },
    };
    if let Some(at) = message.find(SCISSORS) {
        message.truncate(at);
    }
    message.truncate(message.trim_end().len());
    let is_empty = message.trim_start().is_empty();
    let is_new = !is_empty && message != begun.trim_end();
    let written = Written {
        message,
        about: about.to_owned(),
        host: None,
        turn: None,
        draft,
    };
    if let Err(error) = edited {
        return Err(if is_new { written.keep_after(error) } else { error });
    }
    if is_empty {
        return Err(CommandError::new(
            ErrorCode::NotConfirmed,
            "the message is empty, so no turn was run",
        )
        .hint("write the message above the dashed line"));
    }
    Ok(written)
}

/// Reads the prompt from a file.
pub(super) fn read_file(path: &Path) -> Result<String, CommandError> {
    let text = bounded::read_file(path, MAX_PROMPT).map_err(|error| {
        CommandError::usage(
            format!("the prompt file {} cannot be read: {error}", path.display()),
            "name a file of UTF-8 text of at most 8 MiB",
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
