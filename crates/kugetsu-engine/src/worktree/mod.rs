//! Git worktrees: one per issue, linked to the clone that the base works in.
//!
//! Nothing here keeps a record. The order that makes a crash harmless is the caller's: the [`Worktree`] is in the
//! issue's record before [`make`] is called, and stays there until [`remove`] has ended; both may be called again
//! at any point between. What is nowhere else is [`save`]d before it is removed, and [`make`] finds it again.

mod files;
mod make;
mod rebase;
mod remove;
mod save;

use std::path::PathBuf;

pub use files::{Extras, parse_extra};
pub use make::{Made, Wish};
pub(crate) use make::{directory_in, exclude, is_there, make, plan};
pub use rebase::Rebased;
pub(crate) use rebase::rebase;
pub(crate) use remove::{drop_branch, remove};
pub use save::{Risk, Saved};
pub(crate) use save::{risk, save};

use crate::fsx::FsError;
use crate::git::GitError;

/// Why there is no worktree, or why it stays.
#[derive(Debug, thiserror::Error)]
pub enum WorktreeError {
    /// git refused, could not be run or took too long.
    #[error(transparent)]
    Git(#[from] GitError),
    /// There can be no worktree so.
    #[error("{problem}")]
    Refused {
        /// Why.
        problem: String,
        /// What to do instead.
        hint: String,
    },
    /// It holds work that is nowhere else.
    #[error("the worktree {} holds work that is nowhere else: {risk}", .path.display())]
    AtRisk {
        /// The worktree.
        path: PathBuf,
        /// What would be lost.
        risk: Risk,
    },
    /// The worktree and its branch are gone, and nothing is left to make them from.
    #[error("{problem}")]
    Lost {
        /// What is missing.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// A file could not be copied, linked or removed.
    #[error(transparent)]
    File(#[from] FsError),
}

impl WorktreeError {
    /// What to do next, where the message does not say it already.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { hint, .. } | Self::Lost { hint, .. } => Some(hint.clone()),
            Self::AtRisk { .. } => Some(
                "commit and push it; or remove it with --force, which keeps a copy in the trash".to_owned(),
            ),
            Self::Git(_) | Self::File(_) => None,
        }
    }
}
