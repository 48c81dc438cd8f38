//! The supervisor of one turn: it owns the turn from the prompt to the verdict.
//!
//! Events of the transport, timers, signals and replies come to one place; state, stream and verdict go out.
//! Nobody else decides how a turn ended.

pub mod answers;
pub mod control;
mod encoder;
mod limits;
mod machine;
mod resume;
pub mod status;
pub mod stream;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

pub use answers::Responder;
pub use limits::Limits;
pub use machine::{Counts, Judgement, Machine, Step};

use crate::aside::aside;
use crate::opencode::Database;
use crate::opencode::DatabaseError;
use crate::process;
use crate::transport::{
    Answer, Connector, Request, Target, TransportError, TransportEvent, TurnLink, TurnSpec,
};
use answers::{AnsweredBy, Reply, interpret};
use control::{Control, ControlMessage, Signal};
use encoder::StreamEncoder;
use kugetsu_api::{Answered, Proof, SessionId, Verdict};
use resume::{StoredTurn, stored_turn};
use status::RunState;
use stream::{StreamEvent, StreamWriter};

/// The reason of a turn that SIGINT ended.
pub const INTERRUPTED: &str = "interrupted";

/// How often it is tried to deliver an answer to opencode, how long a try may take, and the time between.
const ANSWER_TRIES: u32 = 3;
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_PAUSE: Duration = Duration::from_millis(500);

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
    /// Wishes to end it.
    pub interrupts: watch::Receiver<Interrupt>,
    /// Signals by files, and where the turn's state is told.
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
            exit_status: judgement.verdict.exit_status_told(whole).code(),
        };
        self.encoder.end(self.stream, end)
    }
}

/// How one life of opencode within a turn ended.
enum LifeEnd {
    /// With a judgement, by itself or by us.
    Judged(Judgement),
    /// It crashed.
    Crashed(String),
    /// Somebody paused the turn.
    Paused,
}

/// What [`Supervisor::wait`] waited for.
enum Next {
    Step(Step),
    Pause,
}

/// Who must know a fork's id before anything else happens.
#[async_trait]
pub trait ForkKeeper: Send {
    /// Called once, as soon as the id is known. When it fails, the turn ends as failed, since a session that cannot be
    /// remembered is no result.
    async fn fork_known(&mut self, session: &SessionId) -> Result<(), String>;
}

/// Runs one turn over a link that is ready, and over further ones of the connector after crashes and pauses.
pub async fn supervise(
    turn: Turn,
    connector: &dyn Connector,
    link: Box<dyn TurnLink>,
    fork_keeper: &mut dyn ForkKeeper,
) -> Outcome {
    let session = match &turn.target {
        Target::Session(session) => Some(session.clone()),
        Target::ForkOf(_) => None,
    };
    let supervisor = Supervisor {
        began: Instant::now(),
        started: Timestamp::now(),
        life: Timestamp::now(),
        machine: Machine::new(turn.limits.clone()),
        encoder: StreamEncoder::new(turn.spec.launch.secrets.redactor.clone()),
        interrupt: Interrupt::None,
        session,
        fork_keeper,
        asked: Vec::new(),
        answered: Answered::default(),
        blocked_on: None,
        restarts: 0,
        turn,
    };
    supervisor.run(connector, link).await
}

struct Supervisor<'a> {
    turn: Turn,
    began: Instant,
    started: Timestamp,
    /// When this life of opencode began: what an earlier one was doing is over.
    life: Timestamp,
    machine: Machine,
    encoder: StreamEncoder,
    interrupt: Interrupt,
    session: Option<SessionId>,
    fork_keeper: &'a mut dyn ForkKeeper,
    /// Requests that wait for a supervisor, and until when.
    asked: Vec<(Request, tokio::time::Instant)>,
    answered: Answered,
    blocked_on: Option<Request>,
    restarts: u32,
}

impl Supervisor<'_> {
    async fn run(mut self, connector: &dyn Connector, first: Box<dyn TurnLink>) -> Outcome {
        let mut link = Some(first);
        let mut prompt = self.turn.prompt.clone();
        let judgement = loop {
            let life = match link.take() {
                Some(mut link) => {
                    let life = self.live(link.as_mut(), &prompt).await;
                    self.close(link.as_mut()).await;
                    life
                }
                None => {
                    let spec = self.turn.spec.clone();
                    match self.in_time(connector.connect(&spec)).await {
                        Ok(Ok(opened)) => {
                            link = Some(opened);
                            continue;
                        }
                        Ok(Err(error)) => LifeEnd::Crashed(error.to_string()),
                        Err(judgement) => {
                            self.sweep().await;
                            LifeEnd::Judged(judgement)
                        }
                    }
                }
            };
            let next = match life {
                LifeEnd::Judged(judgement) => break judgement,
                LifeEnd::Crashed(crash) => self.after_crash(&crash).await,
                LifeEnd::Paused => self.paused().await,
            };
            match next {
                Ok(next) => prompt = next,
                Err(judgement) => break judgement,
            }
        };
        Outcome {
            judgement,
            counts: self.machine.counts,
            answer: self.encoder.answer(),
            interrupt: self.interrupt,
            restarts: self.restarts,
            answered: self.answered,
            blocked_on: self.blocked_on,
            proof: self.encoder.proof(self.machine.error()),
            ending: StreamEnd {
                took: self.began.elapsed(),
                encoder: self.encoder,
                stream: self.turn.stream,
                session: self.session,
                restarts: self.restarts,
            },
        }
    }

    /// The judgement, where somebody wants the turn to end. A wish stays, whoever has seen it before.
    fn interrupted(&mut self) -> Option<Judgement> {
        self.interrupt = *self.turn.interrupts.borrow_and_update();
        (self.interrupt != Interrupt::None).then(|| aborted(self.interrupt))
    }

    /// Does something that opencode may be slow with, unless the turn ends meanwhile.
    async fn in_time<F: Future>(&mut self, work: F) -> Result<F::Output, Judgement> {
        let until = tokio::time::Instant::from_std(self.began + self.turn.limits.timeout);
        tokio::select! {
            biased;
            Ok(_) = self.turn.interrupts.wait_for(|wish| *wish != Interrupt::None) => {}
            done = work => return Ok(done),
            () = tokio::time::sleep_until(until) => {}
        }
        Err(match self.interrupted() {
            Some(judgement) => judgement,
            None => self.machine.timed_out(),
        })
    }

    /// Ends what was begun and given up before anybody had it in hand.
    async fn sweep(&mut self) {
        let mark = self.turn.spec.launch.containment.mark;
        let _ = aside(move || process::sweep_marked(mark)).await;
    }

    /// What to deliver after a crash: waits, and looks at what the session holds already, since a prompt is
    /// never sent twice.
    async fn after_crash(&mut self, crash: &str) -> Result<String, Judgement> {
        let failed = |text: &str| Judgement::new(Verdict::Failed, format!("{text}{crash}"));
        if let Some(judgement) = self.interrupted() {
            return Err(judgement);
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
        self.encoder.notice(
            "restart",
            &format!(
                "opencode crashed ({crash}); restart {} of {} in {} s",
                self.restarts,
                self.turn.limits.restarts,
                pause.as_secs()
            ),
            &mut self.turn.stream,
        );
        let until = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => break,
                Ok(()) = self.turn.interrupts.changed() => {
                    if let Some(judgement) = self.interrupted() {
                        return Err(judgement);
                    }
                }
                messages = self.turn.control.next() => match self.signalled(messages) {
                    Some(Next::Step(Step::Stop(judgement))) => return Err(judgement),
                    Some(Next::Pause) => return self.paused().await,
                    _ => {}
                },
            }
        }
        if let Step::Stop(judgement) = self.machine.tick(self.began.elapsed()) {
            return Err(judgement);
        }
        self.next_prompt(resume::GO_ON)
            .await
            .map_err(|problem| failed(&format!("{problem}; before that: ")))?
    }

    /// Keeps the place of a paused turn until it is resumed: opencode is gone meanwhile, and the turn's clock stands.
    /// What to deliver then.
    async fn paused(&mut self) -> Result<String, Judgement> {
        if let Some(judgement) = self.interrupted() {
            return Err(judgement);
        }
        let since = Instant::now();
        self.turn.control.progress.state(RunState::Paused);
        self.encoder.notice("control", "paused", &mut self.turn.stream);
        loop {
            tokio::select! {
                Ok(()) = self.turn.interrupts.changed() => {
                    if let Some(judgement) = self.interrupted() {
                        return Err(judgement);
                    }
                }
                messages = self.turn.control.next() => {
                    if messages == ControlMessage::Signal(Signal::Resume) {
                        break;
                    }
                    if let Some(Next::Step(Step::Stop(judgement))) = self.signalled(messages) {
                        return Err(judgement);
                    }
                }
            }
        }
        self.began += since.elapsed();
        self.turn.control.progress.state(RunState::Running);
        self.encoder.notice("control", "resumed", &mut self.turn.stream);
        self.next_prompt(resume::RESUMED)
            .await
            .map_err(|problem| Judgement::new(Verdict::Failed, format!("cannot be resumed: {problem}")))?
    }

    /// What a signal means while opencode works, or may.
    fn signalled(&mut self, messages: ControlMessage) -> Option<Next> {
        match messages {
            ControlMessage::Signal(Signal::Stop) => {
                self.interrupt = Interrupt::Terminated;
                Some(Next::Step(Step::Stop(Judgement::new(
                    Verdict::Aborted,
                    "stopped",
                ))))
            }
            ControlMessage::Signal(Signal::Pause) => Some(Next::Pause),
            ControlMessage::Signal(Signal::Resume) => None,
            ControlMessage::Problem(problem) => {
                self.encoder.notice("error", &problem, &mut self.turn.stream);
                None
            }
        }
    }

    /// What to deliver to a new opencode: the prompt where the session does not hold it, else these words. The
    /// judgement, where the answer is there already.
    async fn next_prompt(&mut self, go_on: &str) -> Result<Result<String, Judgement>, DatabaseError> {
        let Some(session) = self.session.clone() else {
            return Ok(Ok(self.turn.prompt.clone()));
        };
        self.turn.target = Target::Session(session.clone());
        self.machine.reborn(self.began.elapsed());
        // Not knowing is no reason to send a prompt twice.
        let (database, started) = (self.database(), self.started);
        let stored_turn = aside(move || stored_turn(&database, &session, started)).await?;
        Ok(match stored_turn {
            StoredTurn::Nothing => Ok(self.turn.prompt.clone()),
            StoredTurn::Prompt => Ok(go_on.to_owned()),
            StoredTurn::Answer => Err(Judgement::new(Verdict::Completed, "")),
        })
    }

    /// One life of opencode, from the prompt on.
    async fn live(&mut self, link: &mut dyn TurnLink, prompt: &str) -> LifeEnd {
        self.life = Timestamp::now();
        let target = self.turn.target.clone();
        match self.in_time(link.prompt(&target, prompt)).await {
            Ok(Ok(())) => {}
            Ok(Err(error @ TransportError::Request { .. })) => return LifeEnd::Crashed(error.to_string()),
            Ok(Err(TransportError::Database(error))) if error.is_locked() => {
                return LifeEnd::Crashed(error.to_string());
            }
            Ok(Err(error)) => return LifeEnd::Judged(Judgement::new(Verdict::Failed, error.to_string())),
            Err(judgement) => {
                self.abort(link).await;
                self.sweep().await;
                return LifeEnd::Judged(judgement);
            }
        }
        loop {
            let step = match self.wait(link).await {
                Next::Step(Step::Ask(request)) => self.ask(link, request).await,
                Next::Step(step) => step,
                Next::Pause => {
                    self.abort(link).await;
                    return self.hear_out(link).await.map_or(LifeEnd::Paused, LifeEnd::Judged);
                }
            };
            match step {
                // A request that was asked is answered above.
                Step::Go | Step::Ask(_) => {}
                Step::Stop(judgement) => {
                    self.abort(link).await;
                    return LifeEnd::Judged(judgement);
                }
                Step::Done(judgement) => return LifeEnd::Judged(judgement),
                Step::Crashed(crash) => return LifeEnd::Crashed(crash),
            }
        }
    }

    /// What opencode still says after it was asked to stop counts as well, for as long as the grace period. A
    /// judgement: it was done already, or something else ends the turn.
    async fn hear_out(&mut self, link: &mut dyn TurnLink) -> Option<Judgement> {
        let until = tokio::time::Instant::now() + self.turn.limits.grace;
        loop {
            let event = tokio::select! {
                event = link.next() => event,
                () = tokio::time::sleep_until(until) => return None,
                () = asked_again(&mut self.turn.interrupts) => {
                    self.interrupt = Interrupt::Now;
                    return Some(aborted(Interrupt::Now));
                }
            };
            match self.hear(&event).await {
                Step::Stop(judgement) => return Some(judgement),
                Step::Done(judgement) if judgement.verdict == Verdict::Completed => return Some(judgement),
                _ if matches!(event, TransportEvent::Ended(_)) => return None,
                _ => {}
            }
        }
    }

    /// Waits for whatever comes first.
    async fn wait(&mut self, link: &mut dyn TurnLink) -> Next {
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
        let step = tokio::select! {
            biased;
            Ok(()) = self.turn.interrupts.changed() => {
                self.interrupted().map_or(Step::Go, Step::Stop)
            }
            messages = self.turn.control.next() => {
                return self.signalled(messages).unwrap_or(Next::Step(Step::Go));
            }
            event = link.next() => self.hear(&event).await,
            reply = reply => self.replied(link, &reply).await,
            () = overdue => self.overdue(link).await,
            () = tokio::time::sleep_until(deadline) => {
                // `run` tells of a tool only when it has ended, and neither transport of a subagent's that only goes on;
                // the database knows of both. Nor is it silent who waits for an answer, which has a limit of its own.
                let at = self.began.elapsed();
                if self.machine.is_silent(at) && (!self.asked.is_empty() || self.tool_runs().await) {
                    self.machine.alive(at);
                }
                self.machine.tick(at)
            }
        };
        Next::Step(step)
    }

    /// A database that is locked at the moment says nothing, and nobody is ended for it.
    async fn tool_runs(&mut self) -> bool {
        let Some(session) = self.session.clone() else {
            return false;
        };
        let (database, since) = (self.database(), self.life.as_millisecond());
        let runs = move || Database::open_read(&database)?.tool_runs(&session, since);
        aside(runs).await.unwrap_or_else(|error| error.is_locked())
    }

    fn database(&self) -> PathBuf {
        self.turn.spec.launch.opencode.database.clone()
    }

    async fn hear(&mut self, event: &TransportEvent) -> Step {
        if let TransportEvent::Session(id) = event
            && self.session.is_none()
        {
            self.session = Some(id.clone());
            if let Err(problem) = self.fork_keeper.fork_known(id).await {
                return Step::Stop(Judgement::new(Verdict::Failed, problem));
            }
        }
        if let TransportEvent::Answered(id) = event {
            self.asked.retain(|(request, _)| request.id != *id);
        }
        self.encoder.tell(event, &mut self.turn.stream);
        let at = self.began.elapsed();
        let step = self.machine.event(event, at, Timestamp::now());
        self.turn.control.progress.messages(event, &self.machine.counts);
        // Where opencode never pauses, nobody looks at the clock but here.
        if step == Step::Go && at >= self.turn.limits.timeout {
            return Step::Stop(self.machine.timed_out());
        }
        step
    }

    /// opencode asks: the file answers, or a supervisor is waited for, or the default answers.
    async fn ask(&mut self, link: &mut dyn TurnLink, request: Request) -> Step {
        self.encoder.asked(&request, &mut self.turn.stream);
        if let Some(answer) = self.turn.responder.from_file(&request) {
            return self.answer(link, &request, &answer, AnsweredBy::File).await;
        }
        if let Some((_, patience)) = &self.turn.responder.supervisor {
            let until = tokio::time::Instant::now() + *patience;
            self.asked.push((request, until));
            return Step::Go;
        }
        self.default(link, request).await
    }

    async fn default(&mut self, link: &mut dyn TurnLink, request: Request) -> Step {
        if let Some(answer) = self.turn.responder.by_default(&request) {
            return self.answer(link, &request, &answer, AnsweredBy::Default).await;
        }
        let reason = format!("waits for a person: {}", request.kind);
        self.blocked_on = Some(request);
        Step::Stop(Judgement::new(Verdict::Blocked, reason))
    }

    /// Delivers an answer. Without it opencode would wait for ever, so where it cannot be delivered opencode is started
    /// again.
    async fn answer(
        &mut self,
        link: &mut dyn TurnLink,
        request: &Request,
        answer: &Answer,
        by: AnsweredBy,
    ) -> Step {
        match by {
            AnsweredBy::File => self.answered.file += 1,
            AnsweredBy::Supervisor => self.answered.supervisor += 1,
            AnsweredBy::Default => self.answered.default += 1,
        }
        self.encoder.answered(request, answer, by, &mut self.turn.stream);
        let mut tries = 0;
        loop {
            let delivery = tokio::time::timeout(ANSWER_LIMIT, link.answer(request, answer));
            let error = match self.in_time(delivery).await {
                Ok(Ok(Ok(()))) => {
                    self.machine.alive(self.began.elapsed());
                    return Step::Go;
                }
                Ok(Ok(Err(error))) => error.to_string(),
                Ok(Err(_)) => format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
                Err(judgement) => return Step::Stop(judgement),
            };
            self.encoder.notice("error", &error, &mut self.turn.stream);
            tries += 1;
            if tries == ANSWER_TRIES {
                return Step::Crashed(format!("its question could not be answered: {error}"));
            }
            tokio::time::sleep(ANSWER_PAUSE).await;
        }
    }

    async fn replied(&mut self, link: &mut dyn TurnLink, reply: &Reply) -> Step {
        let Some(at) = self
            .asked
            .iter()
            .position(|(request, _)| request.id == reply.request)
        else {
            let text = format!("nothing waits for the reply to `{}`", reply.request);
            self.encoder.notice("error", &text, &mut self.turn.stream);
            return Step::Go;
        };
        let Some(answer) = interpret(&self.asked[at].0.kind, &reply.answer) else {
            let text = format!("the reply to `{}` does not fit what was asked", reply.request);
            self.encoder.notice("error", &text, &mut self.turn.stream);
            return Step::Go;
        };
        let (request, _) = self.asked.remove(at);
        self.answer(link, &request, &answer, AnsweredBy::Supervisor).await
    }

    async fn overdue(&mut self, link: &mut dyn TurnLink) -> Step {
        let now = tokio::time::Instant::now();
        let Some(at) = self.asked.iter().position(|(_, until)| *until <= now) else {
            return Step::Go;
        };
        let (request, _) = self.asked.remove(at);
        self.default(link, request).await
    }

    /// Asks opencode to end its turn, for as long as nobody asks a second time.
    async fn abort(&mut self, link: &mut dyn TurnLink) {
        if self.interrupt == Interrupt::Now {
            return;
        }
        tokio::select! {
            () = link.abort() => {}
            () = asked_again(&mut self.turn.interrupts) => self.interrupt = Interrupt::Now,
        }
    }

    async fn close(&mut self, link: &mut dyn TurnLink) {
        let again = tokio::select! {
            () = link.close(self.interrupt == Interrupt::Now) => false,
            () = asked_again(&mut self.turn.interrupts) => true,
        };
        if again {
            self.interrupt = Interrupt::Now;
            link.close(true).await;
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
        _ => INTERRUPTED,
    };
    Judgement::new(Verdict::Aborted, by)
}

/// Milliseconds, for `--json`.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
