//! What a record remembers of its issue's git worktree.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The linked git worktree that an issue's session works in. It is in the record before git is asked for it, so
/// whatever stands at its path and on its branch afterwards is the issue's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Worktree {
    /// Its top folder. Absolute.
    pub path: PathBuf,
    /// The branch that it was made on, without `refs/heads/`.
    pub branch: String,
    /// The commit that the branch began at, in full.
    pub base_commit: String,
    /// The branch that it began at, and is rebased onto: without `refs/heads/`, or one of a remote in full. None where it
    /// began at a commit; older records do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_branch: Option<String>,
    /// The rebase that conflicts kept from happening, until a turn has ended or a rebase has gone well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_rebase: Option<BlockedRebase>,
    /// The top folder of the clone that it is linked to. Absolute.
    pub repo_dir: PathBuf,
    /// When it was asked for.
    pub created: Timestamp,
    /// True until it stands, has its untracked files, and the hook `after_create` has ended well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
}

/// A rebase that did not happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockedRebase {
    /// The branch, or the commit.
    pub onto: String,
    /// The files in conflict.
    pub conflicts: Vec<String>,
}

impl std::fmt::Display for BlockedRebase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "onto {} is blocked: conflicts in {}",
            self.onto,
            self.conflicts.join(", ")
        )
    }
}
