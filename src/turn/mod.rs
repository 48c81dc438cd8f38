//! The supervisor of one turn: it owns the turn from the prompt to the verdict.
//!
//! Events of the transport, timers, signals and replies come to one place; state, stream and verdict go out.
//! Nobody else decides how a turn ended.

pub mod answers;
mod limits;
mod machine;
mod narrate;
mod resume;
pub mod stream;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

pub use answers::Responder;
pub use limits::Limits;
pub use machine::{Counts, Judgement, Machine, Step};

use crate::session::{Answered, SessionId, Verdict};
use crate::transport::{Answer, Event, Request, Setup, Target, Transport, TransportError};
use answers::{By, Reply, interpret};
use narrate::Narrator;
use resume::{Held, held};
use stream::StreamWriter;

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

/// One turn to run.
#[derive(Debug)]
pub struct Turn<'a> {
    /// How opencode is started, and started again after a crash.
    pub setup: Setup,
    /// Where the prompt goes.
    pub target: Target,
    /// The prompt, byte for byte.
    pub prompt: &'a str,
    /// What the turn may take.
    pub limits: Limits,
    /// Who answers when opencode asks.
    pub responder: Responder,
    /// Where it is told.
    pub stream: StreamWriter,
    /// Wishes to end it.
    pub interrupts: watch::Receiver<Interrupt>,
}

/// How a turn ended, with all that was counted.
#[derive(Clone, Debug, PartialEq)]
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
}

/// How one life of opencode within a turn ended.
enum Life {
    /// With a judgement, by itself or by us.
    Judged(Judgement),
    /// It crashed.
    Crashed(String),
}

/// Runs one turn. `session_known` is called once, as soon as a fork's id is known and before anything else
/// happens; when it fails, the turn ends as failed, since a session that cannot be remembered is no result.
pub async fn supervise<T: Transport>(
    turn: Turn<'_>,
    transport: T,
    session_known: impl FnMut(&SessionId) -> Result<(), String>,
) -> Outcome {
    let session = match &turn.target {
        Target::Session(session) => Some(session.clone()),
        Target::ForkOf(_) => None,
    };
    let supervisor = Supervisor {
        began: Instant::now(),
        started: Timestamp::now(),
        machine: Machine::new(turn.limits.clone()),
        narrator: Narrator::new(turn.setup.secrets.redactor.clone()),
        interrupt: Interrupt::None,
        session,
        session_known,
        asked: Vec::new(),
        answered: Answered::default(),
        blocked_on: None,
        restarts: 0,
        turn,
    };
    supervisor.run(transport).await
}

struct Supervisor<'a, K> {
    turn: Turn<'a>,
    began: Instant,
    started: Timestamp,
    machine: Machine,
    narrator: Narrator,
    interrupt: Interrupt,
    session: Option<SessionId>,
    session_known: K,
    /// Requests that wait for a supervisor, and until when.
    asked: Vec<(Request, tokio::time::Instant)>,
    answered: Answered,
    blocked_on: Option<Request>,
    restarts: u32,
}

impl<K: FnMut(&SessionId) -> Result<(), String>> Supervisor<'_, K> {
    async fn run<T: Transport>(mut self, first: T) -> Outcome {
        let mut transport = Some(first);
        let mut prompt = self.turn.prompt.to_owned();
        let judgement = loop {
            let life = match transport.take() {
                Some(mut transport) => {
                    let life = self.live(&mut transport, &prompt).await;
                    self.close(&mut transport).await;
                    life
                }
                None => match T::open(self.turn.setup.clone()).await {
                    Ok(opened) => {
                        transport = Some(opened);
                        continue;
                    }
                    Err(error) => Life::Crashed(error.to_string()),
                },
            };
            let crash = match life {
                Life::Judged(judgement) => break judgement,
                Life::Crashed(crash) => crash,
            };
            match self.after_crash(&crash).await {
                Ok(next) => prompt = next,
                Err(judgement) => break judgement,
            }
        };
        let reason = self
            .turn
            .setup
            .secrets
            .redactor
            .clean(&judgement.reason)
            .into_owned();
        let judgement = Judgement { reason, ..judgement };
        let counts = self.machine.counts;
        self.narrator.end(
            &judgement,
            self.session.as_ref(),
            counts,
            self.restarts,
            self.began.elapsed(),
            &mut self.turn.stream,
        );
        Outcome {
            judgement,
            counts,
            answer: self.narrator.answer(),
            interrupt: self.interrupt,
            restarts: self.restarts,
            answered: self.answered,
            blocked_on: self.blocked_on,
        }
    }

    /// What to deliver after a crash: waits, and looks at what the session holds already, since a prompt is
    /// never sent twice.
    async fn after_crash(&mut self, crash: &str) -> Result<String, Judgement> {
        let failed = |text: &str| Judgement::new(Verdict::Failed, format!("{text}{crash}"));
        if self.interrupt != Interrupt::None {
            return Err(aborted(self.interrupt));
        }
        if self.restarts >= self.turn.limits.restarts {
            let text = match self.restarts {
                0 => String::new(),
                n => format!("after {n} restarts: "),
            };
            return Err(failed(&text));
        }
        self.restarts += 1;
        let pause = Duration::from_secs(5 * u64::from(self.restarts)).min(Duration::from_secs(30));
        self.narrator.notice(
            "restart",
            &format!(
                "opencode crashed ({crash}); restart {} of {} in {} s",
                self.restarts,
                self.turn.limits.restarts,
                pause.as_secs()
            ),
            &mut self.turn.stream,
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = self.turn.interrupts.changed() => {
                self.interrupt = *self.turn.interrupts.borrow_and_update();
                return Err(aborted(self.interrupt));
            }
        }
        if let Step::Stop(judgement) = self.machine.tick(self.began.elapsed()) {
            return Err(judgement);
        }
        let Some(session) = self.session.clone() else {
            return Ok(self.turn.prompt.to_owned());
        };
        self.turn.target = Target::Session(session.clone());
        self.machine.reborn(self.began.elapsed());
        match held(
            &self.turn.setup.opencode.database,
            &session,
            self.turn.prompt,
            self.started,
        ) {
            Ok(Held::Nothing) => Ok(self.turn.prompt.to_owned()),
            Ok(Held::Prompt) => Ok(resume::GO_ON.to_owned()),
            Ok(Held::Answer) => Err(Judgement::new(Verdict::Completed, "")),
            // Not knowing is no reason to send a prompt twice.
            Err(error) => Err(failed(&format!("{error}; before that: "))),
        }
    }

    /// One life of opencode, from the prompt on.
    async fn live<T: Transport>(&mut self, transport: &mut T, prompt: &str) -> Life {
        self.interrupt = *self.turn.interrupts.borrow_and_update();
        if self.interrupt != Interrupt::None {
            return Life::Judged(aborted(self.interrupt));
        }
        match transport.prompt(&self.turn.target, prompt).await {
            Ok(()) => {}
            Err(error @ TransportError::Request { .. }) => return Life::Crashed(error.to_string()),
            Err(error) => return Life::Judged(Judgement::new(Verdict::Failed, error.to_string())),
        }
        loop {
            let step = self.wait(transport).await;
            match step {
                Step::Go => {}
                Step::Ask(request) => {
                    if let Some(judgement) = self.ask(transport, request).await {
                        self.abort(transport).await;
                        return Life::Judged(judgement);
                    }
                }
                Step::Stop(judgement) => {
                    self.abort(transport).await;
                    return Life::Judged(judgement);
                }
                Step::Done(judgement) => return Life::Judged(judgement),
                Step::Crashed(crash) => return Life::Crashed(crash),
            }
        }
    }

    /// Waits for whatever comes first.
    async fn wait<T: Transport>(&mut self, transport: &mut T) -> Step {
        let deadline = tokio::time::Instant::from_std(self.began + self.machine.deadline());
        let response = self.asked.iter().map(|(_, until)| *until).min();
        let reply = async {
            match &mut self.turn.responder.supervisor {
                Some((replies, _)) => match replies.recv().await {
                    Some(reply) => reply,
                    None => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        let overdue = async {
            match response {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Ok(()) = self.turn.interrupts.changed() => {
                self.interrupt = *self.turn.interrupts.borrow_and_update();
                Step::Stop(aborted(self.interrupt))
            }
            event = transport.next() => self.hear(&event),
            reply = reply => self.replied(transport, &reply).await,
            () = overdue => self.overdue(transport).await,
            () = tokio::time::sleep_until(deadline) => self.machine.tick(self.began.elapsed()),
        }
    }

    fn hear(&mut self, event: &Event) -> Step {
        if let Event::Session(id) = event
            && self.session.is_none()
        {
            self.session = Some(id.clone());
            if let Err(problem) = (self.session_known)(id) {
                return Step::Stop(Judgement::new(Verdict::Failed, problem));
            }
        }
        if let Event::Answered(id) = event {
            self.asked.retain(|(request, _)| request.id != *id);
        }
        self.narrator.tell(event, &mut self.turn.stream);
        self.machine.event(event, self.began.elapsed(), Timestamp::now())
    }

    /// opencode asks: the file answers, or a supervisor is waited for, or the default answers. A judgement:
    /// the turn is blocked.
    async fn ask<T: Transport>(&mut self, transport: &mut T, request: Request) -> Option<Judgement> {
        self.narrator.asked(&request, &mut self.turn.stream);
        if let Some(answer) = self.turn.responder.from_file(&request) {
            self.answer(transport, &request, &answer, By::File).await;
            return None;
        }
        if let Some((_, patience)) = &self.turn.responder.supervisor {
            let until = tokio::time::Instant::now() + *patience;
            self.asked.push((request, until));
            return None;
        }
        self.default(transport, request).await
    }

    async fn default<T: Transport>(&mut self, transport: &mut T, request: Request) -> Option<Judgement> {
        if let Some(answer) = self.turn.responder.by_default(&request) {
            self.answer(transport, &request, &answer, By::Default).await;
            return None;
        }
        let reason = format!("waits for a person: {}", request.kind);
        self.blocked_on = Some(request);
        Some(Judgement::new(Verdict::Blocked, reason))
    }

    async fn answer<T: Transport>(&mut self, transport: &mut T, request: &Request, answer: &Answer, by: By) {
        match by {
            By::File => self.answered.file += 1,
            By::Supervisor => self.answered.supervisor += 1,
            By::Default => self.answered.default += 1,
        }
        self.narrator.answered(request, answer, by, &mut self.turn.stream);
        if let Err(error) = transport.answer(request, answer).await {
            self.narrator
                .notice("error", &error.to_string(), &mut self.turn.stream);
        }
    }

    async fn replied<T: Transport>(&mut self, transport: &mut T, reply: &Reply) -> Step {
        let Some(at) = self
            .asked
            .iter()
            .position(|(request, _)| request.id == reply.request)
        else {
            let text = format!("nothing waits for the reply to `{}`", reply.request);
            self.narrator.notice("error", &text, &mut self.turn.stream);
            return Step::Go;
        };
        let Some(answer) = interpret(&self.asked[at].0.kind, &reply.answer) else {
            let text = format!("the reply to `{}` does not fit what was asked", reply.request);
            self.narrator.notice("error", &text, &mut self.turn.stream);
            return Step::Go;
        };
        let (request, _) = self.asked.remove(at);
        self.answer(transport, &request, &answer, By::Supervisor).await;
        Step::Go
    }

    async fn overdue<T: Transport>(&mut self, transport: &mut T) -> Step {
        let now = tokio::time::Instant::now();
        let Some(at) = self.asked.iter().position(|(_, until)| *until <= now) else {
            return Step::Go;
        };
        let (request, _) = self.asked.remove(at);
        self.default(transport, request)
            .await
            .map_or(Step::Go, Step::Stop)
    }

    /// Asks opencode to end its turn, for as long as nobody asks a second time.
    async fn abort<T: Transport>(&mut self, transport: &mut T) {
        if self.interrupt == Interrupt::Now {
            return;
        }
        tokio::select! {
            () = transport.abort() => {}
            () = asked_again(&mut self.turn.interrupts) => self.interrupt = Interrupt::Now,
        }
    }

    async fn close<T: Transport>(&mut self, transport: &mut T) {
        let again = tokio::select! {
            () = transport.close(self.interrupt == Interrupt::Now) => false,
            () = asked_again(&mut self.turn.interrupts) => true,
        };
        if again {
            self.interrupt = Interrupt::Now;
            transport.close(true).await;
        }
        self.asked.clear();
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
        _ => "interrupted",
    };
    Judgement::new(Verdict::Aborted, by)
}

/// Milliseconds, for `--json`.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
