//! A turn through an `opencode serve` that serves no other turn at the same time.
//!
//! Three tasks run side by side and report into one channel: one reads the stream of events, one delivers the prompt
//! (the response is the evidence of the turn's end), and one polls open requests and retries every two seconds, because
//! event streams drop (anomalyco/opencode#38458).
//!
//! The server belongs to this turn alone, as long as the turn lasts: every question and permission that the poll finds is
//! this turn's ([`poll_waiting`]), and what runs below the server is this turn's.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::raw_log::RawLog;
use super::serve_events::{Listener, ServerReport, poll_waiting};
use super::{
    Answer, Connector, End, ForkRequest, Request, RequestKind, Target, TransportError, TransportEvent,
    TurnLink, TurnSpec,
};
use crate::opencode::{Api, ApiError, PermissionReply, Problem, Server, ServerError, TurnAnswer};
use crate::process::Exit;
use kugetsu_api::{GiveBack, SessionId, TransportKind};

/// How often open requests and retries are polled.
const WAITING_POLL: Duration = Duration::from_secs(2);
/// How long the event stream may lag behind the response to the prompt.
const STREAM_LAG: Duration = Duration::from_millis(500);

/// Reaches opencode through a server that is started for one turn.
#[derive(Clone, Copy, Debug)]
pub struct PrivateServer;

/// The server of one turn.
#[async_trait]
pub(super) trait TurnServer: Send {
    /// A client for the session's directory.
    fn api(&self) -> &Api;

    /// The last lines that the server has written on standard error in this turn.
    fn stderr_lines(&self) -> Vec<String>;

    /// Waits until the server has ended. Cancel-safe.
    async fn ended(&mut self) -> Exit;

    /// Ends everything that the turn started; with [`GiveBack::End`], without the grace period.
    async fn stop(&mut self, how: GiveBack);
}

#[async_trait]
impl TurnServer for Server {
    fn api(&self) -> &Api {
        Server::api(self)
    }

    fn stderr_lines(&self) -> Vec<String> {
        Server::stderr_lines(self)
    }

    async fn ended(&mut self) -> Exit {
        Server::ended(self).await
    }

    async fn stop(&mut self, how: GiveBack) {
        Server::stop(self, how == GiveBack::End).await;
    }
}

/// The link of a turn to its server.
pub(super) struct ServerLink {
    spec: TurnSpec,
    server: Box<dyn TurnServer>,
    session: Option<SessionId>,
    sender: mpsc::Sender<ServerReport>,
    reports: mpsc::Receiver<ServerReport>,
    tasks: JoinSet<()>,
    answer: Option<Result<TurnAnswer, ApiError>>,
    idle: bool,
    /// opencode does nothing for the turn any more: the session has answered and is idle, and no tool and no subagent has
    /// worked for it.
    opencode_is_done: bool,
    /// A tool may have run in this turn, or opencode was told to stop.
    may_have_worked: bool,
    /// When the session counts as idle without an event. Set once the prompt is answered.
    idle_deadline: Option<tokio::time::Instant>,
    /// The stream has brought text of the answer.
    streamed_text: bool,
    /// Why a piece of the answer is missing from the events.
    lost_text: Option<String>,
    /// The server has ended.
    ended: bool,
}

impl From<ServerError> for TransportError {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::Process(error) => error.into(),
            ServerError::Config(problem)
            | ServerError::Api(ApiError {
                problem: Problem::Config(problem),
                ..
            }) => Self::Config(problem),
            other => Self::NotReady(other.to_string()),
        }
    }
}

impl From<ApiError> for TransportError {
    fn from(error: ApiError) -> Self {
        if let Problem::Config(problem) = error.problem {
            return Self::Config(problem);
        }
        Self::Request {
            message: error.problem.to_string(),
            request: error.request,
        }
    }
}

/// Forks a session through a server.
pub(super) async fn fork(api: &Api, base: &SessionId) -> Result<SessionId, TransportError> {
    api.fork(base).await.map_err(|error| {
        if error.is_not_found() {
            TransportError::NoSuchSession(base.clone())
        } else {
            error.into()
        }
    })
}

impl ServerLink {
    pub(super) fn boxed(spec: &TurnSpec, server: Box<dyn TurnServer>) -> Box<dyn TurnLink> {
        let (sender, reports) = mpsc::channel(256);
        Box::new(Self {
            spec: spec.clone(),
            server,
            session: None,
            sender,
            reports,
            tasks: JoinSet::new(),
            answer: None,
            idle: false,
            opencode_is_done: false,
            may_have_worked: false,
            idle_deadline: None,
            streamed_text: false,
            lost_text: None,
            ended: false,
        })
    }

    fn api(&self) -> Api {
        self.server.api().clone()
    }

    fn stderr_lines(&self) -> Vec<String> {
        let lines = self.server.stderr_lines();
        let redactor = &self.spec.launch.secrets.redactor;
        lines
            .iter()
            .map(|line| redactor.clean(line).into_owned())
            .collect()
    }

    /// Takes in one report. Returns the event in it for the caller.
    fn take(&mut self, report: ServerReport) -> Option<TransportEvent> {
        match report {
            ServerReport::Event(event) => {
                self.streamed_text |= matches!(event, TransportEvent::Text { reasoning: false, .. });
                // Subagents are tools as well.
                self.may_have_worked |= matches!(event, TransportEvent::Tool(_));
                Some(event)
            }
            ServerReport::Gap => {
                self.may_have_worked = true;
                None
            }
            ServerReport::Idle => {
                self.idle = true;
                None
            }
            ServerReport::TextLost(what) => {
                self.lost_text.get_or_insert(what);
                None
            }
            ServerReport::Answered(answer) => {
                self.answer = Some(answer);
                self.idle_deadline = Some(tokio::time::Instant::now() + STREAM_LAG);
                None
            }
        }
    }

    /// The end of the turn, once the prompt is answered and the stream has caught up.
    fn end(&mut self) -> Option<TransportEvent> {
        let caught_up = self.idle
            || self
                .idle_deadline
                .is_some_and(|deadline| tokio::time::Instant::now() >= deadline);
        if !caught_up {
            return None;
        }
        match self.answer.take()? {
            Err(error) if error.is_too_long() => {
                // opencode has answered; the stream may have all of the text.
                if !self.streamed_text {
                    self.lost_text.get_or_insert(error.to_string());
                }
                self.answer = Some(Ok(TurnAnswer::default()));
                self.end()
            }
            Ok(answer) => {
                let finish = answer.finish().cloned();
                let text = answer.text();
                if !self.streamed_text && !text.is_empty() {
                    // The stream dropped the text, and the response has it.
                    self.streamed_text = true;
                    self.lost_text = None;
                    self.answer = Some(Ok(answer));
                    return Some(TransportEvent::Text {
                        part: "answer".to_owned(),
                        reasoning: false,
                        delta: text,
                    });
                }
                if let Some(what) = self.lost_text.take() {
                    self.answer = Some(Ok(answer));
                    return Some(TransportEvent::Unread(what));
                }
                self.opencode_is_done = self.idle && !self.may_have_worked;
                Some(TransportEvent::Ended(End {
                    finish,
                    ..End::default()
                }))
            }
            Err(error) => Some(TransportEvent::Ended(End {
                broken: Some(error.to_string()),
                stderr: self.stderr_lines(),
                ..End::default()
            })),
        }
    }
}

#[async_trait]
impl Connector for PrivateServer {
    fn kind(&self) -> TransportKind {
        TransportKind::Serve
    }

    async fn connect(&self, spec: &TurnSpec) -> Result<Box<dyn TurnLink>, TransportError> {
        let server = Server::start(&spec.launch).await?;
        Ok(ServerLink::boxed(spec, Box::new(server)))
    }
}

#[async_trait]
impl TurnLink for ServerLink {
    fn forks_ahead(&self, _request: &ForkRequest) -> bool {
        true
    }

    async fn fork(&mut self, request: &ForkRequest) -> Result<SessionId, TransportError> {
        fork(self.server.api(), &request.base).await
    }

    async fn prompt(&mut self, target: &Target, text: &str) -> Result<(), TransportError> {
        let session = match target {
            Target::Session(session) => session.clone(),
            Target::ForkOf { base, .. } => {
                let fork = self.api().fork(base).await?;
                let _ = self
                    .sender
                    .send(TransportEvent::Session(fork.clone()).into())
                    .await;
                fork
            }
        };
        self.session = Some(session.clone());
        let api = self.api();
        // The stream is open before the prompt is delivered, so that no event of the turn is missed.
        let stream = api.events().await?;
        let redactor = self.spec.launch.secrets.redactor.clone();
        let raw = RawLog::open(self.spec.raw_log.clone(), redactor).await?;
        let listener = Listener::new(session.clone(), raw);
        self.tasks
            .spawn(listener.run(api.clone(), stream, self.sender.clone()));
        self.tasks
            .spawn(poll_waiting(api.clone(), self.sender.clone(), WAITING_POLL));
        let (sender, text) = (self.sender.clone(), text.to_owned());
        let (model, agent) = (self.spec.model.clone(), self.spec.agent.clone());
        self.tasks.spawn(async move {
            let answer = api
                .message(&session, &text, model.as_deref(), agent.as_deref())
                .await;
            let _ = sender.send(ServerReport::Answered(answer)).await;
        });
        Ok(())
    }

    async fn next(&mut self) -> TransportEvent {
        loop {
            if let Some(event) = self.end() {
                return event;
            }
            let lag = async {
                match self.idle_deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => {
                    if let Some(event) = self.take(report) {
                        return event;
                    }
                }
                exit = self.server.ended(), if !self.ended => {
                    self.ended = true;
                    return TransportEvent::Ended(End {
                        exit: Some(exit),
                        broken: Some("opencode serve ended during the turn".to_owned()),
                        stderr: self.stderr_lines(),
                        ..End::default()
                    });
                }
                () = lag => {}
            }
        }
    }

    async fn answer(&mut self, request: &Request, answer: &Answer) -> Result<(), TransportError> {
        let api = self.api();
        let answered = match (&request.kind, answer) {
            (RequestKind::Permission { .. }, Answer::Allow) => {
                api.reply_permission(&request.id, PermissionReply::Once).await
            }
            (RequestKind::Permission { .. }, Answer::Deny) => {
                api.reply_permission(&request.id, PermissionReply::Deny).await
            }
            (RequestKind::Permission { .. }, _) => {
                api.reply_permission(&request.id, PermissionReply::Reject).await
            }
            (RequestKind::Question(_), Answer::Labels(labels)) => {
                api.reply_question(&request.id, labels).await
            }
            (RequestKind::Question(_), _) => api.reject_question(&request.id).await,
        };
        match answered {
            // opencode withdrew the request, for instance because the step that made it ended.
            Err(error) if error.is_not_found() => Ok(()),
            // opencode does not accept the answer, and the request must not stay open.
            Err(error) if error.is_refusal() => {
                tracing::warn!(
                    "{}: opencode did not accept the answer, so the request is refused",
                    error.request
                );
                match &request.kind {
                    RequestKind::Permission { .. } => {
                        api.reply_permission(&request.id, PermissionReply::Reject).await?;
                    }
                    RequestKind::Question(_) => api.reject_question(&request.id).await?,
                }
                Ok(())
            }
            other => Ok(other?),
        }
    }

    async fn abort(&mut self) {
        self.opencode_is_done = false;
        self.may_have_worked = true;
        if let Some(session) = &self.session {
            let api = self.api();
            let _ = tokio::time::timeout(self.spec.launch.containment.grace, api.abort(session)).await;
        }
    }

    async fn close(&mut self, now: bool) {
        // The raw log is complete when its tasks are gone.
        self.tasks.shutdown().await;
        let how = match (now, self.opencode_is_done) {
            (true, _) => GiveBack::End,
            (false, true) => GiveBack::Idle,
            (false, false) => GiveBack::Busy,
        };
        self.server.stop(how).await;
    }
}
