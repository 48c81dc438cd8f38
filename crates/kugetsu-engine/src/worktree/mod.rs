//! Git worktrees: one per issue, linked to the clone that the base works in.
//!
//! Nothing here keeps a record. The order that makes a crash harmless is the caller's: the [`Worktree`] is in the
//! issue's record before [`make`] is called, and stays there until [`remove`] has ended; both may be called again
//! at any point between. What is nowhere else is [`save`]d before it is removed, and [`make`] finds it again.

mod files;
mod git;
mod make;
mod rebase;
mod remove;
mod save;

use std::path::PathBuf;

pub use files::Extras;
pub use make::{Made, Wish, directory_in, exclude, is_there, make, plan};
pub use rebase::{Rebased, rebase};
pub use remove::{drop_branch, remove};
pub use save::{Risk, Saved, risk, save};

use crate::fsx::FsError;

/// Why there is no worktree, or why it stays.
#[derive(Debug, thiserror::Error)]
pub enum WorktreeError {
    /// git refused, could not be run or took too long.
    #[error("git {command} failed in {}: {problem}", .folder.display())]
    Git {
        /// The subcommand.
        command: String,
        /// Where.
        folder: PathBuf,
        /// What it said.
        problem: String,
    },
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
            Self::Git { .. } | Self::File(_) => None,
        }
    }
}
