//! What is asked of a turn, and what came of it.

use std::time::Duration;

use uuid::Uuid;

use super::WorktreeRequest;
use crate::turn::{Interrupt, Limits};
use kugetsu_api::{Address, SessionRecord, TransportChoice, TurnRecord};

/// What may be done with an issue that has, or has not, a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It must have none.
    Start,
    /// It must have one.
    Continue,
    /// Either.
    ContinueOrStart,
}

impl Mode {
    /// Every [`Mode::verb`].
    pub(super) const VERBS: [&str; 2] = ["start", "continue"];

    /// The command that it is.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Continue | Self::ContinueOrStart => "continue",
        }
    }
}

/// How a turn runs.
#[derive(Clone, Debug)]
pub struct TurnOptions {
    /// How it reaches opencode.
    pub transport: TransportChoice,
    /// What it may take.
    pub limits: Limits,
    /// `provider/model`, if not the session's own.
    pub model: Option<String>,
    /// The agent, if not the session's own.
    pub agent: Option<String>,
    /// opencode's log at DEBUG into the session's `debug.log`.
    pub debug: bool,
}

/// One prompt for one session.
#[derive(Clone, Debug)]
pub struct TurnRequest {
    /// The issue.
    pub address: Address,
    /// As it was typed.
    pub typed: String,
    /// The turn's id, where whoever asks gives it one: a turn of this id is not run twice.
    pub turn: Option<Uuid>,
    /// The prompt, byte for byte.
    pub prompt: String,
    /// What is allowed.
    pub mode: Mode,
    /// How long to wait for a lease that is held.
    pub wait: Option<Duration>,
    /// Whether a new session gets a git worktree.
    pub worktree: WorktreeRequest,
    /// How the turn runs.
    pub options: TurnOptions,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct TurnReport {
    /// The record as it is now.
    pub record: SessionRecord,
    /// The turn.
    pub turn: TurnRecord,
    /// The answer.
    pub answer: String,
    /// The signal that ended it, if one did.
    pub interrupt: Interrupt,
    /// A turn whose supervisor had died was closed before this one began.
    pub adopted: Option<TurnRecord>,
    /// Why the turn went through `run` although `serve` was preferred.
    pub fallback: Option<String>,
    /// What else a person should know: a worktree that was made again, a hook that failed after the turn.
    pub notes: Vec<String>,
}
