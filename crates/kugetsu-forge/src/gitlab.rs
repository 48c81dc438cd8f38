//! GitLab.

use jiff::Timestamp;
use kugetsu_api::{Issue, IssueComment, IssueRef};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::http::{Api, Client};
use crate::{Forge, ForgeError, MAX_COMMENTS, PAGE, line, lines, text};

/// The most pages of notes that are read. Notes that GitLab itself writes, for example when a label changes, are among
/// them.
const MAX_PAGES: usize = 6;

#[derive(Debug)]
pub(crate) struct Gitlab(Api);

impl Gitlab {
    pub(crate) fn new(client: Client) -> Self {
        Self(Api {
            client,
            name: "GitLab API",
            scheme: "Bearer",
            headers: &[("accept", "application/json")],
        })
    }
}

#[derive(Deserialize)]
struct RawIssue {
    web_url: String,
    title: String,
    state: String,
    author: Option<User>,
    #[serde(default)]
    labels: Vec<String>,
    created_at: Timestamp,
    description: Option<String>,
    #[serde(default)]
    user_notes_count: u64,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
struct Note {
    author: Option<User>,
    created_at: Timestamp,
    body: Option<String>,
    #[serde(default)]
    system: bool,
}

impl Forge for Gitlab {
    fn issue(&self, issue: &IssueRef, comments: bool) -> Result<Issue, ForgeError> {
        let project = issue.segments().collect::<Vec<_>>().join("/");
        let project = utf8_percent_encode(&project, NON_ALPHANUMERIC);
        let path = format!("/projects/{project}/issues/{}", issue.number());
        let raw: RawIssue = self.0.get(issue, &path)?;
        let mut found = Vec::new();
        if comments && raw.user_notes_count > 0 {
            for page in 1..=MAX_PAGES {
                let path = format!("{path}/notes?sort=desc&order_by=created_at&per_page={PAGE}&page={page}");
                let notes: Vec<Note> = self.0.get(issue, &path)?;
                let is_last = notes.len() < PAGE;
                found.extend(notes.into_iter().filter(|note| !note.system));
                if is_last || found.len() >= MAX_COMMENTS {
                    break;
                }
            }
            found.truncate(MAX_COMMENTS);
            found.reverse();
        }
        let comments: Vec<_> = found
            .into_iter()
            .map(|note| IssueComment {
                author: note.author.map(|user| line(&user.username)),
                created: note.created_at,
                body: text(note.body),
            })
            .collect();
        Ok(Issue {
            issue: issue.clone(),
            url: line(&raw.web_url),
            title: line(&raw.title),
            state: match raw.state.as_str() {
                "opened" => "open".to_owned(),
                other => line(other),
            },
            author: raw.author.map(|user| line(&user.username)),
            labels: lines(raw.labels),
            created: raw.created_at,
            is_pull_request: false,
            body: text(raw.description),
            comments_left_out: raw.user_notes_count.saturating_sub(comments.len() as u64),
            comments,
        })
    }
}
