//! A client for the HTTP API of the kugetsu daemon, over its socket or over the network.

mod lines;

use std::path::Path;

use kugetsu_api::{
    DaemonStatus, GiveBack, LentServer, PageLink, ProblemDetails, SlotEvent, SlotRequest, SpendingAnswer,
    SpendingReport, StopRequest, SubmittedTask, Task, TaskId, TaskList, TaskRequest, TurnEnd,
};
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

pub use lines::Lines;

/// The longest answer that is read at once, in bytes.
const MAX_ANSWER: usize = 64 << 20;
/// The media type of a stream of JSON lines.
const NDJSON: &str = "application/x-ndjson";

/// A connection to a daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// Why a request to the daemon failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens there, or the connection broke.
    #[error("the daemon cannot be reached: {0}")]
    Unreachable(String),
    /// The daemon refused the request.
    #[error("{}", .0.detail)]
    Problem(Box<ProblemDetails>),
    /// The answer is not one of this API.
    #[error("the daemon gave an answer that cannot be read: {0}")]
    Unexpected(String),
}

/// Which tasks to list; all of them by default.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TaskQuery {
    /// Only those in these states, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only those of this repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Only those of this session.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Only those before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<TaskId>,
    /// At most this many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl Client {
    /// A client for the daemon that listens on this socket.
    pub fn over_socket(socket: &Path) -> Result<Self, ClientError> {
        let builder = reqwest::Client::builder().no_proxy().unix_socket(socket);
        Ok(Self {
            http: builder.build().map_err(unreachable)?,
            base: "http://kugetsu".to_owned(),
            token: None,
        })
    }

    /// A client for the daemon at this URL, with a token if it wants one.
    pub fn over_http(url: &str, token: Option<String>) -> Result<Self, ClientError> {
        Ok(Self {
            http: reqwest::Client::builder().build().map_err(unreachable)?,
            base: url.trim_end_matches('/').to_owned(),
            token,
        })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(unreachable)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = read(response).await?;
        match serde_json::from_slice(&body) {
            Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
            Err(_) => Err(ClientError::Unexpected(format!(
                "HTTP {status}: {}",
                String::from_utf8_lossy(&body[..body.len().min(200)])
            ))),
        }
    }

    async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let body = read(self.send(request).await?).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Unexpected(error.to_string()))
    }

    /// What the daemon is doing.
    pub async fn status(&self) -> Result<DaemonStatus, ClientError> {
        self.call(self.request(Method::GET, "/v1/status")).await
    }

    /// Asks the daemon to end.
    pub async fn stop(&self, request: StopRequest) -> Result<(), ClientError> {
        let request = self.request(Method::POST, "/v1/stop").json(&request);
        self.send(request).await.map(drop)
    }

    /// Makes a link that opens the page once.
    pub async fn page_link(&self) -> Result<PageLink, ClientError> {
        self.call(self.request(Method::POST, "/v1/page-links")).await
    }

    /// Asks for a place among the turns that may run at once. It is held as long as the lines are read.
    pub async fn slot(&self, request: &SlotRequest) -> Result<Lines<SlotEvent>, ClientError> {
        let request = self.request(Method::POST, "/v1/slots").json(request);
        self.send(request).await.map(Lines::new)
    }

    /// Asks for a warm server.
    pub async fn lend(&self, slot: Uuid, wish: &impl Serialize) -> Result<LentServer, ClientError> {
        let path = format!("/v1/slots/{slot}/server");
        self.call(self.request(Method::POST, &path).json(wish)).await
    }

    /// Gives a server back. When this returns, nothing that the turn started in it is alive.
    pub async fn give_back(&self, slot: Uuid, how: GiveBack) -> Result<(), ClientError> {
        let path = format!("/v1/slots/{slot}/server");
        let request = self.request(Method::DELETE, &path).query(&[("how", how)]);
        self.send(request).await.map(drop)
    }

    /// Tells how the turn of a place has ended.
    pub async fn end_slot(&self, slot: Uuid, end: &TurnEnd) -> Result<(), ClientError> {
        let path = format!("/v1/slots/{slot}/end");
        self.send(self.request(Method::POST, &path).json(end))
            .await
            .map(drop)
    }

    /// Tells what a turn of this machine has cost so far.
    pub async fn spent(&self, report: &SpendingReport) -> Result<SpendingAnswer, ClientError> {
        let request = self.request(Method::POST, "/v1/spending").json(report);
        self.call(request).await
    }

    /// Submits a task, which belongs to a span in the format of W3C Trace Context. It is durable when this returns.
    pub async fn submit(
        &self,
        task: &TaskRequest,
        idempotency_key: Option<&str>,
        traceparent: Option<&str>,
    ) -> Result<SubmittedTask, ClientError> {
        let mut request = self.request(Method::POST, "/v1/tasks").json(task);
        for (name, value) in [("idempotency-key", idempotency_key), ("traceparent", traceparent)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        self.call(request).await
    }

    /// Tasks, newest first.
    pub async fn tasks(&self, query: &TaskQuery) -> Result<TaskList, ClientError> {
        self.call(self.request(Method::GET, "/v1/tasks").query(query))
            .await
    }

    /// A task, by its id or by the beginning or end of it.
    pub async fn task(&self, task: &str) -> Result<Task, ClientError> {
        let path = format!("/v1/tasks/{}", escaped(task));
        self.call(self.request(Method::GET, &path)).await
    }

    /// Puts a parked task back into the queue. One that waits or runs stays as it is.
    pub async fn retry(&self, task: &str) -> Result<Task, ClientError> {
        let path = format!("/v1/tasks/{}/retry", escaped(task));
        self.call(self.request(Method::POST, &path)).await
    }

    /// Cancels a task, also one that is parked; one whose turn runs is stopped.
    pub async fn cancel(&self, task: &str) -> Result<Task, ClientError> {
        let path = format!("/v1/tasks/{}/cancel", escaped(task));
        self.call(self.request(Method::POST, &path)).await
    }

    /// The events of a task's turn as lines of its stream. With `follow`, waits for the turn and for its end.
    pub async fn events(&self, task: &str, follow: bool) -> Result<Lines<Value>, ClientError> {
        let path = format!("/v1/tasks/{}/events?follow={follow}", escaped(task));
        let request = self.request(Method::GET, &path).header("accept", NDJSON);
        self.send(request).await.map(Lines::new)
    }
}

/// A part of a path that may hold any text.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

async fn read(mut response: Response) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(ClientError::Unexpected(format!(
                "it is longer than {MAX_ANSWER} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An error of a connection with its causes, which reqwest's own text leaves out.
fn unreachable(error: reqwest::Error) -> ClientError {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    ClientError::Unreachable(text)
}
