//! The supervisor of one turn: the loop that carries out what the machine decides.

mod requests;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use super::control::{ControlMessage, Signal};
use super::encoder::StreamEncoder;
use super::machine::{Judgement, Machine, Step};
use super::resume::{self, StoredTurn, stored_turn};
use super::status::RunState;
use super::{ForkKeeper, INTERRUPTED, Interrupt, Outcome, StreamEnd, Turn};
use crate::aside::aside;
use crate::opencode::{Database, DatabaseError};
use crate::transport::{Connector, Request, Target, TransportError, TransportEvent, TurnLink};
use kugetsu_api::{Answered, SessionId, Verdict};

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
        life_began: Timestamp::now(),
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
    life_began: Timestamp,
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
            let life_end = match link.take() {
                Some(mut link) => {
                    let life_end = self.run_life(connector, link.as_mut(), &prompt).await;
                    self.close(link.as_mut()).await;
                    life_end
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
                            connector.abandon(&self.turn.spec).await;
                            LifeEnd::Judged(judgement)
                        }
                    }
                }
            };
            let next = match life_end {
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
                message = self.turn.control.next() => match self.signalled(message) {
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
                message = self.turn.control.next() => {
                    if message == ControlMessage::Signal(Signal::Resume) {
                        break;
                    }
                    if let Some(Next::Step(Step::Stop(judgement))) = self.signalled(message) {
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
    fn signalled(&mut self, message: ControlMessage) -> Option<Next> {
        match message {
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
        self.machine.restarted(self.began.elapsed());
        // If this cannot be known, the prompt must not be sent again.
        let (database, started) = (self.database(), self.started);
        let look = aside(move || stored_turn(&database, &session, started));
        let stored_turn = match self.in_time(look).await {
            Ok(stored_turn) => stored_turn?,
            Err(judgement) => return Ok(Err(judgement)),
        };
        Ok(match stored_turn {
            StoredTurn::Nothing => Ok(self.turn.prompt.clone()),
            StoredTurn::Prompt => Ok(go_on.to_owned()),
            StoredTurn::Answer => Err(Judgement::new(Verdict::Completed, "")),
        })
    }

    /// One life of opencode, from the prompt on.
    async fn run_life(
        &mut self,
        connector: &dyn Connector,
        link: &mut dyn TurnLink,
        prompt: &str,
    ) -> LifeEnd {
        self.life_began = Timestamp::now();
        // A signal that came while opencode was starting is in time to keep the prompt back.
        while let Some(message) = self.turn.control.try_next() {
            match self.signalled(message) {
                Some(Next::Step(Step::Stop(judgement))) => return LifeEnd::Judged(judgement),
                Some(Next::Pause) => return LifeEnd::Paused,
                _ => {}
            }
        }
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
                connector.abandon(&self.turn.spec).await;
                return LifeEnd::Judged(judgement);
            }
        }
        loop {
            let step = match self.wait(link).await {
                Next::Step(Step::Ask(request)) => self.ask(link, request).await,
                Next::Step(step) => step,
                Next::Pause => {
                    self.abort(link).await;
                    return self.drain(link).await.map_or(LifeEnd::Paused, LifeEnd::Judged);
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
    async fn drain(&mut self, link: &mut dyn TurnLink) -> Option<Judgement> {
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
            match self.take_event(&event).await {
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
            message = self.turn.control.next() => {
                return self.signalled(message).unwrap_or(Next::Step(Step::Go));
            }
            event = link.next() => self.take_event(&event).await,
            reply = reply => self.replied(link, &reply).await,
            () = overdue => self.overdue(link).await,
            () = tokio::time::sleep_until(deadline) => {
                // `run` reports a tool only when the tool has ended, and neither transport reports a subagent's tool that
                // keeps running; the database has both. A wait for an answer has a limit of its own.
                let at = self.began.elapsed();
                if self.machine.is_silent(at) {
                    match self.waits_or_works().await {
                        Ok(true) => self.machine.alive(at),
                        Ok(false) => {}
                        Err(judgement) => return Next::Step(Step::Stop(judgement)),
                    }
                }
                self.machine.tick(at)
            }
        };
        Next::Step(step)
    }

    /// Whether a silent turn waits for an answer or runs a tool. A locked database proves nothing, so it counts as yes.
    async fn waits_or_works(&mut self) -> Result<bool, Judgement> {
        if !self.asked.is_empty() {
            return Ok(true);
        }
        let Some(session) = self.session.clone() else {
            return Ok(false);
        };
        let (database, since) = (self.database(), self.life_began.as_millisecond());
        let runs = move || Database::open_read(&database)?.tool_runs(&session, since);
        let runs = self.in_time(aside(runs)).await?;
        Ok(runs.unwrap_or_else(|error| error.is_locked()))
    }

    fn database(&self) -> PathBuf {
        self.turn.spec.launch.opencode.database.clone()
    }

    async fn take_event(&mut self, event: &TransportEvent) -> Step {
        if let TransportEvent::Session(id) = event
            && self.session.is_none()
        {
            self.session = Some(id.clone());
            if let Err(problem) = self.fork_keeper.fork_known(id).await {
                let judgement = self.interrupted();
                return Step::Stop(judgement.unwrap_or_else(|| Judgement::new(Verdict::Failed, problem)));
            }
        }
        if let TransportEvent::Answered(id) = event {
            self.asked.retain(|(request, _)| request.id != *id);
        }
        self.encoder.tell(event, &mut self.turn.stream);
        let at = self.began.elapsed();
        let step = self.machine.event(event, at, Timestamp::now());
        self.turn.control.progress.note_event(event, &self.machine.counts);
        // Where opencode never pauses, nobody looks at the clock but here.
        if step == Step::Go && at >= self.turn.limits.timeout {
            return Step::Stop(self.machine.timed_out());
        }
        step
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
