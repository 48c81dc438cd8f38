//! A turn through one `opencode run`: the prompt on its standard input, events on its standard output.

use std::collections::{HashSet, VecDeque};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::io::AsyncReadExt as _;
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::serve_events::open_raw_log;
use super::{
    Answer, Connector, End, ErrorPayload, Request, Target, ToolCall, ToolStatus, TransportError,
    TransportEvent, TurnLink, TurnSpec,
};
use crate::opencode::{
    Database, DatabaseError, LineSplitter, RunEvent, RunEventKind, RunLine, SUBAGENT_TOOL, SessionRow,
    SplitLine, StderrReport, StderrTail, drained, parse_line, pump_stderr,
};
use crate::process::Guarded;
use crate::redact::Redactor;
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
    said: Option<mpsc::Receiver<StderrReport>>,
    /// Why another agent than the one asked for would have run the turn.
    refused: Option<String>,
    attempts: u64,
    tasks: Vec<JoinHandle<()>>,
    stderr_pump: Option<JoinHandle<()>>,
    search: Option<ForkSearch>,
    subagents: Option<Subagents>,
    /// What was seen at a look and not told yet.
    seen: VecDeque<TransportEvent>,
}

/// Looks at what subagents do, in the database.
struct Subagents {
    database: PathBuf,
    /// Ours, once it is known.
    session: Option<SessionId>,
    since_ms: i64,
    told: HashSet<String>,
    /// When their text and tools last changed, or a request to the model last failed: what is older is no progress.
    stood_ms: i64,
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
            told: HashSet::new(),
            stood_ms: now,
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
        let from = self.since_ms.max(self.stood_ms - LATE);
        let work = Database::open_read(&self.database).and_then(|database| database.subagents(session, from));
        let Ok(work) = work else {
            return Vec::new();
        };
        let mut events: Vec<TransportEvent> = work
            .steps
            .into_iter()
            .filter(|step| self.told.insert(step.part.clone()))
            .map(|step| TransportEvent::SubagentStep {
                session: step.session,
                reason: step.reason,
                cost_usd: step.cost_usd,
                tokens: step.tokens,
            })
            .collect();
        if work.changed_ms > self.stood_ms {
            self.stood_ms = work.changed_ms;
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
        let prompt = self.prompt.trim_start_matches('\n');
        for row in self.database.forks_of(&self.base, self.since.as_millisecond())? {
            let known = self.known.contains(&row.id);
            if !known
                && let Some(text) = self.database.last_user_text(&row.id)?
                && text.trim_start_matches('\n') == prompt
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
            said: None,
            refused: None,
            attempts: 0,
            tasks: Vec::new(),
            stderr_pump: None,
            search: None,
            subagents: None,
            seen: VecDeque::new(),
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
        let mut args = vec!["run", "--format", "json"];
        // Never --continue: with it, 1.3.2 ignores --session and goes on in the newest one.
        let session = match target {
            Target::Session(session) => session,
            Target::ForkOf(base) => {
                self.search = Some(ForkSearch::begin(&self.spec, base, text)?);
                args.push("--fork");
                base
            }
        };
        args.extend(["--session", session.as_str()]);
        for (flag, value) in [("--model", &self.spec.model), ("--agent", &self.spec.agent)] {
            if let Some(value) = value {
                args.extend([flag, value]);
            }
        }
        if self.spec.launch.debug_log.is_none() {
            // Nothing on standard output tells that opencode waits for the model's provider; its log does.
            args.extend(["--print-logs", "--log-level", "ERROR"]);
        }
        let mut spec = self
            .spec
            .launch
            .guard_spec(args.into_iter().map(Into::into).collect());
        // An argument with spaces arrives wrapped in quotes, and an open standard input hangs it: so the
        // prompt goes in there, and it is closed.
        spec.stdin = text.as_bytes().into();
        spec.remove_env.push("OPENCODE_SERVER_PASSWORD".into());
        let raw = self.spec.raw_log.as_deref().map(open_raw_log).transpose()?;
        let mut process = Guarded::spawn(spec).await?;
        if let Some(pipe) = process.stderr.take() {
            let debug_log = self.spec.launch.debug_log.clone();
            let (heard, said) = mpsc::channel(64);
            self.said = Some(said);
            self.stderr_pump = Some(tokio::spawn(pump_stderr(
                pipe,
                self.stderr.clone(),
                debug_log,
                self.spec.launch.secrets.redactor.clone(),
                Some(heard),
            )));
        }
        let (sender, events) = mpsc::channel(256);
        match process.stdout.take() {
            Some(stdout) => self.tasks.push(tokio::spawn(read_events(
                stdout,
                raw,
                sender,
                self.spec.launch.secrets.redactor.clone(),
            ))),
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
            if let Some(event) = self.seen.pop_front() {
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
            let said = async {
                match &mut self.said {
                    Some(said) => said.recv().await,
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
                            if matches!(&event, TransportEvent::Tool(call) if call.tool == SUBAGENT_TOOL) {
                                // It has ended: what it cost counts before the next step begins.
                                self.seen.extend(subagents.look());
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
                            Some(Err(error)) => return TransportEvent::Error(ErrorPayload {
                                name: "Database".to_owned(),
                                message: format!("whether opencode made the fork is not known: {error}"),
                                payload: serde_json::Value::Null,
                            }),
                            Some(Ok(None)) | None => {}
                        }
                        if let Some(message) = self.refused.take() {
                            return TransportEvent::Error(ErrorPayload {
                                name: "Agent".to_owned(),
                                message,
                                payload: serde_json::Value::Null,
                            });
                        }
                        // Its last words are evidence.
                        if let Some(pump) = &mut self.stderr_pump {
                            drained(pump).await;
                        }
                        return TransportEvent::Ended(End {
                            exit: Some(exit),
                            stderr: self.stderr.lines(),
                            ..End::default()
                        });
                    }
                },
                said = said => match said {
                    Some(StderrReport::AgentRefused(message)) => {
                        process.kill().await;
                        self.refused = Some(message);
                    }
                    Some(StderrReport::AttemptFailed(message)) => {
                        self.attempts += 1;
                        if let Some(subagents) = &mut self.subagents {
                            // What was done before is no progress afterwards.
                            self.seen.extend(subagents.look());
                            subagents.stood_ms = Timestamp::now().as_millisecond();
                        }
                        self.seen.push_back(TransportEvent::Retrying { attempt: self.attempts, message, next: None });
                    }
                    None => self.said = None,
                },
                () = look => {
                    if let Some(Ok(Some(fork))) = self.search.as_ref().map(ForkSearch::look) {
                        return self.found(fork);
                    }
                }
                () = subagents_look => {
                    if let Some(subagents) = &mut self.subagents {
                        self.seen.extend(subagents.look());
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
        for task in self.tasks.drain(..).chain(self.stderr_pump.take()) {
            task.abort();
        }
    }
}

/// Reads standard output to its end: every byte into the raw log, every event to the supervisor. With secrets
/// the raw log is written by lines, since a secret may lie across two reads.
async fn read_events(
    mut stdout: ChildStdout,
    mut raw: Option<std::fs::File>,
    events: mpsc::Sender<TransportEvent>,
    redactor: Redactor,
) {
    let mut lines = LineSplitter::default();
    let mut chunk = vec![0; 64 * 1024];
    let by_line = !redactor.is_empty();
    loop {
        let mut out = Vec::new();
        let read = stdout.read(&mut chunk).await.unwrap_or(0);
        if let Some(raw) = raw.as_mut().filter(|_| !by_line) {
            let _ = raw.write_all(&chunk[..read]);
        }
        let take = |line: SplitLine<'_>| {
            if let Some(raw) = raw.as_mut().filter(|_| by_line) {
                let (SplitLine::Whole(bytes) | SplitLine::TooLong { prefix: bytes, .. }) = line;
                let _ = raw.write_all(&redactor.clean_bytes(bytes));
                let _ = raw.write_all(b"\n");
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
            // Quotes inside of a string have a backslash before them.
            if memchr::memmem::find(prefix, b"\"type\":\"text\"").is_some() {
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
        RunEventKind::ToolUse {
            call,
            tool,
            status,
            title,
            input,
            output,
            error,
        } => {
            let status = match status.as_str() {
                "completed" => ToolStatus::Completed,
                "running" => ToolStatus::Running,
                "pending" => ToolStatus::Pending,
                _ => ToolStatus::Failed,
            };
            out.push(TransportEvent::Tool(ToolCall {
                call,
                tool,
                status,
                title: title.unwrap_or_default(),
                input,
                output,
                error,
            }));
        }
        RunEventKind::StepFinish {
            reason,
            cost_usd,
            tokens,
        } => out.push(TransportEvent::StepFinished {
            reason,
            cost_usd,
            tokens,
        }),
        RunEventKind::Error {
            name,
            message,
            payload,
        } => out.push(TransportEvent::Error(ErrorPayload {
            name,
            message,
            payload,
        })),
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
