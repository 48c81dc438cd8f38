//! Removes a worktree and its branch, after any work worth keeping has been saved.

use std::ffi::OsStr;
use std::path::Path;

use super::save;
use super::{Extras, WorktreeError, is_there};
use crate::fsx;
use crate::git::GitRunner;
use kugetsu_api::Worktree;

/// Removes the worktree; its branch stays. Without `force`, git itself refuses an unclean worktree. A worktree that is
/// already gone is not an error.
pub(crate) fn remove(
    runner: &GitRunner,
    worktree: &Worktree,
    extras: &Extras,
    force: bool,
) -> Result<(), WorktreeError> {
    let path = &worktree.path;
    if !worktree.repo_dir.is_dir() {
        return Ok(());
    }
    // git looks at the worktree's status first.
    let git = runner.at(&worktree.repo_dir).reaching(path);
    let is_registered = || Ok::<_, WorktreeError>(git.worktrees()?.iter().any(|one| one.path == *path));
    if is_registered()? {
        let mut args: Vec<&OsStr> = vec!["worktree".as_ref(), "remove".as_ref()];
        if force || !is_there(path) {
            // Twice, for a locked worktree.
            args.extend([OsStr::new("--force"); 2]);
        } else {
            save::take_back(runner, worktree, extras)?;
        }
        args.extend(["--".as_ref(), path.as_os_str()]);
        if let Err(error) = git.run(&args) {
            // git cannot remove a path that is longer than the system takes, and has removed a part of the worktree.
            let is_too_long = error.to_string().contains("File name too long");
            if !(force && is_too_long) {
                return Err(error.into());
            }
            fsx::remove_dir_all_durable(path)?;
            if is_registered()? {
                git.run(&args)?;
            }
        }
    }
    remove_empty_parents(worktree);
    Ok(())
}

/// Deletes the branch, whose commits must be saved or merged. Returns whether the branch is gone. A branch that is
/// checked out elsewhere stays.
pub(crate) fn drop_branch(runner: &GitRunner, worktree: &Worktree) -> Result<bool, WorktreeError> {
    if !worktree.repo_dir.is_dir() {
        return Ok(false);
    }
    let git = runner.at(&worktree.repo_dir);
    if git.branch(&worktree.branch)?.is_none() {
        return Ok(true);
    }
    Ok(git.ask(["branch", "--quiet", "-D", "--", &worktree.branch])?.ok)
}

/// Removes the folders above a worktree that exist only for it. The clone itself is never empty.
fn remove_empty_parents(worktree: &Worktree) {
    let mut above = worktree.path.parent();
    for _ in 0..2 + 20 {
        let Some(folder) = above.filter(|folder| *folder != worktree.repo_dir) else {
            return;
        };
        if std::fs::remove_dir(folder).is_err() {
            return;
        }
        let _ = folder.parent().map(Path::new).map(fsx::sync_folder);
        above = folder.parent();
    }
}
