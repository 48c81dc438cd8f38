//! The supervisor of one turn: it owns the turn from the prompt to the verdict.
//!
//! Events of the transport, timers and signals come to one place; state, stream and verdict go out. Nobody
//! else decides how a turn ended.

pub mod control;
mod limits;
mod machine;
mod narrate;
pub mod status;
pub mod stream;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

pub use limits::Limits;
pub use machine::{Counts, Judgement, Machine, Step};

use crate::session::{SessionId, Verdict};
use crate::transport::{Answer, Event, Request, RequestKind, Target, Transport, TransportError};
use narrate::Narrator;
use stream::StreamWriter;

use control::{Control, Heard, Signal};

/// The reason of a turn that SIGINT ended.
pub const INTERRUPTED: &str = "interrupted";

/// A wish from outside that ends a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Nobody wants anything.
    None,
    /// SIGINT: end it.
    Interrupted,
    /// SIGTERM or SIGHUP: end it.
    Terminated,
    /// Asked a second time: end it without the grace period.
    Now,
}

/// How a turn ended, with all that was counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Verdict and reason.
    pub judgement: Judgement,
    /// What was counted.
    pub counts: Counts,
    /// The answer: the text of the last step that had any.
    pub answer: String,
    /// The signal that ended it, if one did.
    pub interrupt: Interrupt,
}

/// Runs one turn. `session_known` is called once, as soon as a fork's id is known and before anything else
/// happens; when it fails, the turn ends as failed, since a session that cannot be remembered is no result.
pub async fn supervise<T: Transport>(
    transport: &mut T,
    target: &Target,
    prompt: &str,
    limits: Limits,
    mut stream: StreamWriter,
    mut interrupts: watch::Receiver<Interrupt>,
    mut control: Control,
    mut session_known: impl FnMut(&SessionId) -> Result<(), String>,
) -> Outcome {
    let began = Instant::now();
    let mut machine = Machine::new(limits);
    let mut narrator = Narrator::default();
    let mut interrupt = *interrupts.borrow_and_update();
    let mut session = match target {
        Target::Session(session) => Some(session.clone()),
        Target::ForkOf(_) => None,
    };
    let judgement = 'turn: {
        if interrupt != Interrupt::None {
            break 'turn aborted(interrupt);
        }
        if let Err(error) = transport.prompt(target, prompt).await {
            break 'turn Judgement::new(Verdict::Failed, error.to_string());
        }
        loop {
            let deadline = tokio::time::Instant::from_std(began + machine.deadline());
            let step = tokio::select! {
                biased;
                Ok(()) = interrupts.changed() => {
                    interrupt = *interrupts.borrow_and_update();
                    Step::Stop(aborted(interrupt))
                }
                event = transport.next() => {
                    if let Event::Session(id) = &event
                        && session.is_none()
                    {
                        session = Some(id.clone());
                        if let Err(problem) = session_known(id) {
                            break 'turn Judgement::new(Verdict::Failed, problem);
                        }
                    }
                    narrator.tell(&event, &mut stream);
                    let step = machine.event(&event, began.elapsed(), Timestamp::now());
                    control.board.heard(&event, &machine.counts);
                    step
                }
                heard = control.next() => match heard {
                    Heard::Signal(Signal::Stop) => {
                        interrupt = Interrupt::Terminated;
                        Step::Stop(Judgement::new(Verdict::Aborted, "stopped"))
                    }
                    _ => Step::Go,
                },
                () = tokio::time::sleep_until(deadline) => machine.tick(began.elapsed()),
            };
            match step {
                Step::Go => {}
                Step::Ask(request) => {
                    let answer = automatic_answer(&request);
                    narrator.asked(&request, &answer, &mut stream);
                    if let Err(error) = transport.answer(&request, &answer).await {
                        narrator.notice("error", &error.to_string(), &mut stream);
                    }
                }
                Step::Stop(judgement) => {
                    if interrupt != Interrupt::Now {
                        abort(transport, &mut interrupts, &mut interrupt).await;
                    }
                    break 'turn judgement;
                }
                Step::Done(judgement) => break 'turn judgement,
            }
        }
    };
    tokio::select! {
        () = transport.close(interrupt == Interrupt::Now) => {}
        () = asked_again(&mut interrupts) => {
            interrupt = Interrupt::Now;
        }
    }
    if interrupt == Interrupt::Now {
        transport.close(true).await;
    }
    let counts = machine.counts;
    narrator.end(&judgement, session.as_ref(), counts, began.elapsed(), &mut stream);
    Outcome {
        judgement,
        counts,
        answer: narrator.answer(),
        interrupt,
    }
}

/// Asks opencode to end its turn, for as long as nobody asks a second time.
async fn abort<T: Transport>(
    transport: &mut T,
    interrupts: &mut watch::Receiver<Interrupt>,
    interrupt: &mut Interrupt,
) {
    let over = async {
        transport.abort().await;
    };
    tokio::select! {
        () = over => {}
        () = asked_again(interrupts) => *interrupt = Interrupt::Now,
    }
}

async fn asked_again(interrupts: &mut watch::Receiver<Interrupt>) {
    while interrupts.changed().await.is_ok() {
        if *interrupts.borrow_and_update() == Interrupt::Now {
            return;
        }
    }
    std::future::pending::<()>().await;
}

fn aborted(interrupt: Interrupt) -> Judgement {
    let by = match interrupt {
        Interrupt::Terminated => "terminated",
        _ => INTERRUPTED,
    };
    Judgement::new(Verdict::Aborted, by)
}

/// What a headless turn answers: permissions are refused, questions are not answered. opencode tells the
/// model, and the turn goes on or ends by itself.
fn automatic_answer(request: &Request) -> Answer {
    match request.kind {
        RequestKind::Permission { .. } | RequestKind::Question(_) => Answer::Reject,
    }
}

/// A transport error as the judgement of a turn that never began.
pub fn never_began(error: &TransportError) -> Judgement {
    Judgement::new(Verdict::Failed, error.to_string())
}

/// Milliseconds, for `--json`.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
