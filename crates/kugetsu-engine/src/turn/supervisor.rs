//! The supervisor of one turn: the loop that executes the decisions of the state machine.

mod requests;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use super::control::{ControlMessage, Signal};
use super::encoder::StreamEncoder;
use super::machine::{Judgement, Machine, Step};
use super::resume::{self, Stored, StoredTurn};
use super::status::RunState;
use super::{CLOCK_WENT_BACK, ForkRecorder, INTERRUPTED, Interrupt, Outcome, StreamEnd, Turn};
use crate::aside::aside;
use crate::opencode::{DatabaseError, DatabaseFile};
use crate::transport::{Connector, Request, Target, TransportError, TransportEvent, TurnLink};
use kugetsu_api::{Answered, SessionId, Verdict};

/// How one run of opencode within a turn ended. A turn has several after crashes and pauses.
enum RunEnd {
    /// With a judgement, whether opencode or the supervisor ended the run.
    Judged(Judgement),
    /// opencode crashed.
    Crashed(String),
    /// A signal paused the turn.
    Paused,
}

/// The result of [`Supervisor::wait`].
enum Next {
    Step(Step),
    Pause,
}

/// Runs one turn over a connected link, and over further links of the connector after crashes and pauses.
pub(crate) async fn supervise(
    turn: Turn,
    connector: &dyn Connector,
    link: Box<dyn TurnLink>,
    fork_recorder: &mut dyn ForkRecorder,
) -> Outcome {
    let session = match &turn.target {
        Target::Session(session) => Some(session.clone()),
        Target::ForkOf { .. } => None,
    };
    let supervisor = Supervisor {
        began: Instant::now(),
        after: turn.after.clone(),
        run_after: turn.after.clone(),
        steps_of_run: 0,
        machine: Machine::new(turn.limits.clone()),
        encoder: StreamEncoder::new(turn.spec.launch.secrets.redactor.clone()),
        interrupt: Interrupt::None,
        session,
        fork_recorder,
        open_requests: Vec::new(),
        answered: Answered::default(),
        blocked_on: None,
        restarts: 0,
        prompted: None,
        first_output: None,
        turn,
    };
    supervisor.run(connector, link).await
}

struct Supervisor<'a> {
    turn: Turn,
    began: Instant,
    /// The newest messages of the session before the turn.
    after: Vec<String>,
    /// The newest messages before this run of opencode. Tools of an earlier run have ended.
    run_after: Vec<String>,
    /// The model's steps that began in this run of opencode.
    steps_of_run: u32,
    machine: Machine,
    encoder: StreamEncoder,
    interrupt: Interrupt,
    session: Option<SessionId>,
    fork_recorder: &'a mut dyn ForkRecorder,
    /// Requests that wait for a reply with `--supervised`, each with its deadline.
    open_requests: Vec<(Request, tokio::time::Instant)>,
    answered: Answered,
    blocked_on: Option<Request>,
    restarts: u32,
    /// When the prompt was first sent, since the beginning.
    prompted: Option<Duration>,
    /// How long after that the model's first output came.
    first_output: Option<Duration>,
}

impl Supervisor<'_> {
    async fn run(mut self, connector: &dyn Connector, first: Box<dyn TurnLink>) -> Outcome {
        let mut link = Some(first);
        let mut prompt = self.turn.prompt.clone();
        let judgement = loop {
            let run_end = match link.take() {
                Some(mut link) => {
                    let run_end = self.run_opencode(connector, link.as_mut(), &prompt).await;
                    self.close(link.as_mut()).await;
                    run_end
                }
                None => {
                    let spec = self.turn.spec.clone();
                    match self.in_time(connector.connect(&spec)).await {
                        Ok(Ok(opened)) => {
                            link = Some(opened);
                            continue;
                        }
                        Ok(Err(error)) => RunEnd::Crashed(error.to_string()),
                        Err(judgement) => {
                            connector.abandon(&self.turn.spec).await;
                            RunEnd::Judged(judgement)
                        }
                    }
                }
            };
            let next = match run_end {
                RunEnd::Judged(judgement) => break judgement,
                RunEnd::Crashed(crash) => self.after_crash(&crash).await,
                RunEnd::Paused => self.paused().await,
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
            first_output: self.first_output,
            refused: self.machine.refused().clone(),
            blocked_on: self.blocked_on,
            proof: self.encoder.proof(self.machine.error()),
            ending: StreamEnd {
                took: self.began.elapsed(),
                encoder: self.encoder,
                stream: self.turn.stream,
                session: self.session,
            },
        }
    }

    /// The judgement of an interrupted turn. The interrupt persists after it has been read.
    fn interrupted(&mut self) -> Option<Judgement> {
        self.interrupt = *self.turn.interrupts.borrow_and_update();
        (self.interrupt != Interrupt::None).then(|| aborted(self.interrupt))
    }

    /// Waits for work that may be slow, until an interrupt or the timeout ends the turn.
    async fn in_time<F: Future>(&mut self, work: F) -> Result<F::Output, Judgement> {
        let until = tokio::time::Instant::from_std(self.began + self.turn.limits.timeout);
        tokio::select! {
            biased;
            Ok(_) = self.turn.interrupts.wait_for(|interrupt| *interrupt != Interrupt::None) => {}
            done = work => return Ok(done),
            () = tokio::time::sleep_until(until) => {}
        }
        Err(match self.interrupted() {
            Some(judgement) => judgement,
            None => self.machine.timed_out(),
        })
    }

    /// Waits after a crash, then returns what to deliver. Checks what the session already holds, because a prompt is
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
                message = self.turn.control.next() => match self.on_message(message) {
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

    /// Holds a paused turn until it is resumed, then returns what to deliver. Meanwhile opencode is not running, and
    /// the turn's clock stands still.
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
                    if let Some(Next::Step(Step::Stop(judgement))) = self.on_message(message) {
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

    /// The effect of a message while opencode may be running.
    fn on_message(&mut self, message: ControlMessage) -> Option<Next> {
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
            ControlMessage::OverBudget(reason) => {
                Some(Next::Step(Step::Stop(Judgement::new(Verdict::Failed, reason))))
            }
            ControlMessage::Problem(problem) => {
                self.encoder.notice("error", &problem, &mut self.turn.stream);
                None
            }
        }
    }

    /// What to deliver to a new opencode: the prompt if the session does not hold it, or else `go_on`. The judgement if
    /// the session already holds the answer.
    async fn next_prompt(&mut self, go_on: &str) -> Result<Result<String, Judgement>, DatabaseError> {
        let Some(session) = self.session.clone() else {
            return Ok(Ok(self.turn.prompt.clone()));
        };
        self.turn.target = Target::Session(session.clone());
        self.machine.restarted(self.began.elapsed());
        // If the session cannot be read, the prompt must not be sent again.
        let stored = match self.stored(session).await {
            Ok(stored) => stored?,
            Err(judgement) => return Ok(Err(judgement)),
        };
        self.run_after = stored.newest;
        let now = Timestamp::now().as_millisecond();
        Ok(match stored.turn {
            StoredTurn::Answer => Err(Judgement::new(Verdict::Completed, "")),
            _ if stored.is_reversed || stored.newest_ms.is_some_and(|newest| newest > now) => {
                Err(Judgement::new(Verdict::Failed, CLOCK_WENT_BACK))
            }
            StoredTurn::Nothing => Ok(self.turn.prompt.clone()),
            StoredTurn::Prompt => Ok(go_on.to_owned()),
        })
    }

    /// Reads what the session holds of this turn.
    async fn stored(&mut self, session: SessionId) -> Result<Result<Stored, DatabaseError>, Judgement> {
        let (database, after) = (self.database(), self.after.clone());
        let read = aside(move || Stored::read(&database, &session, &after));
        self.in_time(read).await
    }

    /// Whether opencode goes on although it should not: the clock went back, so opencode takes an older message for the
    /// newest one and asks the model again and again. Asked when a step begins, from the second one on, because each
    /// step is paid.
    async fn clock_went_back(&mut self) -> Option<Judgement> {
        let session = self.session.clone()?;
        let stored = match self.stored(session).await {
            Ok(stored) => stored.ok().filter(|stored| stored.is_reversed)?,
            Err(judgement) => return Some(judgement),
        };
        Some(match stored.turn {
            StoredTurn::Answer => Judgement::new(Verdict::Completed, ""),
            StoredTurn::Nothing | StoredTurn::Prompt => Judgement::new(Verdict::Failed, CLOCK_WENT_BACK),
        })
    }

    /// One run of opencode, from the prompt on.
    async fn run_opencode(
        &mut self,
        connector: &dyn Connector,
        link: &mut dyn TurnLink,
        prompt: &str,
    ) -> RunEnd {
        self.steps_of_run = 0;
        // A signal that came while opencode was starting is in time to keep the prompt back.
        while let Some(message) = self.turn.control.try_next() {
            match self.on_message(message) {
                Some(Next::Step(Step::Stop(judgement))) => return RunEnd::Judged(judgement),
                Some(Next::Pause) => return RunEnd::Paused,
                _ => {}
            }
        }
        let target = self.turn.target.clone();
        self.prompted.get_or_insert(self.began.elapsed());
        match self.in_time(link.prompt(&target, prompt)).await {
            Ok(Ok(())) => {}
            Ok(Err(error @ TransportError::Request { .. })) => return RunEnd::Crashed(error.to_string()),
            Ok(Err(TransportError::Database(error))) if error.is_temporary() => {
                return RunEnd::Crashed(error.to_string());
            }
            Ok(Err(error)) => return RunEnd::Judged(Judgement::new(Verdict::Failed, error.to_string())),
            Err(judgement) => {
                self.abort(link).await;
                connector.abandon(&self.turn.spec).await;
                return RunEnd::Judged(judgement);
            }
        }
        loop {
            let step = match self.wait(link).await {
                Next::Step(Step::Ask(request)) => self.handle_request(link, request).await,
                Next::Step(step) => step,
                Next::Pause => {
                    self.abort(link).await;
                    return self.drain(link).await.map_or(RunEnd::Paused, RunEnd::Judged);
                }
            };
            match step {
                // The branch above has handled a request.
                Step::Go | Step::Ask(_) => {}
                Step::Stop(judgement) => {
                    self.abort(link).await;
                    return RunEnd::Judged(judgement);
                }
                Step::Done(judgement) => return RunEnd::Judged(judgement),
                Step::Crashed(crash) => return RunEnd::Crashed(crash),
            }
        }
    }

    /// Takes the events that opencode still sends within the grace period after it was asked to stop. Returns a
    /// judgement if the turn had already ended, or if something else ends it.
    async fn drain(&mut self, link: &mut dyn TurnLink) -> Option<Judgement> {
        let until = tokio::time::Instant::now() + self.turn.limits.grace;
        loop {
            let event = tokio::select! {
                event = link.next() => event,
                () = tokio::time::sleep_until(until) => return None,
                () = second_interrupt(&mut self.turn.interrupts) => {
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

    /// Waits for the next event, message, reply or deadline.
    async fn wait(&mut self, link: &mut dyn TurnLink) -> Next {
        let deadline = tokio::time::Instant::from_std(self.began + self.machine.deadline());
        let response = self.open_requests.iter().map(|(_, until)| *until).min();
        let reply = async {
            match &mut self.turn.responder.supervisor {
                Some((replies, _)) => replies.recv().await,
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
                return self.on_message(message).unwrap_or(Next::Step(Step::Go));
            }
            event = link.next() => self.take_event(&event).await,
            reply = reply => match reply {
                Some(reply) => self.replied(link, &reply).await,
                None => self.no_more_replies(),
            },
            () = overdue => self.overdue(link).await,
            () = tokio::time::sleep_until(deadline) => {
                // `run` reports a tool only when the tool has ended, and neither transport reports a subagent's tool
                // that keeps running; the database has both. A wait for an answer has a limit of its own.
                let at = self.began.elapsed();
                if self.machine.is_silent(at) {
                    match self.waits_or_runs_tool().await {
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

    /// Whether a silent turn waits for an answer or runs a tool. True if the database is locked, because a locked
    /// database proves nothing.
    async fn waits_or_runs_tool(&mut self) -> Result<bool, Judgement> {
        if !self.open_requests.is_empty() {
            return Ok(true);
        }
        let Some(session) = self.session.clone() else {
            return Ok(false);
        };
        let (database, after) = (self.database(), self.run_after.clone());
        let runs = move || database.open_read()?.tool_runs(&session, &after);
        let runs = self.in_time(aside(runs)).await?;
        Ok(runs.unwrap_or_else(|error| error.is_temporary()))
    }

    fn database(&self) -> DatabaseFile {
        self.turn.spec.launch.opencode.database_file()
    }

    async fn take_event(&mut self, event: &TransportEvent) -> Step {
        if let TransportEvent::Session(id) = event
            && self.session.is_none()
        {
            self.session = Some(id.clone());
            match self.fork_recorder.record_fork(id).await {
                Ok(after) => {
                    self.run_after.clone_from(&after);
                    self.after = after;
                }
                Err(problem) => {
                    let judgement = self.interrupted();
                    return Step::Stop(judgement.unwrap_or_else(|| Judgement::new(Verdict::Failed, problem)));
                }
            }
        }
        if let TransportEvent::Answered(id) = event {
            self.open_requests.retain(|(request, _)| request.id != *id);
        }
        if *event == TransportEvent::StepStarted {
            self.steps_of_run += 1;
            if self.steps_of_run > 1
                && let Some(judgement) = self.clock_went_back().await
            {
                return Step::Stop(judgement);
            }
        }
        self.encoder.encode(event, &mut self.turn.stream);
        let at = self.began.elapsed();
        if event.is_output() && self.first_output.is_none() {
            self.first_output = self.prompted.map(|prompted| at.saturating_sub(prompted));
        }
        let step = self.machine.event(event, at, Timestamp::now());
        self.turn.control.progress.note_event(event, &self.machine.counts);
        // Before opencode goes on, because the end of its last step is the end of the turn.
        if let TransportEvent::StepFinished { .. } | TransportEvent::SubagentStep { .. } = event
            && let Some(reason) = self.turn.control.spent(self.machine.counts.cost_usd).await
        {
            return Step::Stop(Judgement::new(Verdict::Failed, reason));
        }
        // If opencode sends events without a pause, the timers never fire, so the timeout is checked here as well.
        if step == Step::Go && at >= self.turn.limits.timeout {
            return Step::Stop(self.machine.timed_out());
        }
        step
    }

    /// Asks opencode to end its turn. A second interrupt cuts the request short.
    async fn abort(&mut self, link: &mut dyn TurnLink) {
        if self.interrupt == Interrupt::Now {
            return;
        }
        tokio::select! {
            () = link.abort() => {}
            () = second_interrupt(&mut self.turn.interrupts) => self.interrupt = Interrupt::Now,
        }
    }

    async fn close(&mut self, link: &mut dyn TurnLink) {
        let interrupted = tokio::select! {
            () = link.close(self.interrupt == Interrupt::Now) => false,
            () = second_interrupt(&mut self.turn.interrupts) => true,
        };
        if interrupted {
            self.interrupt = Interrupt::Now;
            link.close(true).await;
        }
        self.open_requests.clear();
    }
}

async fn second_interrupt(interrupts: &mut watch::Receiver<Interrupt>) {
    while interrupts.changed().await.is_ok() {
        if *interrupts.borrow_and_update() == Interrupt::Now {
            return;
        }
    }
    std::future::pending::<()>().await;
}

fn aborted(interrupt: Interrupt) -> Judgement {
    let reason = match interrupt {
        Interrupt::Terminated => "terminated",
        _ => INTERRUPTED,
    };
    Judgement::new(Verdict::Aborted, reason)
}
