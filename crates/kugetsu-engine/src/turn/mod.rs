//! The supervisor of one turn: it owns the turn from the prompt to the verdict.
//!
//! Events of the transport, timers, signals and replies come to one place; state, stream and verdict go out.
//! Nobody else decides how a turn ended.

pub mod answers;
pub mod control;
mod encoder;
mod limits;
mod machine;
mod progress;
mod resume;
pub mod status;
pub mod stream;
mod supervisor;

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

pub use answers::Responder;
pub use limits::Limits;
pub use machine::{Counts, Judgement, Machine, Step};
pub use supervisor::supervise;

use crate::transport::{Request, Target, TurnSpec};
use control::Control;
use encoder::StreamEncoder;
use kugetsu_api::{Answered, Proof, SessionId};
use stream::{StreamEvent, StreamWriter};

/// The reason of a turn that SIGINT ended.
pub const INTERRUPTED: &str = "interrupted";

/// A request from outside to end a turn. A greater one is more urgent; an interrupt never becomes less urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interrupt {
    /// The turn goes on.
    None,
    /// SIGINT: end it.
    Interrupted,
    /// SIGTERM or SIGHUP: end it.
    Terminated,
    /// A second request: end it without the grace period.
    Now,
}

/// One turn to run.
#[derive(Debug)]
pub struct Turn {
    /// How opencode is started, and started again after a crash.
    pub spec: TurnSpec,
    /// Where the prompt goes.
    pub target: Target,
    /// The prompt, byte for byte.
    pub prompt: String,
    /// What the turn may take.
    pub limits: Limits,
    /// Who answers when opencode asks.
    pub responder: Responder,
    /// Where it is told.
    pub stream: StreamWriter,
    /// Requests to end it.
    pub interrupts: watch::Receiver<Interrupt>,
    /// Signals by files, and the progress that the status file tells.
    pub control: Control,
}

/// How a turn ended, with all that was counted.
#[derive(Debug)]
pub struct Outcome {
    /// Verdict and reason.
    pub judgement: Judgement,
    /// What was counted.
    pub counts: Counts,
    /// The answer: the text of the last step that had any, at most 4 MiB of it.
    pub answer: String,
    /// The signal that ended it, if one did.
    pub interrupt: Interrupt,
    /// How often opencode was started again after a crash.
    pub restarts: u32,
    /// How many requests the answers file, a supervisor and the default answered.
    pub answered: Answered,
    /// The request on which the turn is blocked.
    pub blocked_on: Option<Request>,
    /// What the judgement rests on.
    pub proof: Proof,
    /// The last line of the stream, to be written.
    pub ending: StreamEnd,
}

/// The end of a turn's stream. Its last line tells the verdict, so it is written by whoever has checked that one.
#[derive(Debug)]
#[must_use = "the stream has no end without it"]
pub struct StreamEnd {
    encoder: StreamEncoder,
    stream: StreamWriter,
    session: Option<SessionId>,
    restarts: u32,
    took: Duration,
}

impl StreamEnd {
    /// Writes it; gives why events before it are missing.
    pub fn tell(self, judgement: &Judgement, counts: Counts, proof: Proof) -> Option<String> {
        let whole = !self.encoder.has_gap(&self.stream);
        let end = StreamEvent::AgentEnd {
            verdict: judgement.verdict,
            reason: judgement.reason.clone(),
            session: self.session,
            steps: counts.steps,
            tool_calls: counts.tool_calls,
            cost_usd: counts.cost_usd,
            tokens: counts.tokens,
            duration_ms: millis(self.took),
            restarts: self.restarts,
            retry_at: judgement.retry_at,
            proof,
            exit_status: judgement.verdict.exit_status_of_output(whole).code(),
        };
        self.encoder.end(self.stream, end)
    }
}

/// Who must know a fork's id before anything else happens.
#[async_trait]
pub trait ForkKeeper: Send {
    /// Called once, as soon as the id is known. When it fails, the turn ends as failed, since a session that cannot be
    /// remembered is not a result.
    async fn fork_known(&mut self, session: &SessionId) -> Result<(), String>;
}

/// Milliseconds, for `--json`.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
