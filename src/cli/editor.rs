//! The user's editor on a temporary file.

use std::ffi::OsString;
use std::io::{ErrorKind, Read as _, Write as _};
use std::process::Command;

use tempfile::NamedTempFile;

use super::CommandError;
use super::output::Output;
use super::signals::LastWords;
use kugetsu_api::ErrorCode;
use kugetsu_api::exit::ExitStatus;

/// A text in a file that only the user can read. The file is removed with this value, but stays if a signal ends the
/// process.
#[derive(Debug)]
pub(super) struct Draft {
    file: NamedTempFile,
    last_words: LastWords,
}

impl Draft {
    /// A file with this text. The ending tells the editor the language.
    pub(super) fn new(text: &str, ending: &str) -> Result<Self, CommandError> {
        let mut builder = tempfile::Builder::new();
        let file = builder.prefix("kugetsu-").suffix(ending).tempfile();
        let write = |mut file: NamedTempFile| {
            file.write_all(text.as_bytes())?;
            file.flush()?;
            Ok(file)
        };
        let file = file.and_then(write).map_err(unusable)?;
        let path = file.path().to_owned();
        let last_words = LastWords::new(move || {
            Output::new(false).note(format!("kugetsu: your text is in {}", path.display()));
        })?;
        Ok(Self { file, last_words })
    }

    /// Opens the editor and waits until it ends. Returns the text that is then in the file. Ctrl-C is for
    /// the editor.
    pub(super) fn edit(&self) -> Result<String, CommandError> {
        let editor = ["VISUAL", "EDITOR"]
            .into_iter()
            .find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
            .unwrap_or_else(|| "vi".into());
        let name = editor.to_string_lossy().into_owned();
        // The variable may hold arguments, and quotes around them, so a shell reads it, as for git.
        // Ctrl-C must not end that shell before the editor.
        let mut script = OsString::from("trap : INT; ");
        script.push(editor);
        script.push(" \"$@\"");
        let status = self.last_words.during(|| {
            Command::new("/bin/sh")
                .arg("-c")
                .arg(script)
                .arg("editor")
                .arg(self.file.path())
                .status()
        });
        let failed = |problem: String| {
            let message = format!("the editor `{name}` {problem}, so nothing was done");
            CommandError::new(ErrorCode::NotConfirmed, message)
        };
        let hint = "set VISUAL or EDITOR to an editor that waits until its file is closed";
        match status {
            Ok(status) if status.success() => {}
            // The shell reports a program that Ctrl-C has ended by this status.
            Ok(status) if status.code() == Some(130) => {
                return Err(failed("was interrupted".to_owned()).after(Some(ExitStatus::Interrupted)));
            }
            Ok(status) => return Err(failed(format!("failed ({status})")).hint(hint)),
            Err(error) => return Err(failed(format!("cannot be run: {error}")).hint(hint)),
        }
        self.text()
    }

    /// The text in the file. Many editors write a new file of the same name.
    pub(super) fn text(&self) -> Result<String, CommandError> {
        let mut text = String::new();
        std::fs::File::open(self.file.path())
            .and_then(|mut file| file.read_to_string(&mut text))
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidData => CommandError::new(
                    ErrorCode::NotConfirmed,
                    "the text that the editor saved is not UTF-8",
                )
                .hint("save it as UTF-8"),
                _ => unusable(error),
            })?;
        Ok(text)
    }

    /// Keeps the file. Returns the error with its place.
    pub(super) fn keep_after(self, error: CommandError) -> CommandError {
        match self.keep() {
            Ok(path) => error.hint(format!("your text is in {}", path.display())),
            Err(unkept) => error.hint(unkept.for_people()),
        }
    }

    /// Keeps the file. Returns its path.
    pub(super) fn keep(self) -> Result<std::path::PathBuf, CommandError> {
        let (file, path) = self.file.keep().map_err(|error| unusable(error.error))?;
        drop(file);
        Ok(path)
    }
}

fn unusable(error: std::io::Error) -> CommandError {
    CommandError::new(
        ErrorCode::System,
        "the text for the editor cannot be kept in a temporary file",
    )
    .caused_by(error)
    .hint("set TMPDIR to a folder of your own")
}
