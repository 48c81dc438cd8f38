//! GitHub and GitHub Enterprise.

use jiff::Timestamp;
use kugetsu_api::{Issue, IssueComment, IssueRef};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::http::{Api, Client};
use crate::{Forge, ForgeError, MAX_COMMENTS, PAGE, line, lines, text};

#[derive(Debug)]
pub(crate) struct Github(Api);

impl Github {
    pub(crate) fn new(client: Client) -> Self {
        Self(Api {
            client,
            name: "GitHub API",
            scheme: "Bearer",
            headers: &[
                ("accept", "application/vnd.github+json"),
                ("x-github-api-version", "2022-11-28"),
            ],
        })
    }
}

/// The path of an issue below the API, which Forgejo has as well.
pub(crate) fn path_of(issue: &IssueRef) -> String {
    let segments: Vec<_> = issue.segments().collect();
    format!("/repos/{}/issues/{}", segments.join("/"), issue.number())
}

#[derive(Deserialize)]
pub(crate) struct RawIssue {
    html_url: String,
    title: String,
    state: String,
    user: Option<User>,
    #[serde(default)]
    labels: Vec<Label>,
    created_at: Timestamp,
    body: Option<String>,
    /// How many there are.
    #[serde(default)]
    pub(crate) comments: u64,
    pull_request: Option<IgnoredAny>,
}

#[derive(Deserialize)]
pub(crate) struct User {
    login: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Label {
    Name(String),
    Object { name: Option<String> },
}

#[derive(Deserialize)]
pub(crate) struct RawComment {
    user: Option<User>,
    created_at: Timestamp,
    body: Option<String>,
}

impl RawIssue {
    /// The issue with its newest comments.
    pub(crate) fn into_issue(self, issue: &IssueRef, comments: Vec<RawComment>) -> Issue {
        let mut comments: Vec<_> = comments.into_iter().map(RawComment::into_comment).collect();
        comments.drain(..comments.len().saturating_sub(MAX_COMMENTS));
        let names = self.labels.into_iter().filter_map(|label| match label {
            Label::Name(name) => Some(name),
            Label::Object { name } => name,
        });
        Issue {
            issue: issue.clone(),
            url: line(&self.html_url),
            title: line(&self.title),
            state: line(&self.state),
            author: self.user.map(|user| line(&user.login)),
            labels: lines(names),
            created: self.created_at,
            is_pull_request: self.pull_request.is_some(),
            body: text(self.body),
            comments_left_out: self.comments.saturating_sub(comments.len() as u64),
            comments,
        }
    }
}

impl RawComment {
    fn into_comment(self) -> IssueComment {
        IssueComment {
            author: self.user.map(|user| line(&user.login)),
            created: self.created_at,
            body: text(self.body),
        }
    }
}

impl Forge for Github {
    fn issue(&self, issue: &IssueRef, comments: bool) -> Result<Issue, ForgeError> {
        let path = path_of(issue);
        let raw: RawIssue = self.0.get(issue, &path)?;
        let mut found: Vec<RawComment> = Vec::new();
        if comments && raw.comments > 0 {
            // Oldest first, and in no other order: the last pages have the newest comments. One page more than needed,
            // because the last one is rarely full.
            let last = raw.comments.div_ceil(PAGE as u64);
            let first = last.saturating_sub((MAX_COMMENTS / PAGE) as u64).max(1);
            for page in first..=last {
                let path = format!("{path}/comments?per_page={PAGE}&page={page}");
                found.extend(self.0.get::<Vec<_>>(issue, &path)?);
            }
        }
        Ok(raw.into_issue(issue, found))
    }
}
