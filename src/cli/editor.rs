//! The user's editor on a temporary file.

use std::io::{Read as _, Write as _};
use std::process::Command;

use tempfile::NamedTempFile;

use super::CommandError;
use kugetsu_api::ErrorCode;

/// A text in a file that only the user can read. The file is removed with this value.
#[derive(Debug)]
pub(super) struct Draft(NamedTempFile);

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
        file.and_then(write).map(Self).map_err(unusable)
    }

    /// Opens the editor and waits until it ends. Returns the text that is then in the file.
    pub(super) fn edit(&mut self) -> Result<String, CommandError> {
        let editor = ["VISUAL", "EDITOR"]
            .into_iter()
            .find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
            .unwrap_or_else(|| "vi".into());
        let name = editor.to_string_lossy().into_owned();
        // The variable may hold arguments, and quotes around them, so a shell reads it, as for git.
        let mut script = editor;
        script.push(" \"$@\"");
        let status = Command::new("/bin/sh")
            .arg("-c")
            .arg(script)
            .arg("editor")
            .arg(self.0.path())
            .status();
        let failed = |problem: String| {
            let message = format!("the editor `{name}` {problem}, so nothing was done");
            CommandError::new(ErrorCode::NotConfirmed, message)
                .hint("set VISUAL or EDITOR to an editor that waits until its file is closed")
        };
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(failed(format!("failed ({status})"))),
            Err(error) => return Err(failed(format!("cannot be run: {error}"))),
        }
        // Many editors write a new file of the same name.
        let mut text = String::new();
        std::fs::File::open(self.0.path())
            .and_then(|mut file| file.read_to_string(&mut text))
            .map_err(unusable)?;
        Ok(text)
    }

    /// Keeps the file. Returns its path.
    pub(super) fn keep(self) -> Result<std::path::PathBuf, CommandError> {
        let (file, path) = self.0.keep().map_err(|error| unusable(error.error))?;
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
