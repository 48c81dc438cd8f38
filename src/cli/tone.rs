//! Colours by what they mean.

use anstyle::{AnsiColor, Effects, Style};

use crate::terminal::Piece;
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
    pub(super) fn style(self) -> Style {
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

    /// The text in this tone.
    pub(super) fn of(self, text: &str) -> Piece<'_> {
        Piece::Styled(self.style(), text)
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
            Health::Fixable | Health::Warning | Health::Unknown => Self::Warn,
            Health::Bad => Self::Bad,
        }
    }
}
