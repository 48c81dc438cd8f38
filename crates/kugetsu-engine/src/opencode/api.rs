//! A client for the part of opencode's HTTP API that kugetsu uses. The paths are the same on 1.3.2 and
//! 1.18.33 (`GET /doc` describes them).

use std::path::Path;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config_problem::ConfigProblem;
use super::message::TurnAnswer;
use super::requests::{PermissionAsked, QuestionsAsked, SessionStatus, SessionStatuses};
use super::server_events::EventStream;
use super::tolerant::{self, Tolerant, tolerant, tolerant_objects};
use crate::permission::Rule;
use kugetsu_api::SessionId;

/// The longest time for a call, except the call that runs a turn. The first call for a directory starts opencode's
/// instance there, which takes seconds on a busy machine.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest body of an answer that is read, in bytes. The answer to a prompt has the text of the model.
const MAX_BODY: usize = 32 << 20;
/// How much of the body of an error is read, in bytes.
const MAX_ERROR_BODY: usize = 4 << 10;

/// The ASCII characters that are percent-encoded in a header, in addition to all non-ASCII characters. opencode decodes
/// the percent form (both versions).
const HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// A connection to one server, for one directory.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    url: String,
    password: String,
    directory: String,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[error("{request}: {problem}")]
pub struct ApiError {
    /// Method and path.
    pub request: String,
    /// What happened.
    pub problem: Problem,
}

/// What happened to a call.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The server could not be reached, or the connection broke.
    #[error("{0}")]
    Connection(String),
    /// The server answered with another status than 2xx.
    #[error("HTTP {status}: {body}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// The body is longer than [`MAX_BODY`].
    #[error("an answer of more than {MAX_BODY} bytes")]
    TooLong,
    /// opencode cannot read its configuration for the directory.
    #[error(transparent)]
    Config(ConfigProblem),
    /// The body is not what the API promises.
    #[error("unexpected answer: {0}")]
    Shape(String),
}

impl ApiError {
    /// The server has no such session or request.
    pub fn is_not_found(&self) -> bool {
        matches!(self.problem, Problem::Status { status: 404, .. })
    }

    /// The server has answered, and the answer is too long to be read.
    pub fn is_too_long(&self) -> bool {
        matches!(self.problem, Problem::TooLong)
    }

    /// The server refuses the request, and would refuse it again.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self.problem,
            Problem::Status {
                status: 400..=499,
                ..
            }
        )
    }
}

impl Api {
    /// A client for the server at `url` (`http://127.0.0.1:PORT`). `directory` selects opencode's instance.
    pub fn new(url: String, password: String, directory: &Path) -> Self {
        // The calls go to loopback only, and a proxy from the environment must not see them.
        let client = Client::builder()
            .no_proxy()
            .build()
            .unwrap_or_else(|_| Client::new());
        Self {
            client,
            url,
            password,
            directory: header_of(directory),
        }
    }

    /// The same connection for another directory.
    #[must_use]
    pub fn for_directory(&self, directory: &Path) -> Self {
        Self {
            directory: header_of(directory),
            ..self.clone()
        }
    }

    /// Where the server listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.url))
            .basic_auth("opencode", Some(&self.password))
            .header("x-opencode-directory", &self.directory)
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response, ApiError> {
        let failed = |problem| ApiError {
            request: format!("{method} {path}"),
            problem,
        };
        let mut request = self.request(method.clone(), path);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = match tokio::time::timeout(limit(path), request.send()).await {
            Ok(sent) => sent.map_err(|error| failed(Problem::Connection(chain(&error))))?,
            Err(_) => return Err(failed(timed_out())),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = tokio::time::timeout(CALL_TIMEOUT, read_body(response, MAX_ERROR_BODY)).await;
        let (body, _) = body.ok().and_then(Result::ok).unwrap_or_default();
        let body = String::from_utf8_lossy(&body);
        if let Some(problem) = ConfigProblem::from_body(&body) {
            return Err(failed(Problem::Config(problem)));
        }
        let body: String = body.chars().take(400).collect();
        Err(failed(Problem::Status {
            status: status.as_u16(),
            body,
        }))
    }

    /// Sends a request and returns the body of its answer.
    async fn body(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Vec<u8>, ApiError> {
        let response = self.send(method.clone(), path, body).await?;
        let read = tokio::time::timeout(limit(path), read_body(response, MAX_BODY)).await;
        let problem = match read {
            Ok(Ok((bytes, true))) => return Ok(bytes),
            Ok(Ok((_, false))) => Problem::TooLong,
            Ok(Err(error)) => Problem::Connection(chain(&error)),
            Err(_) => timed_out(),
        };
        Err(ApiError {
            request: format!("{method} {path}"),
            problem,
        })
    }

    /// Sends a request and reads its answer. An answer that `read` does not accept is an error that shows the beginning
    /// of the body.
    async fn call<T: Tolerant, R>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        read: impl FnOnce(T) -> Option<R>,
    ) -> Result<R, ApiError> {
        let bytes = self.body(method.clone(), path, body).await?;
        let parsed = if bytes.is_empty() {
            Ok(T::default())
        } else {
            tolerant::from_slice(&bytes)
        };
        let problem = match parsed.map(read) {
            Ok(Some(read)) => return Ok(read),
            Ok(None) => String::from_utf8_lossy(&bytes).chars().take(400).collect(),
            Err(error) => error.to_string(),
        };
        Err(ApiError {
            request: format!("{method} {path}"),
            problem: Problem::Shape(problem),
        })
    }

    /// Sends a request whose answer only confirms it.
    async fn send_command(&self, path: &str, body: Option<&Value>) -> Result<(), ApiError> {
        self.call(Method::POST, path, body, |Ignored| Some(())).await
    }

    /// The server's version, once it is healthy.
    pub async fn health(&self) -> Result<String, ApiError> {
        self.call(Method::GET, "/global/health", None, |health: Health| {
            health.version.filter(|_| health.healthy)
        })
        .await
    }

    async fn new_session(&self, path: &str, body: &Value) -> Result<SessionId, ApiError> {
        self.call(Method::POST, path, Some(body), |made: NewSession| {
            made.id.and_then(SessionId::new)
        })
        .await
    }

    /// Makes an empty session. Both versions honour `permission` here.
    pub async fn create_session(&self, title: &str, permission: &[Rule]) -> Result<SessionId, ApiError> {
        let body = json!({"title": title, "permission": permission});
        self.new_session("/session", &body).await
    }

    /// Forks a session with all its messages. The fork has no permission rules (both versions).
    pub async fn fork(&self, base: &SessionId) -> Result<SessionId, ApiError> {
        self.new_session(&format!("/session/{base}/fork"), &json!({}))
            .await
    }

    /// Delivers a prompt. Returns the last assistant message when the turn has ended.
    pub async fn message(
        &self,
        session: &SessionId,
        text: &str,
        model: Option<&str>,
        agent: Option<&str>,
    ) -> Result<TurnAnswer, ApiError> {
        let model = model.and_then(|name| name.split_once('/'));
        let body = json!(PromptBody {
            parts: [TextPart { kind: "text", text }],
            model: model.map(|(provider, model)| ModelName { provider, model }),
            agent,
        });
        let path = format!("/session/{session}/message");
        self.call(Method::POST, &path, Some(&body), Some).await
    }

    /// Asks the server to end the session's turn.
    pub async fn abort(&self, session: &SessionId) -> Result<(), ApiError> {
        self.send_command(&format!("/session/{session}/abort"), None)
            .await
    }

    /// The sessions that are busy or wait for a retry; idle sessions are absent.
    pub async fn status(&self) -> Result<Vec<SessionStatus>, ApiError> {
        self.call(
            Method::GET,
            "/session/status",
            None,
            |SessionStatuses(statuses)| Some(statuses),
        )
        .await
    }

    /// The pending permission requests of every session of the directory.
    pub async fn permissions(&self) -> Result<Vec<PermissionAsked>, ApiError> {
        self.call(Method::GET, "/permission", None, Some).await
    }

    /// The pending questions of every session of the directory.
    pub async fn questions(&self) -> Result<Vec<QuestionsAsked>, ApiError> {
        self.call(Method::GET, "/question", None, Some).await
    }

    /// Answers a permission request.
    pub async fn reply_permission(&self, id: &str, reply: PermissionReply) -> Result<(), ApiError> {
        let body = match reply {
            PermissionReply::Once => json!({"reply": "once"}),
            PermissionReply::Reject => json!({"reply": "reject"}),
            PermissionReply::Deny => json!({"reply": "reject", "message": DENIED}),
        };
        self.send_command(&format!("/permission/{id}/reply"), Some(&body))
            .await
    }

    /// Answers a question with the labels chosen for each of its parts.
    pub async fn reply_question(&self, id: &str, answers: &[Vec<String>]) -> Result<(), ApiError> {
        let body = json!({"answers": answers});
        self.send_command(&format!("/question/{id}/reply"), Some(&body))
            .await
    }

    /// Leaves a question unanswered: its tool call fails, and the model receives the failure.
    pub async fn reject_question(&self, id: &str) -> Result<(), ApiError> {
        self.send_command(&format!("/question/{id}/reject"), None).await
    }

    /// Ends what the server keeps for the directory: language servers, MCP servers and what it has read from files. The
    /// next call for the directory makes it anew.
    pub async fn dispose(&self) -> Result<(), ApiError> {
        self.send_command("/instance/dispose", None).await
    }

    /// The stream of server-sent events of the directory's instance.
    pub async fn events(&self) -> Result<EventStream, ApiError> {
        self.send(Method::GET, "/event", None).await.map(EventStream::new)
    }
}

fn header_of(directory: &Path) -> String {
    utf8_percent_encode(&directory.to_string_lossy(), HEADER).to_string()
}

/// An answer to a permission request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionReply {
    /// Allow this one request.
    Once,
    /// Refuse the request, which ends opencode's work.
    Reject,
    /// Refuse the request with a message to the model, which continues (measured on 1.3.2 and 1.18.33).
    Deny,
}

/// The message to the model when the policy denies what nobody has allowed.
const DENIED: &str = "The policy of this session denies it, and nobody allowed it. Continue without it.";

#[derive(Serialize)]
struct PromptBody<'a> {
    parts: [TextPart<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<ModelName<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
}

#[derive(Serialize)]
struct TextPart<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    text: &'a str,
}

#[derive(Serialize)]
struct ModelName<'a> {
    #[serde(rename = "providerID")]
    provider: &'a str,
    #[serde(rename = "modelID")]
    model: &'a str,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Health {
    #[serde(deserialize_with = "tolerant")]
    healthy: bool,
    #[serde(deserialize_with = "tolerant")]
    version: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NewSession {
    #[serde(deserialize_with = "tolerant")]
    id: Option<String>,
}

tolerant_objects!(Health, NewSession);

/// An answer of any form.
#[derive(Default)]
struct Ignored;

impl Tolerant for Ignored {}

/// The longest time for a request. A turn has no limit here, because its supervisor enforces the timeout.
fn limit(path: &str) -> Duration {
    if path.ends_with("/message") {
        Duration::MAX
    } else {
        CALL_TIMEOUT
    }
}

/// Reads a body up to this many bytes. Returns whether that is all of it.
async fn read_body(mut response: Response, most: usize) -> reqwest::Result<(Vec<u8>, bool)> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > most {
            body.extend_from_slice(&chunk[..most - body.len()]);
            return Ok((body, false));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((body, true))
}

fn timed_out() -> Problem {
    Problem::Connection(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))
}

/// An error with its causes, which reqwest's own text leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
