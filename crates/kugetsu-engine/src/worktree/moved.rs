//! A worktree whose clone has moved to another folder.

use std::path::Path;

use super::{WorktreeError, is_there};
use crate::git::GitRunner;
use kugetsu_api::Worktree;

/// The worktree as it is once its clone is in this folder. A worktree inside the clone has moved with it.
pub(crate) fn in_moved_clone(worktree: &Worktree, repo_dir: &Path) -> Worktree {
    let moved = worktree
        .path
        .strip_prefix(&worktree.repo_dir)
        .map(|below| repo_dir.join(below))
        // A clone that was copied without its worktrees, which are still in their old place.
        .ok()
        .filter(|path| is_there(path) || !is_there(&worktree.path));
    Worktree {
        path: moved.unwrap_or_else(|| worktree.path.clone()),
        repo_dir: repo_dir.to_owned(),
        ..worktree.clone()
    }
}

/// Connects clone and worktree again, because each names the other's folder. A worktree that is not there is left for
/// the next turn, which makes it again from its branch. `new`: the session has not begun, so there may be no branch yet.
pub(crate) fn repair(runner: &GitRunner, worktree: &Worktree, new: bool) -> Result<(), WorktreeError> {
    let git = runner.at(&worktree.repo_dir);
    if git.branch(&worktree.branch)?.is_none() && !(worktree.pending && new) {
        return Err(WorktreeError::Refused {
            problem: format!(
                "{} has no branch {}, so it is not the clone of the session's worktree",
                worktree.repo_dir.display(),
                worktree.branch
            ),
            hint: format!(
                "name the folder that the clone was moved to; if this is the one, make the branch there, or bring it: \
                 git fetch origin {0}:{0}",
                worktree.branch
            ),
        });
    }
    if is_there(&worktree.path) {
        git.run([
            "worktree".as_ref(),
            "repair".as_ref(),
            "--".as_ref(),
            worktree.path.as_os_str(),
        ])?;
    }
    Ok(())
}
