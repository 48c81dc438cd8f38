//! A scripted forge over loopback: issues in the shapes of GitHub, GitLab and Forgejo, and faults.
//!
//! A reply depends only on the path of the request. Every request is recorded before it is answered. Dropping the
//! server ends every connection, including those that hang.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// A request to the forge.
#[derive(Clone, Debug)]
pub struct ForgeRequest {
    /// The path with its query.
    pub path: String,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
}

impl ForgeRequest {
    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(other, _)| other == name)?;
        Some(&header.1)
    }
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub enum ForgeReply {
    /// A status, further headers, and a body.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// Nothing until the client leaves or the server is dropped.
    Hang,
}

impl ForgeReply {
    /// An object with status 200.
    pub fn json(body: &Value) -> Self {
        Self::Answer(200, Vec::new(), body.to_string().into_bytes())
    }

    /// An error with a message.
    pub fn status(code: u16, message: &str) -> Self {
        Self::Answer(
            code,
            Vec::new(),
            json!({"message": message}).to_string().into_bytes(),
        )
    }

    /// The same with another header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer(_, headers, _) = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

/// An issue as a person sees it.
#[derive(Clone, Debug)]
pub struct ScriptedIssue {
    /// The title.
    pub title: String,
    /// The text.
    pub body: String,
    /// The texts of the comments, oldest first.
    pub comments: Vec<String>,
}

impl ScriptedIssue {
    /// An issue with these texts.
    pub fn new(title: &str, body: &str, comments: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            body: body.to_owned(),
            comments: comments.iter().map(|&text| text.to_owned()).collect(),
        }
    }
}

struct Shared {
    replies: Mutex<Vec<(String, ForgeReply)>>,
    requests: Mutex<Vec<ForgeRequest>>,
    connections: Mutex<Vec<TcpStream>>,
    stop: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A poisoned lock means that a test has already failed; the rest still has to be torn down.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The forge. It stops when dropped.
pub struct ForgeServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl ForgeServer {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            replies: Mutex::default(),
            requests: Mutex::default(),
            connections: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// The host with its port.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The address of the API.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers requests for this path with this reply. A path without a query stands for every query; the last rule
    /// that fits counts. Other requests get 404.
    pub fn on(&self, path: &str, reply: ForgeReply) {
        locked(&self.shared.replies).push((path.to_owned(), reply));
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<ForgeRequest> {
        locked(&self.shared.requests).clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        locked(&self.shared.requests).clear();
    }

    /// Serves an issue of `owner/repo` as GitHub does, in pages of 100 comments.
    pub fn github(&self, repo: &str, number: u64, issue: &ScriptedIssue) {
        let path = format!("/repos/{repo}/issues/{number}");
        let comments: Vec<_> = issue.comments.iter().map(|text| github_comment(text)).collect();
        self.on(&path, ForgeReply::json(&github_issue(repo, number, issue)));
        self.on(&format!("{path}/comments"), ForgeReply::json(&json!([])));
        for (page, comments) in comments.chunks(100).enumerate() {
            let path = format!("{path}/comments?per_page=100&page={}", page + 1);
            self.on(&path, ForgeReply::json(&json!(comments)));
        }
    }

    /// Serves an issue of `owner/repo` as Forgejo does: with all comments at once.
    pub fn forgejo(&self, repo: &str, number: u64, issue: &ScriptedIssue) {
        let path = format!("/repos/{repo}/issues/{number}");
        let comments: Vec<_> = issue.comments.iter().map(|text| github_comment(text)).collect();
        self.on(
            "/version",
            ForgeReply::json(&json!({"version": "13.0.3+gitea-1.22.0"})),
        );
        self.on(&path, ForgeReply::json(&github_issue(repo, number, issue)));
        self.on(&format!("{path}/comments"), ForgeReply::json(&json!(comments)));
    }

    /// Serves an issue of `group/repo` as GitLab does: newest notes first, with notes of its own among them.
    pub fn gitlab(&self, repo: &str, number: u64, issue: &ScriptedIssue) {
        let path = format!(
            "/projects/{}/issues/{number}",
            repo.replace('/', "%2F").replace('-', "%2D")
        );
        let note = |body: &str, system: bool| {
            json!({
                "id": 1, "body": body, "system": system, "created_at": "2026-11-22T10:00:00.000+01:00",
                "author": {"id": 2, "username": "bob", "name": "Bob"},
            })
        };
        let mut notes = vec![note("added ~bug label", true)];
        notes.extend(issue.comments.iter().rev().map(|text| note(text, false)));
        self.on("/version", ForgeReply::status(401, "401 Unauthorized"));
        let raw = json!({
            "id": 7, "iid": number, "title": issue.title, "description": issue.body, "state": "opened",
            "created_at": "2026-11-21T01:56:14.000Z", "labels": ["bug"], "user_notes_count": issue.comments.len(),
            "author": {"id": 1, "username": "ada", "name": "Ada"},
            "web_url": format!("https://gitlab.example/{repo}/-/issues/{number}"),
        });
        self.on(&path, ForgeReply::json(&raw));
        self.on(&format!("{path}/notes"), ForgeReply::json(&json!([])));
        for (page, notes) in notes.chunks(100).enumerate() {
            let path = format!(
                "{path}/notes?sort=desc&order_by=created_at&per_page=100&page={}",
                page + 1
            );
            self.on(&path, ForgeReply::json(&json!(notes)));
        }
    }
}

fn github_issue(repo: &str, number: u64, issue: &ScriptedIssue) -> Value {
    json!({
        "id": 1, "number": number, "title": issue.title, "body": issue.body, "state": "open",
        "created_at": "2026-11-21T01:56:14Z", "comments": issue.comments.len(),
        "user": {"id": 1, "login": "ada"}, "labels": [{"id": 1, "name": "bug"}], "pull_request": null,
        "html_url": format!("https://forge.example/{repo}/issues/{number}"),
    })
}

fn github_comment(body: &str) -> Value {
    json!({"id": 1, "body": body, "created_at": "2026-11-22T10:00:00Z", "user": {"id": 2, "login": "bob"}})
}

impl Drop for ForgeServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // This connection wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut workers = Vec::new();
    for connection in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = connection else { continue };
        if let Ok(handle) = stream.try_clone() {
            locked(&shared.connections).push(handle);
        }
        let shared = Arc::clone(shared);
        workers.push(std::thread::spawn(move || {
            // A client that disconnects ends only its own connection.
            let _ = serve(&stream, &shared);
            let _ = stream.shutdown(Shutdown::Both);
        }));
    }
    for connection in locked(&shared.connections).drain(..) {
        let _ = connection.shutdown(Shutdown::Both);
    }
    for worker in workers {
        let _ = worker.join();
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let reply = {
            let replies = locked(&shared.replies);
            let without_query = path.split('?').next().unwrap_or_default();
            let fits = |rule: &&(String, ForgeReply)| rule.0 == path || rule.0 == without_query;
            replies.iter().rev().find(fits).map(|(_, reply)| reply.clone())
        };
        locked(&shared.requests).push(ForgeRequest { path, headers });
        match reply.unwrap_or_else(|| ForgeReply::status(404, "Not Found")) {
            ForgeReply::Answer(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status} scripted\r\ncontent-type: application/json\r\n");
                for (name, value) in headers {
                    let _ = write!(head, "{name}: {value}\r\n");
                }
                let _ = write!(head, "content-length: {}\r\n\r\n", body.len());
                let mut stream = stream;
                stream.write_all(head.as_bytes())?;
                stream.write_all(&body)?;
            }
            ForgeReply::Hang => {
                let mut rest = String::new();
                // Returns when the client or the server closes the connection.
                reader.read_line(&mut rest)?;
                return Ok(());
            }
        }
    }
}
