//! A scripted model that speaks the OpenAI chat-completions protocol over loopback.
//!
//! A reply depends only on the last user message of the request, so concurrent sessions do not take each other's
//! replies. Every request is recorded before it is answered. Nothing outlives the server: dropping it ends every
//! connection, including those that hang or wait at a gate.

mod answer;
mod client;
mod gate;
mod request;

pub use gate::Gate;
pub use request::Request;

use std::fmt::Write as _;
use std::io::BufReader;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{self, HttpServer, locked};
use client::Client;

/// The token counts that every complete answer reports, and the prices in the world's `opencode.json`.
pub mod usage {
    /// Tokens of the prompt, including cached ones.
    pub const INPUT: u64 = 100;
    /// Tokens of the prompt that came from the cache.
    pub const CACHED: u64 = 40;
    /// Tokens of the answer.
    pub const OUTPUT: u64 = 20;
    /// USD per million uncached input tokens.
    pub const INPUT_PRICE: f64 = 1.0;
    /// USD per million output tokens.
    pub const OUTPUT_PRICE: f64 = 2.0;
    /// USD per million cached input tokens.
    pub const CACHE_READ_PRICE: f64 = 0.1;
    /// The cost of one answered request in USD.
    pub const COST: f64 = ((INPUT - CACHED) as f64 * INPUT_PRICE
        + CACHED as f64 * CACHE_READ_PRICE
        + OUTPUT as f64 * OUTPUT_PRICE)
        / 1e6;
}

/// A tool call that the model makes.
#[derive(Clone, Debug)]
pub struct ToolCall {
    /// The tool's name, e.g. `bash`.
    pub name: String,
    /// Its arguments, sent as JSON text.
    pub arguments: Value,
}

/// How the model answers one turn request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// One piece of text and a proper end.
    Text(String),
    /// Text in pieces, with a pause before each piece except the first, and a proper end.
    Chunks {
        /// The pieces, sent as they are.
        parts: Vec<String>,
        /// The pause between two pieces.
        delay: Duration,
    },
    /// A call of one tool.
    Tool {
        /// The tool's name.
        name: String,
        /// Its arguments.
        arguments: Value,
    },
    /// Several tool calls in one answer.
    Tools(Vec<ToolCall>),
    /// An HTTP answer that is not a stream, e.g. 429 with `retry-after`.
    Status {
        /// The status code.
        code: u16,
        /// The body, sent as `application/json`.
        body: String,
        /// Further headers.
        headers: Vec<(String, String)>,
    },
    /// Text, then a clean end of the stream without `finish_reason` and without usage.
    CutShort {
        /// The text before the end.
        text: String,
    },
    /// A piece of text, then the socket is closed in the middle of the stream.
    Drop,
    /// Headers, then nothing until the client leaves or the server is dropped.
    Hang,
    /// Nothing at all for a while, then the reply.
    SlowStart(Duration, Box<Reply>),
    /// Nothing at all until the test opens the gate, then the reply.
    Gate(Gate, Box<Reply>),
}

impl Reply {
    /// [`Reply::Text`].
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// [`Reply::Chunks`].
    pub fn chunks<T: Into<String>>(parts: impl IntoIterator<Item = T>, delay: Duration) -> Self {
        Self::Chunks {
            parts: parts.into_iter().map(Into::into).collect(),
            delay,
        }
    }

    /// [`Reply::Tool`].
    pub fn tool(name: impl Into<String>, arguments: Value) -> Self {
        Self::Tool {
            name: name.into(),
            arguments,
        }
    }

    /// A call of opencode's `bash` tool.
    pub fn bash(command: impl Into<String>) -> Self {
        Self::tool(
            "bash",
            serde_json::json!({ "command": command.into(), "description": "a scripted command" }),
        )
    }

    /// [`Reply::Status`] with an OpenAI error body and no further headers.
    pub fn status(code: u16, message: &str) -> Self {
        let body = serde_json::json!({ "error": { "message": message, "type": "scripted", "code": code } });
        Self::Status {
            code,
            body: body.to_string(),
            headers: Vec::new(),
        }
    }

    /// This reply behind a gate.
    #[must_use]
    pub fn behind(self, gate: &Gate) -> Self {
        Self::Gate(gate.clone(), Box::new(self))
    }
}

struct Script {
    needle: String,
    replies: Vec<Reply>,
    next: usize,
}

struct State {
    requests: Vec<Request>,
    scripts: Vec<Script>,
    otherwise: Reply,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ids: AtomicU64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::SeqCst)
    }

    /// Records a request and picks its reply under one lock, so that replies are used in order of arrival.
    fn accept(&self, body: Value) -> (Request, Reply) {
        let request = Request::new(body);
        let mut state = self.state();
        let reply = if request.is_title_request() {
            Reply::text("a title")
        } else {
            let text = request.last_user_text();
            match state
                .scripts
                .iter_mut()
                .rev()
                .find(|script| text.contains(&script.needle))
            {
                Some(script) => {
                    let reply = script.replies[script.next].clone();
                    script.next = (script.next + 1).min(script.replies.len() - 1);
                    reply
                }
                None => state.otherwise.clone(),
            }
        };
        state.requests.push(request.clone());
        drop(state);
        self.changed.notify_all();
        (request, reply)
    }
}

/// The model server. It stops when dropped.
pub struct ModelServer {
    server: HttpServer,
    shared: Arc<Shared>,
}

impl ModelServer {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                requests: Vec::new(),
                scripts: Vec::new(),
                otherwise: Reply::text("done"),
            }),
            changed: Condvar::new(),
            ids: AtomicU64::new(1),
        });
        let server = HttpServer::start({
            let shared = Arc::clone(&shared);
            move |stream| serve_connection(stream, &shared)
        });
        Self { server, shared }
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The `baseURL` for a provider's options.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address())
    }

    /// Answers turn requests whose last user message contains `needle` with these replies in order; the last one
    /// repeats. The request after a tool result has the same last user message, so `[tool, text]` means a tool call
    /// followed by the answer. If several needles match, the one added last wins.
    pub fn on(&self, needle: impl Into<String>, replies: impl Into<Vec<Reply>>) {
        let (needle, replies) = (needle.into(), replies.into());
        assert!(!replies.is_empty(), "a script for {needle:?} without a reply");
        self.shared.state().scripts.push(Script {
            needle,
            replies,
            next: 0,
        });
    }

    /// The reply if no needle matches; initially `Reply::text("done")`.
    pub fn otherwise(&self, reply: Reply) {
        self.shared.state().otherwise = reply;
    }

    /// Every request so far, including title requests, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// Every request so far except title requests.
    pub fn turn_requests(&self) -> Vec<Request> {
        self.requests()
            .into_iter()
            .filter(|request| !request.is_title_request())
            .collect()
    }

    /// The turn requests whose last user message contains `needle`.
    pub fn turn_requests_with(&self, needle: &str) -> Vec<Request> {
        self.turn_requests()
            .into_iter()
            .filter(|request| request.last_user_text().contains(needle))
            .collect()
    }

    /// Waits for `count` turn requests and returns all turn requests; panics if `deadline` passes first.
    #[track_caller]
    pub fn wait_for(&self, count: usize, deadline: Duration) -> Vec<Request> {
        self.wait_for_with("", count, deadline)
    }

    /// [`ModelServer::wait_for`] for turn requests whose last user message contains `needle`.
    #[track_caller]
    pub fn wait_for_with(&self, needle: &str, count: usize, deadline: Duration) -> Vec<Request> {
        let end = Instant::now() + deadline;
        let fits =
            |request: &&Request| !request.is_title_request() && request.last_user_text().contains(needle);
        let mut state = self.shared.state();
        loop {
            let found: Vec<Request> = state.requests.iter().filter(fits).cloned().collect();
            if found.len() >= count {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let mut seen = String::new();
                for request in &state.requests {
                    let kind = if request.is_title_request() {
                        "title"
                    } else {
                        "turn"
                    };
                    let _ = writeln!(seen, "  {kind}: {:?}", shorten(&request.last_user_text()));
                }
                drop(state);
                panic!(
                    "{} of {count} turn requests with {needle:?} came within {deadline:?}; all requests:\n{seen}",
                    found.len()
                );
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

fn serve_connection(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut client = Client::new(stream.try_clone()?, shared);
    while let Some(request) = http::read_request(&mut reader)? {
        if request.method != "POST" || !request.path.ends_with("/chat/completions") {
            client.whole(404, &[], br#"{"error":{"message":"no such path"}}"#)?;
            continue;
        }
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            client.whole(400, &[], br#"{"error":{"message":"the body is not valid JSON"}}"#)?;
            continue;
        };
        let streamed = body["stream"] == Value::Bool(true);
        let (request, reply) = shared.accept(body);
        answer::play(&mut client, &request, &reply, streamed)?;
    }
    Ok(())
}
