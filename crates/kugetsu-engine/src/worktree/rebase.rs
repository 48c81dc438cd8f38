//! Rebases a session's branch onto the branch that it started from.

use super::WorktreeError;
use crate::git::{Git, GitError, GitRunner, error_line};
use kugetsu_api::Worktree;

/// Files in a worktree's git folder that show an unfinished operation.
const UNFINISHED: [(&str, &str); 5] = [
    ("rebase-merge", "rebase"),
    ("rebase-apply", "rebase"),
    ("MERGE_HEAD", "merge"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
];

/// The outcome of a rebase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebased {
    /// The branch was up to date.
    UpToDate,
    /// The branch now starts from this commit.
    Onto(String),
    /// These files are in conflict; the branch is unchanged.
    Conflicts(Vec<String>),
}

/// Rebases the worktree's branch onto its base branch or, if it started from a commit, onto the commit that its clone
/// has checked out. Returns the name of that branch or commit, and the outcome. Fetches nothing. Conflicts leave
/// everything unchanged.
pub(crate) fn rebase(runner: &GitRunner, worktree: &Worktree) -> Result<(String, Rebased), WorktreeError> {
    let (onto, commit) = base(runner, worktree)?;
    let here = runner.at(&worktree.path);
    refuse_unfinished(&here, worktree)?;
    // As for `git rebase`, changes within a submodule do not count.
    let status = [
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--ignore-submodules=dirty",
    ];
    let dirty = here.ask(status)?;
    if !dirty.ok || !dirty.text().is_empty() {
        return Err(refused(
            worktree,
            "it has changes that are not committed",
            "let a turn commit them first",
        ));
    }
    if here
        .ask(["merge-base", "--is-ancestor", commit.as_str(), "HEAD"])?
        .ok
    {
        return Ok((onto, Rebased::UpToDate));
    }
    let rebase = here.ask(["rebase", commit.as_str()]);
    // From here on, a rebase that has stopped must be taken back.
    let here = here.uncancellable();
    let rebase = match rebase {
        Ok(rebase) if rebase.ok => return Ok((onto, Rebased::Onto(commit))),
        Ok(rebase) => rebase,
        Err(error) => {
            if unfinished(&here)?.is_some() {
                here.ask(["rebase", "--abort"])?;
            }
            return Err(error.into());
        }
    };
    let failed = |problem| {
        WorktreeError::Git(GitError {
            command: "rebase".to_owned(),
            folder: worktree.path.clone(),
            problem,
            missing: false,
        })
    };
    let files = here
        .ask(["diff", "--no-ext-diff", "--name-only", "--diff-filter=U"])?
        .text();
    if unfinished(&here)?.is_some() {
        let aborted = here.ask(["rebase", "--abort"])?;
        if !aborted.ok {
            return Err(failed(format!(
                "{}; and it could not be taken back (git rebase --abort): {}",
                error_line(&rebase.stderr),
                error_line(&aborted.stderr)
            )));
        }
    }
    if files.is_empty() {
        return Err(failed(error_line(&rebase.stderr)));
    }
    Ok((
        onto,
        Rebased::Conflicts(files.lines().map(str::to_owned).collect()),
    ))
}

/// The target of the rebase, by name and by commit.
fn base(runner: &GitRunner, worktree: &Worktree) -> Result<(String, String), WorktreeError> {
    let clone = runner.at(&worktree.repo_dir);
    let Some(branch) = &worktree.base_branch else {
        let commit = clone.run(["rev-parse", "--verify", "HEAD^{commit}"])?.text();
        let branch = clone.ask(["symbolic-ref", "--quiet", "--short", "HEAD"])?;
        return Ok((if branch.ok { branch.text() } else { commit.clone() }, commit));
    };
    let found = if branch.starts_with("refs/") {
        clone.commit(branch)?
    } else {
        clone.branch(branch)?
    };
    let name = branch.strip_prefix("refs/remotes/").unwrap_or(branch).to_owned();
    match found {
        Some(commit) => Ok((name, commit)),
        None => Err(refused(
            worktree,
            &format!("its base branch {name} is not in {}", worktree.repo_dir.display()),
            "bring the branch back, or rebase there by hand",
        )),
    }
}

/// Refuses a worktree with an unfinished operation or another branch checked out: `git rebase` would fail there or move
/// another branch, and `--abort` would discard someone else's work.
fn refuse_unfinished(here: &Git, worktree: &Worktree) -> Result<(), WorktreeError> {
    if let Some(what) = unfinished(here)? {
        return Err(refused(
            worktree,
            &format!("a {what} is in progress there"),
            &format!("let a turn finish it, or end it there: git {what} --continue, or git {what} --abort"),
        ));
    }
    let head = here.ask(["symbolic-ref", "--quiet", "HEAD"])?;
    let head = head.ok.then(|| head.text());
    let at = match head
        .as_deref()
        .map(|name| name.strip_prefix("refs/heads/").unwrap_or(name))
    {
        Some(branch) if branch == worktree.branch => return Ok(()),
        Some(branch) => format!("it is on the branch {branch}"),
        None => "it is on no branch".to_owned(),
    };
    Err(refused(
        worktree,
        &format!("{at} instead of {}", worktree.branch),
        &format!(
            "let a turn go back, or do it there: git switch {}",
            worktree.branch
        ),
    ))
}

/// The operation in progress in a worktree.
fn unfinished(here: &Git) -> Result<Option<&'static str>, WorktreeError> {
    let arguments = UNFINISHED.iter().flat_map(|(file, _)| ["--git-path", file]);
    let paths = here.run(["rev-parse"].into_iter().chain(arguments))?.text();
    let mut found = paths.lines().zip(UNFINISHED);
    // git may print a path relative to the folder.
    let found = found.find(|(path, _)| here.folder().join(path).exists());
    Ok(found.map(|(_, (_, what))| what))
}

fn refused(worktree: &Worktree, problem: &str, hint: &str) -> WorktreeError {
    WorktreeError::Refused {
        problem: format!(
            "the worktree {} cannot be rebased: {problem}",
            worktree.path.display()
        ),
        hint: hint.to_owned(),
    }
}
