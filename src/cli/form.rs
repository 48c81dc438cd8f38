//! The form of a turn's output on stdout: `--output`, `--json`, `--events`.

use clap::ValueEnum;

use super::output::Output;
use super::printer::Show;

/// The form of a turn's output on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputForm {
    /// The answer's text as it arrives.
    Text,
    /// One object at the end.
    Json,
    /// Every event as a JSON line.
    StreamJson,
}

impl OutputForm {
    /// The requested form. `lines` is true if another option only makes sense with lines.
    pub(super) fn chosen(form: Option<Self>, lines: bool, output: Output) -> Self {
        form.unwrap_or(if lines || output.json {
            Self::StreamJson
        } else {
            Self::Text
        })
    }

    /// What is printed while the turn runs: of lines, those of the given types, or all if none is given.
    pub(super) fn show(self, types: Vec<String>) -> Show {
        match self {
            Self::Text => Show::Text,
            Self::StreamJson => Show::Lines(types),
            Self::Json => Show::Nothing,
        }
    }
}
