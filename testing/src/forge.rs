//! A scripted forge over loopback: issues in the shapes of GitHub, GitLab and Forgejo, and faults.
//!
//! A reply depends only on the path of the request. Every request is recorded before it is answered. Dropping the
//! server ends every connection, including those that hang.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{self, HttpServer, locked};

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

#[derive(Default)]
struct Shared {
    replies: Mutex<Vec<(String, ForgeReply)>>,
    requests: Mutex<Vec<ForgeRequest>>,
    delay: Mutex<Duration>,
}

/// The forge. It stops when dropped.
pub struct ForgeServer {
    server: HttpServer,
    shared: Arc<Shared>,
}

impl ForgeServer {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let server = HttpServer::start({
            let shared = Arc::clone(&shared);
            move |stream| serve(stream, &shared)
        });
        Self { server, shared }
    }

    /// The host with its port.
    pub fn host(&self) -> String {
        self.server.address().to_string()
    }

    /// The address of the API.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Answers requests for this path with this reply. A path without a query stands for every query; the last rule
    /// that fits counts. Other requests get 404.
    pub fn on(&self, path: &str, reply: ForgeReply) {
        locked(&self.shared.replies).push((path.to_owned(), reply));
    }

    /// Waits this long before each answer.
    pub fn delay(&self, delay: Duration) {
        *locked(&self.shared.delay) = delay;
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

fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(http::HttpRequest { path, headers, .. }) = http::read_request(&mut reader)? {
        let reply = {
            let replies = locked(&shared.replies);
            let without_query = path.split('?').next().unwrap_or_default();
            let fits = |rule: &&(String, ForgeReply)| rule.0 == path || rule.0 == without_query;
            replies.iter().rev().find(fits).map(|(_, reply)| reply.clone())
        };
        locked(&shared.requests).push(ForgeRequest { path, headers });
        let delay = *locked(&shared.delay);
        std::thread::sleep(delay);
        match reply.unwrap_or_else(|| ForgeReply::status(404, "Not Found")) {
            ForgeReply::Answer(status, headers, body) => http::answer(stream, status, &headers, &body)?,
            ForgeReply::Hang => {
                let mut rest = String::new();
                // Returns when the client or the server closes the connection.
                reader.read_line(&mut rest)?;
                return Ok(());
            }
        }
    }
    Ok(())
}
