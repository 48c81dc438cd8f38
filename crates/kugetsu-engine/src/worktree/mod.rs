//! Git worktrees: one per session, linked to the clone that the base works in.
//!
//! This module keeps no record. The caller makes a crash harmless by its order of steps: it writes the [`Worktree`]
//! into the session's record before it calls [`make`], and keeps it there until [`remove`] has returned. Both may be
//! repeated at any point between. [`save`] keeps work that exists only in the worktree before its removal, and [`make`]
//! restores it.

mod files;
mod make;
mod moved;
mod rebase;
mod remove;
mod save;

use std::path::PathBuf;

pub use files::{Extras, parse_extra};
pub use make::{Made, PlanRequest};
pub(crate) use make::{check_clone, directory_in, exclude, is_there, make, plan, real};
pub(crate) use moved::{in_moved_clone, repair};
pub use rebase::Rebased;
pub(crate) use rebase::rebase;
pub(crate) use remove::{drop_branch, remove};
pub use save::{Risk, Saved};
pub(crate) use save::{risk, save};

use crate::fsx::FsError;
use crate::git::GitError;

/// Why a worktree could not be created or removed.
#[derive(Debug, thiserror::Error)]
pub enum WorktreeError {
    /// git failed, could not be run or took too long.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The request cannot be fulfilled.
    #[error("{problem}")]
    Refused {
        /// The reason.
        problem: String,
        /// What to do instead.
        hint: String,
    },
    /// The worktree holds work that exists nowhere else.
    #[error("the worktree {} holds work that is nowhere else: {risk}", .path.display())]
    AtRisk {
        /// The worktree.
        path: PathBuf,
        /// The work that would be lost.
        risk: Risk,
    },
    /// The worktree and its branch are gone, and nothing is left to create them from.
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
    /// The next step for the user, unless the message already names it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { hint, .. } | Self::Lost { hint, .. } => Some(hint.clone()),
            Self::AtRisk { .. } => Some(
                "commit and push it, or merge it in the clone; or remove it with --force, which keeps a copy in the trash"
                    .to_owned(),
            ),
            Self::Git(_) | Self::File(_) => None,
        }
    }
}
