//! The issue of a forge: title, text and comments. Other people wrote these texts, so they may contain anything.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::IssueRef;

/// An issue or a pull request, and the output of `issue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Issue {
    /// The issue's address.
    #[serde(rename = "ref")]
    pub issue: IssueRef,
    /// Its address in a browser, as the forge gives it.
    pub url: String,
    /// The title.
    pub title: String,
    /// `open`, or what the forge calls the state, such as `closed`.
    pub state: String,
    /// The user name of the author; null if the account no longer exists.
    pub author: Option<String>,
    /// The names of the labels.
    pub labels: Vec<String>,
    /// When the issue was created.
    pub created: Timestamp,
    /// Whether it is a pull request.
    pub is_pull_request: bool,
    /// The text, in Markdown; empty if there is none.
    pub body: String,
    /// The comments, oldest first.
    pub comments: Vec<IssueComment>,
    /// How many comments are not in `comments`: those before them, or all if none were asked for.
    pub comments_left_out: u64,
}

/// A comment on an issue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IssueComment {
    /// The user name of the author; null if the account no longer exists.
    pub author: Option<String>,
    /// When the comment was written.
    pub created: Timestamp,
    /// The text, in Markdown.
    pub body: String,
}
