//! A client for the part of opencode's HTTP API that kugetsu uses. The paths are the same on 1.3.2 and
//! 1.18.33 (`GET /doc` describes them).

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::permission::Rule;
use kugetsu_api::SessionId;

/// How long any call may take but the one that runs a turn. The first call for a directory starts opencode's
/// instance there, which takes seconds on a busy machine.
const CALL: Duration = Duration::from_secs(60);

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
    /// The body is not what the API promises.
    #[error("unexpected answer: {0}")]
    Shape(String),
}

impl Api {
    /// For the server at `url` (`http://127.0.0.1:PORT`); `directory` selects opencode's instance.
    pub fn new(url: String, password: String, directory: &Path) -> Self {
        // Loopback only: a proxy from the environment must not see these calls.
        let client = Client::builder()
            .no_proxy()
            .build()
            .unwrap_or_else(|_| Client::new());
        Self {
            client,
            url,
            password,
            directory: percent_encode(&directory.to_string_lossy()),
        }
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
            Err(_) => return Err(failed(late())),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = tokio::time::timeout(CALL, response.text()).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let body: String = body.chars().take(400).collect();
        Err(failed(Problem::Status {
            status: status.as_u16(),
            body,
        }))
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let failed = |problem| ApiError {
            request: format!("{method} {path}"),
            problem,
        };
        let response = self.send(method.clone(), path, body).await?;
        let bytes = match tokio::time::timeout(limit(path), response.bytes()).await {
            Ok(read) => read.map_err(|error| failed(Problem::Connection(chain(&error))))?,
            Err(_) => return Err(failed(late())),
        };
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| failed(Problem::Shape(error.to_string())))
    }

    /// The server's version, once it is healthy.
    pub async fn health(&self) -> Result<String, ApiError> {
        let answer = self.call(Method::GET, "/global/health", None).await?;
        match (answer["healthy"].as_bool(), answer["version"].as_str()) {
            (Some(true), Some(version)) => Ok(version.to_owned()),
            _ => Err(ApiError {
                request: "GET /global/health".to_owned(),
                problem: Problem::Shape(answer.to_string()),
            }),
        }
    }

    fn session_id(request: &str, answer: &Value) -> Result<SessionId, ApiError> {
        answer["id"]
            .as_str()
            .and_then(SessionId::new)
            .ok_or_else(|| ApiError {
                request: request.to_owned(),
                problem: Problem::Shape(answer.to_string().chars().take(400).collect()),
            })
    }

    /// Makes an empty session. `permission` is honoured here on both versions.
    pub async fn create_session(&self, title: &str, permission: &[Rule]) -> Result<SessionId, ApiError> {
        let body = json!({"title": title, "permission": permission});
        let answer = self.call(Method::POST, "/session", Some(&body)).await?;
        Self::session_id("POST /session", &answer)
    }

    /// Forks a session with all its messages. The fork has no permission rules: both versions.
    pub async fn fork(&self, base: &SessionId) -> Result<SessionId, ApiError> {
        let path = format!("/session/{base}/fork");
        let answer = self.call(Method::POST, &path, Some(&json!({}))).await?;
        Self::session_id(&path, &answer)
    }

    /// Delivers a prompt and answers when the turn is over: the last assistant message, `info` and `parts`.
    pub async fn message(
        &self,
        session: &SessionId,
        text: &str,
        model: Option<&str>,
        agent: Option<&str>,
    ) -> Result<Value, ApiError> {
        let mut body = json!({"parts": [{"type": "text", "text": text}]});
        if let Some((provider, model)) = model.and_then(|name| name.split_once('/')) {
            body["model"] = json!({"providerID": provider, "modelID": model});
        }
        if let Some(agent) = agent {
            body["agent"] = json!(agent);
        }
        self.call(Method::POST, &format!("/session/{session}/message"), Some(&body))
            .await
    }

    /// Asks the server to end the session's turn.
    pub async fn abort(&self, session: &SessionId) -> Result<(), ApiError> {
        self.call(Method::POST, &format!("/session/{session}/abort"), None)
            .await
            .map(drop)
    }

    /// What is busy or waits for a retry: an object with session ids as keys; idle sessions are absent.
    pub async fn status(&self) -> Result<Value, ApiError> {
        self.call(Method::GET, "/session/status", None).await
    }

    /// Permission requests that wait, of every session of the directory.
    pub async fn permissions(&self) -> Result<Value, ApiError> {
        self.call(Method::GET, "/permission", None).await
    }

    /// Questions that wait, of every session of the directory.
    pub async fn questions(&self) -> Result<Value, ApiError> {
        self.call(Method::GET, "/question", None).await
    }

    /// Answers a permission request: `once`, `always` or `reject`.
    pub async fn reply_permission(&self, id: &str, reply: &str) -> Result<(), ApiError> {
        let body = json!({"reply": reply});
        self.call(Method::POST, &format!("/permission/{id}/reply"), Some(&body))
            .await
            .map(drop)
    }

    /// Answers a question with the labels chosen for each of its parts.
    pub async fn reply_question(&self, id: &str, answers: &[Vec<String>]) -> Result<(), ApiError> {
        let body = json!({"answers": answers});
        self.call(Method::POST, &format!("/question/{id}/reply"), Some(&body))
            .await
            .map(drop)
    }

    /// Leaves a question unanswered: its tool call fails, and the model is told so.
    pub async fn reject_question(&self, id: &str) -> Result<(), ApiError> {
        self.call(Method::POST, &format!("/question/{id}/reject"), None)
            .await
            .map(drop)
    }

    /// The stream of server-sent events of the directory's instance.
    pub async fn events(&self) -> Result<Response, ApiError> {
        self.send(Method::GET, "/event", None).await
    }
}

/// How long the server may take with a request. A turn is as long as it is; whoever supervises it owns its time.
fn limit(path: &str) -> Duration {
    if path.ends_with("/message") {
        Duration::MAX
    } else {
        CALL
    }
}

fn late() -> Problem {
    Problem::Connection(format!("no answer within {} s", CALL.as_secs()))
}

/// An HTTP header carries ASCII only; opencode decodes the percent form (both versions).
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// reqwest's own text leaves out the cause.
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
