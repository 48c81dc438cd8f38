//! Builds the command line for the other host.
//!
//! The line is written anew from the parsed one, because some arguments only have a meaning on this host: a file to
//! read, a prompt on stdin, `#14` in this clone.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::path::Path;

use clap::{Arg, ArgMatches, Command};
use uuid::Uuid;

use crate::cli::prompt::Written;
use crate::cli::{CommandError, prompt, submit, turn};
use crate::ssh::MAX_FRAME;
use kugetsu_api::Address;

/// One argument to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Argument {
    Plain(OsString),
    /// An option with a file on this host.
    File {
        option: &'static str,
        content: Vec<u8>,
    },
}

/// The stdin of the remote command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Input {
    #[default]
    Nothing,
    Bytes(Vec<u8>),
    /// This process's own stdin, as it arrives.
    Live,
}

/// A command line for the other host.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) words: Vec<Argument>,
    pub(super) input: Input,
    /// The id that makes a repeated `start` or `continue` the same turn.
    pub(super) turn: Option<String>,
    /// The message, if it was written in an editor.
    pub(super) written: Option<Written>,
    /// Whether the command draws on the terminal.
    pub(super) terminal: bool,
}

/// Questions that only this host can answer.
pub(super) trait Local {
    /// The full address.
    fn address(&self, text: &str) -> Result<String, CommandError>;
    /// The repository of the clone.
    fn repo(&self) -> Result<String, CommandError>;
}

impl Line {
    pub(super) fn read(
        command: &Command,
        matches: &ArgMatches,
        local: &impl Local,
    ) -> Result<Self, CommandError> {
        let mut line = Self::default();
        line.add(command, matches, local)?;
        Ok(line)
    }

    fn add(
        &mut self,
        command: &Command,
        matches: &ArgMatches,
        local: &impl Local,
    ) -> Result<(), CommandError> {
        let (mut options, positionals): (Vec<&Arg>, Vec<&Arg>) =
            command.get_arguments().partition(|arg| !arg.is_positional());
        // The verb's own matches repeat every global option.
        if matches.subcommand().is_some() {
            options.retain(|arg| !arg.is_global_set());
        }
        for arg in options {
            self.add_option(arg, matches)?;
        }
        if let Some((verb, below)) = matches.subcommand() {
            self.plain(verb);
            let Some(command) = command.find_subcommand(verb) else {
                return Ok(());
            };
            return self.add(command, below, local);
        }
        self.add_what_is_meant_here(command, matches, local)?;
        if !positionals.is_empty() {
            self.plain("--");
        }
        let base = flag(matches, "base");
        let live = flag(matches, "supervised");
        // The user's editor is on this host.
        let edits = flag(matches, "edit");
        let about = values(matches, "reference").join(OsStr::new(" "));
        let about = about.to_string_lossy();
        for arg in positionals {
            let id = arg.get_id().as_str();
            let mut given = values(matches, id);
            if id == "message" || id == "words" {
                given = given.iter().map(|word| prompt::raw_word(word)).collect();
            }
            match (id, given.first().and_then(|value| value.to_str())) {
                ("reference", Some(_)) if !base => {
                    for text in given {
                        match text.to_str() {
                            Some(text) if Address::needs_clone(text) => self.plain(local.address(text)?),
                            _ => self.plain(text),
                        }
                    }
                }
                ("message", _) if edits => {
                    let words: Vec<_> = given
                        .iter()
                        .map(|word| word.to_string_lossy().into_owned())
                        .collect();
                    let written = prompt::edit(&words, &about)?;
                    self.input = Input::Bytes(written.message().as_bytes().to_vec());
                    self.written = Some(written);
                    self.plain("-");
                }
                // Prompts go through stdin, because arguments on the other host are visible to everybody and limited in
                // length. The remote command decides whether to read stdin if there is no prompt.
                ("message", _) if !live && given.is_empty() => {
                    if !std::io::stdin().is_terminal() {
                        self.input = Input::Live;
                    }
                }
                ("message", Some("-")) if !live && given.len() == 1 => {
                    self.input = message_on_stdin()?;
                    self.plain("-");
                }
                ("message", _) if !live => {
                    self.input = Input::Bytes(given.join(OsStr::new(" ")).into_encoded_bytes());
                    self.plain("-");
                }
                ("words", _) => self.add_task(&given, on_command_line(matches, "repo"), local)?,
                _ => self.all(given),
            }
        }
        if live {
            self.input = Input::Live;
        }
        Ok(())
    }

    /// The session and the message of `submit`.
    fn add_task(
        &mut self,
        words: &[OsString],
        has_repo: bool,
        local: &impl Local,
    ) -> Result<(), CommandError> {
        let (session, message) = submit::session_and_message(words, has_repo);
        if let Some(session) = session {
            match session.to_str() {
                Some(text) if Address::needs_clone(text) => self.plain(local.address(text)?),
                _ => self.plain(session),
            }
        }
        match message {
            [only] if only == "-" => self.input = message_on_stdin()?,
            message => self.input = Input::Bytes(message.join(OsStr::new(" ")).into_encoded_bytes()),
        }
        self.plain("-");
        Ok(())
    }

    fn add_option(&mut self, arg: &Arg, matches: &ArgMatches) -> Result<(), CommandError> {
        let id = arg.get_id().as_str();
        let Some(long) = arg.get_long() else {
            return Ok(());
        };
        if id == "host" || id == "edit" || !on_command_line(matches, id) {
            return Ok(());
        }
        if !arg.get_action().takes_values() {
            if matches.value_source(id).is_some() && flag(matches, id) {
                self.plain(format!("--{long}"));
            }
            return Ok(());
        }
        for value in values(matches, id) {
            match id {
                "prompt_file" => {
                    let content = prompt::read_file(Path::new(&value))?.into_bytes();
                    self.file("--prompt-file", content)?;
                }
                "prompt" => self.file("--prompt-file", value.into_encoded_bytes())?,
                // The file is read and checked here, because its name means nothing on the other host.
                "answers" => {
                    let content = turn::answers_text(Path::new(&value))?.into_bytes();
                    self.file("--answers", content)?;
                }
                _ => {
                    let mut word = OsString::from(format!("--{long}="));
                    word.push(value);
                    self.plain(word);
                }
            }
        }
        Ok(())
    }

    fn add_what_is_meant_here(
        &mut self,
        command: &Command,
        matches: &ArgMatches,
        local: &impl Local,
    ) -> Result<(), CommandError> {
        let has = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
        let verb = command.get_name();
        if verb == "init" && !on_command_line(matches, "dir") {
            return Err(CommandError::usage(
                "--host needs the folder on the other host",
                "name the clone there: --dir DIRECTORY",
            ));
        }
        // Without `--repo`, the command means the clone that it runs in, which is on this host.
        if has("repo") && has("base") && flag(matches, "base") && !on_command_line(matches, "repo") {
            self.plain(format!("--repo={}", local.repo()?));
        }
        if verb == "submit" && !on_command_line(matches, "repo") {
            let words = values(matches, "words");
            if submit::session_and_message(&words, false).0.is_none() {
                self.plain(format!("--repo={}", local.repo()?));
            }
        }
        if has("turn_id") {
            let given = values(matches, "turn_id").pop();
            let turn = match given {
                Some(turn) => turn.to_string_lossy().into_owned(),
                None => {
                    let turn = Uuid::now_v7().to_string();
                    self.plain(format!("--turn-id={turn}"));
                    turn
                }
            };
            self.turn = Some(turn);
        }
        self.terminal = verb == "edit" || (verb == "attach" && !flag(matches, "print"));
        Ok(())
    }

    fn plain(&mut self, word: impl Into<OsString>) {
        self.words.push(Argument::Plain(word.into()));
    }

    fn all(&mut self, words: Vec<OsString>) {
        self.words.extend(words.into_iter().map(Argument::Plain));
    }

    fn file(&mut self, option: &'static str, content: Vec<u8>) -> Result<(), CommandError> {
        // The frame also holds the option's name.
        if content.len() > MAX_FRAME - 100 {
            return Err(CommandError::usage(
                format!("{option}: more than 64 MiB cannot be sent"),
                "copy the file to the host and run the command there",
            ));
        }
        self.words.push(Argument::File { option, content });
        Ok(())
    }
}

fn flag(matches: &ArgMatches, id: &str) -> bool {
    matches!(matches.try_get_one::<bool>(id), Ok(Some(true)))
}

fn on_command_line(matches: &ArgMatches, id: &str) -> bool {
    matches.try_contains_id(id).unwrap_or(false)
        && matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine)
}

/// A message that is named by `-`. One that a person types is read to its end first, because ssh may ask for a password
/// on the same terminal.
fn message_on_stdin() -> Result<Input, CommandError> {
    if !std::io::stdin().is_terminal() {
        return Ok(Input::Live);
    }
    let typed = prompt::read(&["-".to_owned()])?;
    Ok(Input::Bytes(typed.into_bytes()))
}

fn values(matches: &ArgMatches, id: &str) -> Vec<OsString> {
    if !on_command_line(matches, id) {
        return Vec::new();
    }
    matches
        .get_raw(id)
        .map(|values| values.map(OsStr::to_owned).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use clap::CommandFactory as _;
    use proptest::prelude::*;

    use super::*;
    use crate::cli::Cli;

    struct ThisClone;

    impl Local for ThisClone {
        fn address(&self, text: &str) -> Result<String, CommandError> {
            let context = kugetsu_api::RefContext {
                origin: kugetsu_api::RepoRef::try_from(self.repo()?).ok(),
                ..Default::default()
            };
            Ok(Address::parse(text, &context)?.to_string())
        }

        fn repo(&self) -> Result<String, CommandError> {
            Ok("github.com/shoko/kugetsu".to_owned())
        }
    }

    fn line(words: &[OsString]) -> Line {
        let mut command = Cli::command();
        let matches = command
            .try_get_matches_from_mut(std::iter::once(&OsString::from("kugetsu")).chain(words))
            .unwrap();
        Line::read(&command, &matches, &ThisClone).unwrap()
    }

    /// The arguments that the other host receives, without those for files.
    fn sent(words: &[&str]) -> Vec<String> {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        plain(&line(&words))
    }

    fn plain(line: &Line) -> Vec<String> {
        let mut words = Vec::new();
        for word in &line.words {
            match word {
                Argument::Plain(word) => words.push(word.to_str().unwrap().to_owned()),
                Argument::File { option, content } => {
                    words.push(format!("{option}=<{}>", String::from_utf8_lossy(content)));
                }
            }
        }
        words.retain(|word| !word.starts_with("--turn-id="));
        words
    }

    #[test]
    fn what_only_means_something_here_is_resolved_here() {
        for (words, expected) in [
            (
                &["show", "#14", "--host", "h"][..],
                &["show", "--", "github.com/shoko/kugetsu#14"][..],
            ),
            (
                &["--host=h", "--json", "show", "14"],
                &["show", "--json", "--", "github.com/shoko/kugetsu#14"],
            ),
            (
                &["stop", "14/review", "--host", "h"],
                &["stop", "--", "github.com/shoko/kugetsu#14/review"],
            ),
            (
                &["stop", "#14/1.2", "--host", "h"],
                &["stop", "--", "github.com/shoko/kugetsu#14/1.2"],
            ),
            (
                &["stop", "~nightly", "--host", "h"],
                &["stop", "--", "github.com/shoko/kugetsu~nightly"],
            ),
            (
                &["stop", "a/b~nightly", "--host", "h"],
                &["stop", "--", "a/b~nightly"],
            ),
            (
                &["show", "--host", "h", "a/b#14", "--turns"],
                &["show", "--turns", "--", "a/b#14"],
            ),
            (
                &["--host", "h", "show", "https://github.com/a/b/issues/14"],
                &["show", "--", "https://github.com/a/b/issues/14"],
            ),
            (
                &["permit", "--base", "edit=allow", "--host", "h"],
                &[
                    "permit",
                    "--base",
                    "--repo=github.com/shoko/kugetsu",
                    "--",
                    "edit=allow",
                ],
            ),
            (
                &["destroy", "--base", "-y", "--repo", "a.b/c/d", "--host", "h"],
                &["destroy", "--base", "--repo=a.b/c/d", "--yes", "--"],
            ),
            (
                &["list", "--state", "new,running", "--state=lost", "--host", "h"],
                &["list", "--state=new", "--state=running", "--state=lost"],
            ),
            (
                &["init", "--dir", "d", "--prompt", "it's", "--host", "h"],
                &["init", "--dir=d", "--prompt-file=<it's>"],
            ),
            (
                &["logs", "-f", "--host", "h", "--", "14"],
                &["logs", "--follow", "--", "github.com/shoko/kugetsu#14"],
            ),
            (
                &["wait", "a/b#1", "--events-schema", "1", "--host", "h"],
                &["wait", "--events-schema=1", "--", "a/b#1"],
            ),
            (
                &["attach", "14", "--print", "--host", "h"],
                &["attach", "--print", "--", "github.com/shoko/kugetsu#14"],
            ),
        ] {
            assert_eq!(sent(words), expected, "{words:?}");
        }
    }

    #[test]
    fn prompts_go_through_stdin_and_plain_numbers_stay() {
        let words = [
            "continue",
            "14",
            "say",
            "14",
            "--wait",
            "--max-tokens",
            "14",
            "--host",
            "h",
        ];
        let line = line(&words.map(OsString::from));
        assert_eq!(
            plain(&line),
            [
                "continue",
                "--max-tokens=14",
                "--wait=3650d",
                "--",
                "github.com/shoko/kugetsu#14",
                "-"
            ]
        );
        assert_eq!(line.input, Input::Bytes(b"say 14".to_vec()));
    }

    #[test]
    fn the_words_of_a_task_are_a_session_of_this_clone_and_a_message() {
        let sent = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            let line = line(&words);
            (plain(&line).join(" "), line.input)
        };
        let message = || Input::Bytes(b"fix it".to_vec());
        for (words, expected, input) in [
            (
                &["submit", "#14", "fix", "it"][..],
                "submit -- github.com/shoko/kugetsu#14 -",
                message(),
            ),
            (&["submit", "a/b#14", "fix it"], "submit -- a/b#14 -", message()),
            (
                &["submit", "fix it"],
                "submit --repo=github.com/shoko/kugetsu -- -",
                message(),
            ),
            (
                &["submit", "--repo", "a/b", "fix", "it"],
                "submit --repo=a/b -- -",
                message(),
            ),
            (
                &["submit", "14", "-"],
                "submit -- github.com/shoko/kugetsu#14 -",
                Input::Live,
            ),
        ] {
            let words = [words, &["--host", "h"]].concat();
            assert_eq!(sent(&words), (expected.to_owned(), input), "{words:?}");
        }
    }

    /// `Line` writes each value as `--option=value` and requires a long name for every option.
    #[test]
    fn every_option_can_be_rewritten() {
        fn check(command: &Command) {
            for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
                assert!(arg.get_long().is_some(), "{} {arg}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        check(&command);
    }

    proptest! {
        #[test]
        fn any_bytes_go_over_as_they_are(words in proptest::collection::vec(
            proptest::collection::vec(1_u8.., 0..20), 1..5,
        )) {
            let words: Vec<_> = words.into_iter().map(OsString::from_vec).collect();
            let mut all: Vec<OsString> = ["--host", "h", "init", "--dir"].map(OsString::from).to_vec();
            let mut dir = OsString::from("d");
            dir.push(&words[0]);
            all.push(dir.clone());
            let mut expected = OsString::from("--dir=");
            expected.push(&dir);
            prop_assert_eq!(&line(&all).words[1..], &[Argument::Plain(expected)]);
        }
    }
}
