//! The supervisor of one turn. It owns the turn from the prompt to the verdict.
//!
//! Events of the transport, timers, signals and replies go in; state, stream and verdict come out. Only the supervisor
//! decides how a turn ended.

pub mod answers;
#[cfg(not(feature = "internals"))]
pub(crate) mod control;
#[cfg(feature = "internals")]
pub mod control;
mod encoder;
mod limits;
mod machine;
mod progress;
mod resume;
#[cfg(not(feature = "internals"))]
pub(crate) mod status;
#[cfg(feature = "internals")]
pub mod status;
pub mod stream;
mod supervisor;

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

pub use answers::Responder;
pub use limits::Limits;
#[cfg(not(any(test, feature = "internals")))]
pub(crate) use machine::{Counts, Judgement};
#[cfg(any(test, feature = "internals"))]
pub use machine::{Counts, Judgement, Machine, Step};
pub use resume::GO_ON;
pub(crate) use supervisor::supervise;

use crate::permission::Rule;
use crate::transport::{Request, Target, TurnSpec};
pub(crate) use control::BudgetWatch;
use control::Control;
pub use control::SharedBudget;
pub(crate) use encoder::MAX_ANSWER;
use encoder::StreamEncoder;
use kugetsu_api::{Answered, Proof, Refused, SessionId, TurnRecord};
use stream::{StreamEvent, StreamWriter};

/// The reason of a turn that SIGINT ended.
pub(crate) const INTERRUPTED: &str = "interrupted";

/// Why a turn failed although opencode went on: the times of the messages show it.
pub(crate) const CLOCK_WENT_BACK: &str = "the system's clock went back, so opencode takes older messages of the session for newer ones; repair the session \
     with: kugetsu doctor --fix";

/// A request from outside to end a turn. A greater value is more urgent; an interrupt never becomes less urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interrupt {
    /// No request: the turn continues.
    None,
    /// SIGINT: end the turn.
    Interrupted,
    /// SIGTERM or SIGHUP: end the turn.
    Terminated,
    /// A second request: end the turn without the grace period.
    Now,
}

/// One turn to run.
#[derive(Debug)]
pub(crate) struct Turn {
    /// How opencode is started, also after a crash.
    pub spec: TurnSpec,
    /// The session that receives the prompt, or the base to fork.
    pub target: Target,
    /// The newest messages of the session before the turn. Those of a fork that is made with the prompt are known once the
    /// fork is recorded.
    pub after: Vec<String>,
    /// The prompt, byte for byte.
    pub prompt: String,
    /// The limits of the turn.
    pub limits: Limits,
    /// Answers opencode's requests.
    pub responder: Responder,
    /// The rules of the session's policy if nobody answers. They tell whether a request that nobody answers is refused
    /// as a rule refuses it, so that the model continues.
    pub unattended: Vec<Rule>,
    /// The turn's stream.
    pub stream: StreamWriter,
    /// Requests to end the turn.
    pub interrupts: watch::Receiver<Interrupt>,
    /// Signal files, and the progress for the status file.
    pub control: Control,
}

/// How a turn ended, with its counts.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Verdict and reason.
    pub judgement: Judgement,
    /// The counts of the turn.
    pub counts: Counts,
    /// The answer: the text of the last step that produced text, at most [`MAX_ANSWER`] bytes of it.
    pub answer: String,
    /// The interrupt that ended the turn, if one did.
    pub interrupt: Interrupt,
    /// How often opencode was started again after a crash.
    pub restarts: u32,
    /// The number of requests that were answered, by source.
    pub answered: Answered,
    /// From the first prompt to the first text, reasoning or tool call of the model.
    pub first_output: Option<Duration>,
    /// The tool calls that were refused.
    pub refused: Refused,
    /// The request on which the turn is blocked.
    pub blocked_on: Option<Request>,
    /// The evidence for the judgement.
    pub proof: Proof,
    /// The end of the stream, still to be written.
    pub ending: StreamEnd,
}

/// The end of a turn's stream. The last line contains the verdict, so the line is written after the verdict has been
/// checked against the stored messages.
#[derive(Debug)]
#[must_use = "without it, the stream has no end"]
pub(crate) struct StreamEnd {
    encoder: StreamEncoder,
    stream: StreamWriter,
    session: Option<SessionId>,
    took: Duration,
}

impl StreamEnd {
    /// Adds a warning for readers of the stream.
    pub(crate) fn warn(&mut self, message: &str) {
        self.encoder.notice("warning", message, &mut self.stream);
    }

    /// Whether a part of the answer is known to be missing.
    pub(crate) fn lacks_text(&self) -> bool {
        self.encoder.lacks_text()
    }

    /// Completes the answer from its stored text, or with the length of a text that is too long to be read. Returns the
    /// answer.
    pub(crate) fn complete(&mut self, stored: Result<String, u64>) -> String {
        self.encoder.complete(stored, &mut self.stream);
        self.encoder.answer()
    }

    /// Writes the last line of this turn. Returns why earlier events are missing, if they are.
    pub(crate) fn write(self, turn: &TurnRecord) -> Option<String> {
        let whole = !self.encoder.has_gap(&self.stream);
        let end = StreamEvent::AgentEnd {
            verdict: turn.verdict,
            reason: turn.reason.clone(),
            session: self.session,
            steps: turn.steps,
            tool_calls: turn.tool_calls,
            cost_usd: turn.cost_usd,
            tokens: turn.tokens,
            duration_ms: millis(self.took),
            restarts: turn.restarts,
            retry_at: turn.retry_at,
            proof: turn.proof.clone(),
            changes: turn.changes.clone().map(Box::new),
            refused: turn.refused.clone(),
            exit_status: turn.verdict.exit_status_of_output(whole).code(),
        };
        self.encoder.end(self.stream, end)
    }
}

/// Records the id of a fork before anything else happens.
#[async_trait]
pub(crate) trait ForkRecorder: Send {
    /// Called once, as soon as the id is known. Returns the newest messages that are copied from the base. An error ends the turn as failed, because a session that is not on
    /// record is not a result.
    async fn record_fork(&mut self, session: &SessionId) -> Result<Vec<String>, String>;
}

/// Milliseconds, for `--json`.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
