//! A turn through a private `opencode serve`.
//!
//! Three things run beside each other, all reporting into one channel: the stream of events, the request
//! that delivers the prompt (its answer is the evidence of the turn's end), and a slow poll of what waits,
//! since event streams drop (anomalyco/opencode#38458).
//!
//! The server belongs to this turn alone. What rests on that, for whoever lends one server to turn after turn: every
//! question and permission that the poll finds is this turn's ([`poll_waiting`]); the rules and secrets are in the server's
//! environment ([`TurnSpec::launch`]); the end of the server is the end of everything that the turn started
//! ([`TurnLink::close`]); what a server says on its standard error is evidence of this turn ([`End::stderr`]).

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::raw_log::RawLog;
use super::serve_events::{Listener, ServerReport, poll_waiting};
use super::{
    Answer, Connector, End, Request, RequestKind, Target, TransportError, TransportEvent, TurnLink, TurnSpec,
};
use crate::opencode::{Api, ApiError, PermissionReply, Server, ServerError, TurnAnswer};
use kugetsu_api::{SessionId, TransportKind};

/// How often what waits is looked up beside the event stream.
const POLL: Duration = Duration::from_secs(2);
/// How long the event stream may lag behind the answer to the prompt.
const LAG: Duration = Duration::from_millis(500);

/// Reaches opencode through a server of the turn's own.
#[derive(Clone, Copy, Debug)]
pub struct PrivateServer;

/// The link to a server.
struct ServerLink {
    spec: TurnSpec,
    server: Server,
    session: Option<SessionId>,
    sender: mpsc::Sender<ServerReport>,
    reports: mpsc::Receiver<ServerReport>,
    tasks: Vec<JoinHandle<()>>,
    answer: Option<Result<TurnAnswer, ApiError>>,
    idle: bool,
    /// When the session counts as idle, once the prompt is answered.
    idle_by: Option<tokio::time::Instant>,
    /// Whether any text of the answer came by the stream.
    streamed_text: bool,
    /// Whether the server has ended.
    ended: bool,
}

impl From<ServerError> for TransportError {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::Process(error) => error.into(),
            other => Self::NotReady(other.to_string()),
        }
    }
}

impl From<ApiError> for TransportError {
    fn from(error: ApiError) -> Self {
        Self::Request {
            message: error.problem.to_string(),
            request: error.request,
        }
    }
}

impl ServerLink {
    fn api(&self) -> Api {
        self.server.api().clone()
    }

    /// Takes in one report; an event for the caller, if it is one.
    fn take(&mut self, report: ServerReport) -> Option<TransportEvent> {
        match report {
            ServerReport::Event(event) => {
                self.streamed_text |= matches!(event, TransportEvent::Text { reasoning: false, .. });
                Some(event)
            }
            ServerReport::Idle => {
                self.idle = true;
                None
            }
            ServerReport::Answered(answer) => {
                self.answer = Some(answer);
                self.idle_by = Some(tokio::time::Instant::now() + LAG);
                None
            }
        }
    }

    /// The end, once the prompt's answer is there and the stream has caught up.
    fn end(&mut self) -> Option<TransportEvent> {
        let caught_up = self.idle || self.idle_by.is_some_and(|by| tokio::time::Instant::now() >= by);
        if !caught_up {
            return None;
        }
        match self.answer.take()? {
            Ok(answer) => {
                let finish = answer.finish().cloned();
                let text = answer.text();
                if !self.streamed_text && !text.is_empty() {
                    // The stream dropped: the answer is here, so the user gets it.
                    self.streamed_text = true;
                    self.answer = Some(Ok(answer));
                    return Some(TransportEvent::Text {
                        part: "answer".to_owned(),
                        reasoning: false,
                        delta: text,
                    });
                }
                Some(TransportEvent::Ended(End {
                    finish,
                    ..End::default()
                }))
            }
            Err(error) => Some(TransportEvent::Ended(End {
                broken: Some(error.to_string()),
                stderr: self.server.last_words(),
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
        let (sender, reports) = mpsc::channel(256);
        Ok(Box::new(ServerLink {
            spec: spec.clone(),
            server,
            session: None,
            sender,
            reports,
            tasks: Vec::new(),
            answer: None,
            idle: false,
            idle_by: None,
            streamed_text: false,
            ended: false,
        }))
    }
}

#[async_trait]
impl TurnLink for ServerLink {
    async fn fork(&mut self, base: &SessionId) -> Result<Option<SessionId>, TransportError> {
        self.api().fork(base).await.map(Some).map_err(|error| {
            if error.is_not_found() {
                TransportError::NoSuchSession(base.clone())
            } else {
                error.into()
            }
        })
    }

    async fn prompt(&mut self, target: &Target, text: &str) -> Result<(), TransportError> {
        let session = match target {
            Target::Session(session) => session.clone(),
            Target::ForkOf(base) => {
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
        // Listening begins before the prompt is delivered, so that nothing of the turn is missed.
        let stream = api.events().await?;
        let redactor = self.spec.launch.secrets.redactor.clone();
        let raw = RawLog::open(self.spec.raw_log.clone(), redactor).await?;
        let listener = Listener::new(session.clone(), raw);
        self.tasks.push(tokio::spawn(listener.run(
            api.clone(),
            stream,
            self.sender.clone(),
        )));
        self.tasks
            .push(tokio::spawn(poll_waiting(api.clone(), self.sender.clone(), POLL)));
        let (sender, text) = (self.sender.clone(), text.to_owned());
        let (model, agent) = (self.spec.model.clone(), self.spec.agent.clone());
        self.tasks.push(tokio::spawn(async move {
            let answer = api
                .message(&session, &text, model.as_deref(), agent.as_deref())
                .await;
            let _ = sender.send(ServerReport::Answered(answer)).await;
        }));
        Ok(())
    }

    async fn next(&mut self) -> TransportEvent {
        loop {
            if let Some(event) = self.end() {
                return event;
            }
            let lag = async {
                match self.idle_by {
                    Some(by) => tokio::time::sleep_until(by).await,
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
                        stderr: self.server.last_words(),
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
            (RequestKind::Permission { .. }, _) => {
                api.reply_permission(&request.id, PermissionReply::Reject).await
            }
            (RequestKind::Question(_), Answer::Labels(labels)) => {
                api.reply_question(&request.id, labels).await
            }
            (RequestKind::Question(_), _) => api.reject_question(&request.id).await,
        };
        match answered {
            // Withdrawn meanwhile, such as with the step that asked.
            Err(error) if error.is_not_found() => Ok(()),
            // The request must not stay open for an answer that opencode does not take.
            Err(error) if error.is_refusal() => {
                tracing::warn!(
                    "{}: the answer was not taken, so the request is refused",
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
        if let Some(session) = &self.session {
            let api = self.api();
            let _ = tokio::time::timeout(self.spec.launch.containment.grace, api.abort(session)).await;
        }
    }

    async fn close(&mut self, now: bool) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.server.stop(now).await;
    }
}
