//! How a turn is shown on stdout: `--output`, `--json`, `--events`.

use clap::ValueEnum;

use super::output::Output;

/// How a turn is shown on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputForm {
    /// The answer's text as it comes.
    Text,
    /// One object at the end.
    Json,
    /// Every event as a JSON line.
    StreamJson,
}

impl OutputForm {
    /// The form that was asked for, one way or the other; `lines`: by something that only lines can tell.
    pub(super) fn chosen(form: Option<Self>, lines: bool, output: Output) -> Self {
        form.unwrap_or(if lines || output.json {
            Self::StreamJson
        } else {
            Self::Text
        })
    }
}
