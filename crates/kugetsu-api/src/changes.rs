//! What a turn did: the changes in its git clone, and the tool calls that were refused.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The difference between a git clone before and after a turn. It includes uncommitted changes and new files, but not
/// what was uncommitted before the turn and stayed as it was. Files that git ignores are left out. Commits that were
/// pulled, or that the session was rebased onto, are not among its commits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changes {
    /// The commit that was checked out before the turn. Absent if the clone had no commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The commit that was checked out after the turn. Absent if the clone had no commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The new commits, newest first; at most [`Changes::COMMITS`] of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commits: Vec<Commit>,
    /// The number of new commits.
    pub commit_count: u64,
    /// The changed files in the order of their paths; at most [`Changes::FILES`] of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ChangedFile>,
    /// The number of changed files.
    pub file_count: u64,
    /// The number of added lines in all changed files.
    pub lines_added: u64,
    /// The number of removed lines in all changed files.
    pub lines_removed: u64,
}

impl Changes {
    /// The largest number of commits that a record names.
    pub const COMMITS: usize = 20;
    /// The largest number of files that a record names.
    pub const FILES: usize = 100;

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.commit_count == 0 && self.file_count == 0 && self.before == self.after
    }
}

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Commit {
    /// Its whole id.
    pub id: String,
    /// The first line of its message.
    pub subject: String,
}

/// A changed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangedFile {
    /// Its path below the top folder of the clone. Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// The number of added lines. Absent for a binary file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<u64>,
    /// The number of removed lines. Absent for a binary file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<u64>,
}

/// The tool calls of a turn that were refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// How many there were.
    pub count: u64,
    /// The first [`Refused::KEPT`] of them.
    pub calls: Vec<RefusedCall>,
}

impl Refused {
    /// The largest number of refused calls that a record names.
    pub const KEPT: usize = 20;

    /// Whether no call was refused.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// A tool call that was not executed because a permission was missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RefusedCall {
    /// The tool.
    pub tool: String,
    /// The tool with its command, its file or its title, for people.
    pub call: String,
}
