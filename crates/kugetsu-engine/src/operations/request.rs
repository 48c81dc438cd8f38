//! The request for a turn, and the report about it.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::WorktreeRequest;
use super::hooks::HookPoint;
use crate::turn::{Interrupt, Limits};
use kugetsu_api::permission::Rule;
use kugetsu_api::{Address, SandboxMode, SessionRecord, TransportChoice, TurnRecord};

/// Whether the session must already exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The session must not exist.
    Start,
    /// The session must exist.
    Continue,
    /// The session may exist or not.
    ContinueOrStart,
}

impl Mode {
    /// All values of [`Mode::verb`].
    pub(super) const VERBS: [&str; 2] = ["start", "continue"];

    /// The name of the command.
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
    /// How the turn reaches opencode.
    pub transport: TransportChoice,
    /// The limits of the turn.
    pub limits: Limits,
    /// The model as `provider/model`, unless the session's own is used.
    pub model: Option<String>,
    /// The agent, unless the session's own is used.
    pub agent: Option<String>,
    /// Whether the record keeps the prompt.
    pub keep_prompt: bool,
    /// Whether opencode's log at DEBUG goes into the session's `debug.log`.
    pub debug: bool,
}

/// The id of the turn that a caller names by any text. A UUID is the id itself. Another text stands for an id of the one
/// session, so that the same text never names turns of two sessions.
pub fn turn_id(address: &Address, text: &str) -> Uuid {
    text.parse().unwrap_or_else(|_| {
        let digest = Sha256::digest(format!("{address}\0{text}"));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    })
}

/// One prompt for one session.
#[derive(Clone, Debug)]
pub struct TurnRequest {
    /// The session's address.
    pub address: Address,
    /// The address as the user typed it.
    pub typed: String,
    /// The turn's id, if the caller chose one. A turn with an id that is already on record does not run again.
    pub turn: Option<Uuid>,
    /// The prompt, byte for byte.
    pub prompt: String,
    /// The turns that were to deliver the same prompt before. If one of them is on record with a verdict that calls for no
    /// other attempt (that is, neither lost, quota nor aborted), this turn does not run, as if it had that id. If one of
    /// them has brought the prompt to the session, and no other turn came after it, the session is told to go on instead.
    pub earlier: Vec<Uuid>,
    /// The title of the issue, if the prompt includes the issue's text. It goes into the record.
    pub issue_title: Option<String>,
    /// Whether the session must already exist.
    pub mode: Mode,
    /// How long to wait for a lease that is held.
    pub wait: Option<Duration>,
    /// Whether a new session gets a git worktree.
    pub worktree: WorktreeRequest,
    /// Whether a new session is sandboxed; `None`: as its base says.
    pub sandbox: Option<SandboxMode>,
    /// Rules that are added to the session's for this turn only.
    pub narrowing: Vec<Rule>,
    /// How the turn runs.
    pub options: TurnOptions,
}

impl TurnRequest {
    /// The message that a repeated request must have too. None with the text of an issue, which changes by itself.
    pub(super) fn message(&self) -> Option<&str> {
        self.issue_title.is_none().then_some(&self.prompt)
    }
}

/// The result of a turn.
#[derive(Clone, Debug)]
pub struct TurnReport {
    /// The record after the turn.
    pub record: SessionRecord,
    /// The turn.
    pub turn: TurnRecord,
    /// The answer.
    pub answer: String,
    /// The signal that ended the turn, if one did.
    pub interrupt: Interrupt,
    /// The turn of a dead supervisor that was closed before this turn began.
    pub adopted: Option<TurnRecord>,
    /// Why the turn used `run` although `serve` was preferred.
    pub fallback: Option<String>,
    /// Notes for people from before the turn, for example that a worktree was remade. They are in the turn's stream as
    /// well.
    pub early_notes: Vec<String>,
    /// Further notes for people, for example that the hook after the turn failed.
    pub notes: Vec<String>,
    /// How long the turn took, whatever the system's clock did meanwhile, if it ran in this process.
    pub took: Duration,
    /// The hooks that the turn's warnings say were skipped.
    pub(super) skipped_hooks: Vec<HookPoint>,
}
