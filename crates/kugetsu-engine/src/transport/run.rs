//! A turn through one `opencode run`: the prompt on its standard input, events on its standard output.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::io::AsyncReadExt as _;
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::raw_log::RawLog;
use super::{
    Answer, Connector, End, ErrorPayload, Request, Target, TransportError, TransportEvent, TurnLink, TurnSpec,
};
use crate::opencode::commands::{self, RunPrompt};
use crate::opencode::{
    Database, DatabaseError, LineSplitter, RunEvent, RunEventKind, RunLine, SessionRow, SplitLine,
    StderrReport, StderrTail, begins_as_text, is_same_prompt, parse_line, read_stderr, wait_until_read,
};
use crate::process::Guarded;
use kugetsu_api::{SessionId, TransportKind};

/// How often the database is asked for the new fork. Its row is there before the first request to the model,
/// seconds before the first event names it.
const LOOK: Duration = Duration::from_millis(25);

/// How often the database is asked what subagents do: `run` says nothing of them.
const SUBAGENTS: Duration = Duration::from_secs(2);

/// How far back each such look begins before the latest change that was seen: rows are not written in the order of their
/// times.
const LATE: i64 = 5000;

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

/// Looks at what subagents do, in the database.
struct Subagents {
    database: PathBuf,
    /// Ours, once it is known.
    session: Option<SessionId>,
    since_ms: i64,
    reported: HashSet<String>,
    /// When their text and tools last changed, or a request to the model last failed: what is older is no progress.
    progress_ms: i64,
    /// opencode has made its first step: it has the database open, so that a look is not the first connection.
    open: bool,
    next: tokio::time::Instant,
}

impl Subagents {
    fn begin(spec: &TurnSpec, target: &Target) -> Self {
        let now = Timestamp::now().as_millisecond();
        Self {
            database: spec.launch.opencode.database.clone(),
            session: match target {
                Target::Session(session) => Some(session.clone()),
                Target::ForkOf(_) => None,
            },
            since_ms: now,
            reported: HashSet::new(),
            progress_ms: now,
            open: false,
            next: tokio::time::Instant::now() + SUBAGENTS,
        }
    }

    /// What has happened since the last look. A database that cannot be read says nothing.
    fn look(&mut self) -> Vec<TransportEvent> {
        self.next = tokio::time::Instant::now() + SUBAGENTS;
        let Some(session) = self.session.as_ref().filter(|_| self.open) else {
            return Vec::new();
        };
        let from = self.since_ms.max(self.progress_ms - LATE);
        let work = Database::open_read(&self.database).and_then(|database| database.subagents(session, from));
        let Ok(work) = work else {
            return Vec::new();
        };
        let mut events: Vec<TransportEvent> = work
            .steps
            .into_iter()
            .filter(|step| self.reported.insert(step.part.clone()))
            .map(|step| TransportEvent::SubagentStep {
                session: step.session,
                reason: step.reason,
                cost_usd: step.cost_usd,
                tokens: step.tokens,
            })
            .collect();
        if work.changed_ms > self.progress_ms {
            self.progress_ms = work.changed_ms;
            events.push(TransportEvent::Activity);
        }
        events
    }
}

/// Looks for the fork that `opencode run --fork` makes.
struct ForkSearch {
    /// Open for as long as the search. Opened anew for every look, it would again and again be the first
    /// connection, which locks the database to set up its write-ahead log; a starting 1.18.33 was seen to die of
    /// "database is locked".
    database: Database,
    base: SessionRow,
    since: Timestamp,
    known: HashSet<SessionId>,
    prompt: String,
}

impl ForkSearch {
    /// Forks of the base that were there before are not it.
    fn begin(spec: &TurnSpec, base: &SessionId, prompt: &str) -> Result<Self, TransportError> {
        let since = Timestamp::now();
        let database = Database::open_read(&spec.launch.opencode.database)?;
        let base = database
            .session(base)?
            .ok_or_else(|| TransportError::NoSuchSession(base.clone()))?;
        let known = database
            .forks_of(&base, since.as_millisecond())?
            .into_iter()
            .map(|row| row.id)
            .collect();
        Ok(Self {
            database,
            base,
            since,
            known,
            prompt: prompt.to_owned(),
        })
    }

    /// Whether an event names a session that is new and that opencode has: an event may be garbage.
    fn exists(&self, session: &SessionId) -> bool {
        *session != self.base.id
            && !self.known.contains(session)
            && matches!(self.database.session(session), Ok(Some(_)))
    }

    /// The fork that holds our prompt. A fork that somebody makes by hand meanwhile holds another one.
    fn look(&self) -> Result<Option<SessionId>, DatabaseError> {
        for row in self.database.forks_of(&self.base, self.since.as_millisecond())? {
            let known = self.known.contains(&row.id);
            if !known
                && let Some(text) = self.database.last_user_text(&row.id)?
                && is_same_prompt(&text, &self.prompt)
            {
                return Ok(Some(row.id));
            }
        }
        Ok(None)
    }
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

/// Reads standard output to its end: every byte into the raw log, every event to the supervisor.
async fn read_events(mut stdout: ChildStdout, mut raw: RawLog, events: mpsc::Sender<TransportEvent>) {
    let mut lines = LineSplitter::default();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let mut out = Vec::new();
        let read = stdout.read(&mut chunk).await.unwrap_or(0);
        if !raw.wants_lines() {
            raw.bytes(&chunk[..read]);
        }
        let take = |line: SplitLine<'_>| {
            if raw.wants_lines() {
                let (SplitLine::Whole(bytes) | SplitLine::TooLong { prefix: bytes, .. }) = line;
                raw.line(bytes);
            }
            take_line(&line, &mut out);
        };
        if read == 0 {
            std::mem::take(&mut lines).finish(take);
        } else {
            lines.push(&chunk[..read], take);
        }
        for event in out {
            // With nobody left to listen, the pipe is still read, so that opencode does not spin on it
            // (anomalyco/opencode#33653).
            let _ = events.send(event).await;
        }
        if read == 0 {
            return;
        }
    }
}

fn take_line(line: &SplitLine<'_>, out: &mut Vec<TransportEvent>) {
    match line {
        SplitLine::Whole(bytes) => match parse_line(bytes) {
            RunLine::Event(event) => translate(event, out),
            RunLine::Notice(text) if text.trim().is_empty() => {}
            RunLine::Notice(text) => out.push(TransportEvent::Notice(text)),
            RunLine::Unknown { session, .. } => {
                out.extend(session.map(TransportEvent::Session));
                out.push(TransportEvent::Activity);
            }
        },
        SplitLine::TooLong { prefix, length } => {
            let what = format!("opencode wrote a line of {length} bytes, which is too long to be read");
            if begins_as_text(prefix) {
                out.push(TransportEvent::Unread(what));
            } else {
                out.extend([TransportEvent::Notice(what), TransportEvent::Activity]);
            }
        }
    }
}

fn translate(event: RunEvent, out: &mut Vec<TransportEvent>) {
    out.extend(event.session.map(TransportEvent::Session));
    match event.kind {
        RunEventKind::StepStart => out.push(TransportEvent::StepStarted),
        RunEventKind::Text { part, text } => whole_text(part, text, false, out),
        RunEventKind::Reasoning { part, text } => whole_text(part, text, true, out),
        RunEventKind::Tool(call) => out.push(TransportEvent::Tool(call)),
        RunEventKind::StepFinish {
            reason,
            cost_usd,
            tokens,
        } => out.push(TransportEvent::StepFinished {
            reason,
            cost_usd,
            tokens,
        }),
        RunEventKind::Error(error) => out.push(TransportEvent::Error(error)),
    }
}

/// `run` prints a part when it is complete, so its one piece is all of it.
fn whole_text(part: String, text: String, reasoning: bool, out: &mut Vec<TransportEvent>) {
    if !text.is_empty() {
        out.push(TransportEvent::Text {
            part: part.clone(),
            reasoning,
            delta: text.clone(),
        });
    }
    out.push(TransportEvent::TextEnded {
        part,
        reasoning,
        text,
    });
}
