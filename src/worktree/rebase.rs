//! Rebasing an issue's branch onto what its clone has checked out.

use super::WorktreeError;
use super::git::Git;
use crate::session::Worktree;

/// What came of a rebase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebased {
    /// The branch held everything already.
    UpToDate,
    /// The branch stands on this commit now.
    Onto(String),
    /// These files are in conflict; the branch is what it was before.
    Conflicts(Vec<String>),
}

/// Rebases the worktree's branch onto the commit that its clone has checked out; that branch's name, or the commit, and
/// what came of it. Nothing is fetched. After conflicts everything is as it was before.
pub fn rebase(worktree: &Worktree) -> Result<(String, Rebased), WorktreeError> {
    let clone = Git::at(&worktree.repo_dir);
    let here = Git::at(&worktree.path);
    let commit = clone.ask(["rev-parse", "--verify", "HEAD^{commit}"])?;
    if !commit.ok {
        return Err(WorktreeError::Git {
            command: "rev-parse".to_owned(),
            folder: worktree.repo_dir.clone(),
            problem: commit.stderr,
        });
    }
    let commit = commit.text();
    let branch = clone.ask(["symbolic-ref", "--quiet", "--short", "HEAD"])?;
    let onto = if branch.ok { branch.text() } else { commit.clone() };
    let dirty = here.ask(["status", "--porcelain", "--untracked-files=no"])?;
    if !dirty.ok || !dirty.text().is_empty() {
        return Err(WorktreeError::Refused {
            problem: format!(
                "the worktree {} cannot be rebased: it has changes that are not committed",
                worktree.path.display()
            ),
            hint: "let a turn commit them first".to_owned(),
        });
    }
    if here
        .ask(["merge-base", "--is-ancestor", commit.as_str(), "HEAD"])?
        .ok
    {
        return Ok((onto, Rebased::UpToDate));
    }
    let rebase = here.ask(["rebase", commit.as_str()])?;
    if rebase.ok {
        return Ok((onto, Rebased::Onto(commit)));
    }
    let files = here.ask(["diff", "--name-only", "--diff-filter=U"])?.text();
    let aborted = here.ask(["rebase", "--abort"])?;
    if files.is_empty() || !aborted.ok {
        return Err(WorktreeError::Git {
            command: "rebase".to_owned(),
            folder: worktree.path.clone(),
            problem: if aborted.ok { rebase.stderr } else { aborted.stderr },
        });
    }
    Ok((
        onto,
        Rebased::Conflicts(files.lines().map(str::to_owned).collect()),
    ))
}
