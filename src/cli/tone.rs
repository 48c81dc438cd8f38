//! Colours by what they mean. Text becomes harmless first and is coloured after that, so that no text from outside can
//! choose a colour.

use anstream::AutoStream;
use anstream::stream::RawStream;
use anstyle::{AnsiColor, Effects, Style};

use super::terminal::safe;
use kugetsu_api::{Health, SessionState, Verdict};

/// What a piece of text means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    /// The head of a table.
    Strong,
    /// All is well.
    Good,
    /// Something runs.
    Live,
    /// A person or time is needed.
    Warn,
    /// Something failed.
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        let colour = |colour: AnsiColor| colour.on_default();
        match self {
            Self::Plain => Style::new(),
            Self::Strong => Style::new().effects(Effects::BOLD),
            Self::Good => colour(AnsiColor::Green),
            Self::Live => colour(AnsiColor::Cyan),
            Self::Warn => colour(AnsiColor::Yellow),
            Self::Bad => colour(AnsiColor::Red).effects(Effects::BOLD),
        }
    }

    /// The text without anything that a terminal obeys, and with `coloured` in this tone.
    pub(super) fn paint(self, text: &str, coloured: bool) -> String {
        let style = if coloured { self.style() } else { Style::new() };
        format!("{style}{}{style:#}", safe(text))
    }
}

impl From<Verdict> for Tone {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Completed => Self::Good,
            Verdict::Blocked | Verdict::Quota | Verdict::Aborted => Self::Warn,
            Verdict::Failed
            | Verdict::Timeout
            | Verdict::Stalled
            | Verdict::Looping
            | Verdict::Void
            | Verdict::Lost => Self::Bad,
        }
    }
}

impl From<SessionState> for Tone {
    fn from(state: SessionState) -> Self {
        match state {
            SessionState::New => Self::Plain,
            SessionState::Running | SessionState::Paused => Self::Live,
            SessionState::Lost => Self::Bad,
            SessionState::Ended(verdict) => verdict.into(),
        }
    }
}

impl From<Health> for Tone {
    fn from(health: Health) -> Self {
        match health {
            Health::Good | Health::Fixed => Self::Good,
            Health::Fixable | Health::Look | Health::Unknown => Self::Warn,
            Health::Bad => Self::Bad,
        }
    }
}

/// Whether to colour what goes to this stream: `NO_COLOR`, `CLICOLOR_FORCE`, `CLICOLOR` and `TERM` decide, and for a
/// pipe or a file only `CLICOLOR_FORCE`.
pub(super) fn colours(stream: &impl RawStream) -> bool {
    AutoStream::choice(stream) != anstream::ColorChoice::Never
}
