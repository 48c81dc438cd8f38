//! The part of a record that describes a session's git worktree.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The linked git worktree that a session works in. The record names it before git creates it, so anything found later
/// at its path or on its branch belongs to the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Worktree {
    /// The worktree's top folder, as an absolute path.
    pub path: PathBuf,
    /// The branch that the worktree was created on, without `refs/heads/`.
    pub branch: String,
    /// The commit that the branch started from, in full.
    pub base_commit: String,
    /// The branch that the worktree's branch started from and is rebased onto: a local branch without `refs/heads/`, or
    /// the full name of a remote branch. None if it started from a commit. Older records lack this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_branch: Option<String>,
    /// The last rebase that conflicts prevented. Cleared when a turn ends or a rebase succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_rebase: Option<BlockedRebase>,
    /// The top folder of the clone that the worktree is linked to, as an absolute path.
    pub repo_dir: PathBuf,
    /// When the worktree was requested.
    pub created: Timestamp,
    /// True until the worktree exists, has its untracked files, and `hook_after_create` has succeeded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
}

/// A rebase that conflicts prevented.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockedRebase {
    /// The target: a branch or a commit.
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
