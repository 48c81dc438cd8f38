//! A turn through one `opencode run`: the prompt on its standard input, events on its standard output.

mod fork_search;
mod output;
mod subagents;
#[cfg(test)]
pub(super) mod tests;
mod watch;

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::fork_search::ForkSearch;
use self::output::read_events;
use self::subagents::Subagents;
use self::watch::{Report, SharedSearch, Watch, find_fork};
use super::raw_log::RawLog;
use super::serve;
use super::{
    Answer, Connector, End, ErrorPayload, ForkRequest, Request, Target, TransportError, TransportEvent,
    TurnLink, TurnSpec,
};
use crate::aside::aside;
use crate::opencode::commands::{self, RunPrompt};
use crate::opencode::{Launch, Secrets, Server, SessionContext, StderrTail, read_stderr, wait_until_read};
use crate::process::Guarded;
use kugetsu_api::{SessionId, TransportKind};

/// How many events wait between two steps of their way. An event may have the whole output of a tool, so these queues are
/// most of the memory of a turn with large outputs.
const QUEUE: usize = 32;

/// Reaches opencode through one `opencode run` for each prompt.
#[derive(Clone, Copy, Debug)]
pub struct OpencodeRun;

/// The link of [`OpencodeRun`].
struct RunLink {
    spec: TurnSpec,
    process: Option<Guarded>,
    reports: Option<mpsc::Receiver<Report>>,
    search: SharedSearch,
    stderr: StderrTail,
    /// opencode's reason for running the turn with another agent than the one asked for.
    agent_refused: Option<String>,
    /// The process is still to be killed. Kept here because [`TurnLink::next`] may be cancelled before that is done.
    kill_due: bool,
    tasks: JoinSet<()>,
    stderr_reader: JoinSet<()>,
}

impl RunLink {
    fn new(spec: &TurnSpec) -> Self {
        Self {
            spec: spec.clone(),
            process: None,
            reports: None,
            search: SharedSearch::default(),
            stderr: StderrTail::default(),
            agent_refused: None,
            kill_due: false,
            tasks: JoinSet::new(),
            stderr_reader: JoinSet::new(),
        }
    }
}

/// The prompt of a fork that is made with it. `opencode run` has no other place for a mark that both versions store:
/// `--title` is ignored, and `--agent` and `--variant` change the turn. The mark is an HTML comment, so that the model,
/// and a person who reads the session, take it for what it is.
fn marked(text: &str, mark: &str) -> String {
    format!("{text}\n\n<!-- {mark} -->")
}

#[async_trait]
impl Connector for OpencodeRun {
    fn kind(&self) -> TransportKind {
        TransportKind::Run
    }

    async fn connect(&self, spec: &TurnSpec) -> Result<Box<dyn TurnLink>, TransportError> {
        Ok(Box::new(RunLink::new(spec)))
    }
}

#[async_trait]
impl TurnLink for RunLink {
    /// `opencode run --fork` in a directory that is not the base's makes the fork and then hangs (1.18.33).
    fn forks_ahead(&self, request: &ForkRequest) -> bool {
        request.other_directory
    }

    async fn fork(&mut self, request: &ForkRequest) -> Result<SessionId, TransportError> {
        // The server runs no prompt, so it needs neither the rules nor the secrets, and its log is not the turn's.
        let launch = Launch {
            rules: None,
            debug_log: None,
            secrets: Secrets::default(),
            context: SessionContext::default(),
            ..self.spec.launch.clone()
        };
        let mut server = Server::start(&launch).await?;
        let forked = serve::fork(server.api(), &request.base).await;
        server.stop(false).await;
        forked
    }

    async fn prompt(&mut self, target: &Target, text: &str) -> Result<(), TransportError> {
        let (session, fork, text) = match target {
            Target::Session(session) => (session, false, Cow::Borrowed(text)),
            Target::ForkOf { base, mark } => {
                let (spec, base_id, of) = (self.spec.clone(), base.clone(), mark.clone());
                let search = aside(move || ForkSearch::begin(&spec, &base_id, of)).await?;
                self.search = SharedSearch::new(Some(search).into());
                (base, true, Cow::Owned(marked(text, mark)))
            }
        };
        let subagents = {
            let (spec, target) = (self.spec.clone(), target.clone());
            aside(move || Subagents::begin(&spec, &target)).await
        };
        let spec = commands::run(
            &self.spec.launch,
            &RunPrompt {
                session,
                fork,
                model: self.spec.model.as_deref(),
                agent: self.spec.agent.as_deref(),
                text: &text,
            },
        );
        let redactor = self.spec.launch.secrets.redactor.clone();
        let raw = RawLog::open(self.spec.raw_log.clone(), redactor).await?;
        let mut process = Guarded::spawn(spec).await?;
        let mut stderr_reports = None;
        if let Some(pipe) = process.stderr.take() {
            let debug_log = self.spec.launch.debug_log.clone();
            let (reporter, reports) = mpsc::channel(64);
            stderr_reports = Some(reports);
            self.stderr_reader.spawn(read_stderr(
                pipe,
                self.stderr.clone(),
                debug_log,
                self.spec.launch.secrets.redactor.clone(),
                Some(reporter),
            ));
        }
        let (sender, events) = mpsc::channel(QUEUE);
        let Some(stdout) = process.stdout.take() else {
            return Err(TransportError::NotReady(
                "its standard output is closed".to_owned(),
            ));
        };
        self.tasks.spawn(read_events(stdout, raw, sender));
        let (reporter, reports) = mpsc::channel(QUEUE);
        let watch = Watch {
            events,
            stderr: stderr_reports,
            search: Arc::clone(&self.search),
            subagents,
            reports: reporter,
            failed_attempts: 0,
        };
        self.tasks.spawn(watch.run());
        self.reports = Some(reports);
        self.process = Some(process);
        Ok(())
    }

    async fn next(&mut self) -> TransportEvent {
        let (Some(process), Some(reports)) = (&mut self.process, &mut self.reports) else {
            return TransportEvent::Ended(End {
                broken: Some("no prompt was delivered".to_owned()),
                ..End::default()
            });
        };
        loop {
            if self.kill_due {
                process.kill().await;
                self.kill_due = false;
            }
            match reports.recv().await {
                Some(Report::Event(event)) => return event,
                Some(Report::AgentRefused(message)) => {
                    self.agent_refused = Some(message);
                    self.kill_due = true;
                }
                None => break,
            }
        }
        // The output has ended. Everything from here on may be cancelled and repeated.
        let exit = process.wait().await;
        // opencode may have made the fork and printed nothing.
        let found = find_fork(&self.search).await;
        self.search = SharedSearch::default();
        match found {
            Some(Ok(Some(fork))) => return TransportEvent::Session(fork),
            // An error ends the turn. A restart could deliver the prompt twice.
            Some(Err(error)) => {
                return TransportEvent::Error(ErrorPayload::outside(
                    "Database",
                    format!("whether opencode made the fork is not known: {error}"),
                ));
            }
            Some(Ok(None)) | None => {}
        }
        if let Some(message) = self.agent_refused.take() {
            return TransportEvent::Error(ErrorPayload::outside("Agent", message));
        }
        // The last lines on standard error are evidence.
        wait_until_read(&mut self.stderr_reader).await;
        TransportEvent::Ended(End {
            exit: Some(exit),
            stderr: self.stderr.lines(),
            ..End::default()
        })
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
        // The raw log is complete when its tasks are gone.
        self.tasks.shutdown().await;
        self.stderr_reader.shutdown().await;
    }
}
