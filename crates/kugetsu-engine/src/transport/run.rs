//! A turn through one `opencode run`: the prompt on its standard input, events on its standard output.

mod fork_search;
mod output;
mod subagents;

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::fork_search::ForkSearch;
use self::output::read_events;
use self::subagents::Subagents;
use super::raw_log::RawLog;
use super::{
    Answer, Connector, End, ErrorPayload, Request, Target, TransportError, TransportEvent, TurnLink, TurnSpec,
};
use crate::opencode::commands::{self, RunPrompt};
use crate::opencode::{StderrReport, StderrTail, read_stderr, wait_until_read};
use crate::process::Guarded;
use kugetsu_api::{SessionId, TransportKind};

/// How often the database is asked for the new fork. Its row is there before the first request to the model,
/// seconds before the first event names it.
const LOOK: Duration = Duration::from_millis(25);

/// Reaches opencode through one `opencode run` for each prompt.
#[derive(Clone, Copy, Debug)]
pub struct OpencodeRun;

/// The link of [`OpencodeRun`].
struct RunLink {
    spec: TurnSpec,
    process: Option<Guarded>,
    events: Option<mpsc::Receiver<TransportEvent>>,
    stderr: StderrTail,
    stderr_reports: Option<mpsc::Receiver<StderrReport>>,
    /// Why another agent than the one asked for would have run the turn.
    agent_refused: Option<String>,
    failed_attempts: u64,
    tasks: Vec<JoinHandle<()>>,
    stderr_reader: Option<JoinHandle<()>>,
    search: Option<ForkSearch>,
    subagents: Option<Subagents>,
    /// Events that are known and not handed out yet.
    queued: VecDeque<TransportEvent>,
}

impl RunLink {
    fn found(&mut self, fork: SessionId) -> TransportEvent {
        self.search = None;
        if let Some(subagents) = &mut self.subagents {
            subagents.session = Some(fork.clone());
        }
        TransportEvent::Session(fork)
    }
}

#[async_trait]
impl Connector for OpencodeRun {
    fn kind(&self) -> TransportKind {
        TransportKind::Run
    }

    async fn connect(&self, spec: &TurnSpec) -> Result<Box<dyn TurnLink>, TransportError> {
        Ok(Box::new(RunLink {
            spec: spec.clone(),
            process: None,
            events: None,
            stderr: StderrTail::default(),
            stderr_reports: None,
            agent_refused: None,
            failed_attempts: 0,
            tasks: Vec::new(),
            stderr_reader: None,
            search: None,
            subagents: None,
            queued: VecDeque::new(),
        }))
    }
}

#[async_trait]
impl TurnLink for RunLink {
    async fn fork(&mut self, _base: &SessionId) -> Result<Option<SessionId>, TransportError> {
        Ok(None)
    }

    async fn prompt(&mut self, target: &Target, text: &str) -> Result<(), TransportError> {
        self.subagents = Some(Subagents::begin(&self.spec, target));
        let (session, fork) = match target {
            Target::Session(session) => (session, false),
            Target::ForkOf(base) => {
                self.search = Some(ForkSearch::begin(&self.spec, base, text)?);
                (base, true)
            }
        };
        let spec = commands::run(
            &self.spec.launch,
            &RunPrompt {
                session,
                fork,
                model: self.spec.model.as_deref(),
                agent: self.spec.agent.as_deref(),
                text,
            },
        );
        let redactor = &self.spec.launch.secrets.redactor;
        let raw = RawLog::open(self.spec.raw_log.as_deref(), redactor.clone())?;
        let mut process = Guarded::spawn(spec).await?;
        if let Some(pipe) = process.stderr.take() {
            let debug_log = self.spec.launch.debug_log.clone();
            let (reporter, reports) = mpsc::channel(64);
            self.stderr_reports = Some(reports);
            self.stderr_reader = Some(tokio::spawn(read_stderr(
                pipe,
                self.stderr.clone(),
                debug_log,
                self.spec.launch.secrets.redactor.clone(),
                Some(reporter),
            )));
        }
        let (sender, events) = mpsc::channel(256);
        match process.stdout.take() {
            Some(stdout) => self.tasks.push(tokio::spawn(read_events(stdout, raw, sender))),
            None => {
                return Err(TransportError::NotReady(
                    "its standard output is closed".to_owned(),
                ));
            }
        }
        self.events = Some(events);
        self.process = Some(process);
        Ok(())
    }

    async fn next(&mut self) -> TransportEvent {
        let (Some(process), Some(events)) = (&mut self.process, &mut self.events) else {
            return TransportEvent::Ended(End {
                broken: Some("no prompt was delivered".to_owned()),
                ..End::default()
            });
        };
        loop {
            if let Some(event) = self.queued.pop_front() {
                return event;
            }
            let subagents_due = self.subagents.as_ref().filter(|subagents| subagents.open);
            let subagents_due = subagents_due.map(|subagents| subagents.next);
            let subagents_look = async {
                match subagents_due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let searching = self.search.is_some();
            let look = async {
                if searching {
                    tokio::time::sleep(LOOK).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            let stderr_report = async {
                match &mut self.stderr_reports {
                    Some(reports) => reports.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(TransportEvent::Session(session)) => {
                        if self.search.as_ref().is_some_and(|search| search.exists(&session)) {
                            return self.found(session);
                        }
                    }
                    Some(event) => {
                        if let Some(subagents) = &mut self.subagents {
                            subagents.open |= event == TransportEvent::StepStarted;
                            if matches!(&event, TransportEvent::Tool(call) if call.is_subagent()) {
                                // It has ended: what it cost counts before the next step begins.
                                self.queued.extend(subagents.look());
                            }
                        }
                        return event;
                    }
                    None => {
                        // A fork that said nothing may have been made all the same.
                        let exit = process.wait().await;
                        match self.search.take().map(|search| search.look()) {
                            Some(Ok(Some(fork))) => return TransportEvent::Session(fork),
                            // An error, so that the turn ends: in a new life the prompt might be sent twice.
                            Some(Err(error)) => return TransportEvent::Error(ErrorPayload::outside(
                                "Database",
                                format!("whether opencode made the fork is not known: {error}"),
                            )),
                            Some(Ok(None)) | None => {}
                        }
                        if let Some(message) = self.agent_refused.take() {
                            return TransportEvent::Error(ErrorPayload::outside("Agent", message));
                        }
                        // Its last words are evidence.
                        if let Some(reader) = &mut self.stderr_reader {
                            wait_until_read(reader).await;
                        }
                        return TransportEvent::Ended(End {
                            exit: Some(exit),
                            stderr: self.stderr.lines(),
                            ..End::default()
                        });
                    }
                },
                report = stderr_report => match report {
                    Some(StderrReport::AgentRefused(message)) => {
                        process.kill().await;
                        self.agent_refused = Some(message);
                    }
                    Some(StderrReport::AttemptFailed(message)) => {
                        self.failed_attempts += 1;
                        if let Some(subagents) = &mut self.subagents {
                            // What was done before is no progress afterwards.
                            self.queued.extend(subagents.look());
                            subagents.progress_ms = Timestamp::now().as_millisecond();
                        }
                        self.queued.push_back(TransportEvent::Retrying { attempt: self.failed_attempts, message, next: None });
                    }
                    None => self.stderr_reports = None,
                },
                () = look => {
                    if let Some(Ok(Some(fork))) = self.search.as_ref().map(ForkSearch::look) {
                        return self.found(fork);
                    }
                }
                () = subagents_look => {
                    if let Some(subagents) = &mut self.subagents {
                        self.queued.extend(subagents.look());
                    }
                }
            }
        }
    }

    async fn answer(&mut self, _request: &Request, _answer: &Answer) -> Result<(), TransportError> {
        // `opencode run` rejects every request by itself.
        Ok(())
    }

    async fn abort(&mut self) {
        if let Some(process) = &mut self.process {
            process.terminate().await;
        }
    }

    async fn close(&mut self, now: bool) {
        if let Some(process) = &mut self.process {
            if now {
                process.kill().await;
            } else {
                process.terminate().await;
            }
            let _ = process.wait().await;
        }
        for task in self.tasks.drain(..).chain(self.stderr_reader.take()) {
            task.abort();
        }
    }
}
