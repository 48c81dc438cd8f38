//! Plans and creates worktrees: which paths and branches may be used, which are refused, and what is finished after a
//! crash.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::WorktreeError;
use super::save::Bundle;
use crate::fsx;
use crate::git::{Git, GitRunner, Listed, linked_git_folder};
use kugetsu_api::Worktree;

/// How long to wait for a `git worktree add` whose kugetsu died, before its worktree counts as abandoned.
const ORPHANED_ADD: Duration = Duration::from_secs(10);
/// The lock reason that git sets while it creates a worktree.
const INITIALIZING: &str = "initializing";

/// The parameters of a new worktree.
#[derive(Clone, Debug)]
pub struct PlanRequest<'a> {
    /// A folder of the clone.
    pub directory: &'a Path,
    /// The folder of all worktrees. A relative path is below the clone's top folder.
    pub root: &'a Path,
    /// The worktree's path below `root`, unique to the issue.
    pub key: &'a Path,
    /// The branch to create.
    pub branch: &'a str,
    /// The commit that the branch starts from.
    pub from: &'a str,
}

/// The outcome of [`make`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// The worktree already existed.
    Existing,
    /// Created on a new branch.
    New,
    /// Created on its existing branch.
    FromBranch,
    /// Created from its saved bundle.
    FromBundle,
}

/// Decides the worktree's path, branch and base commit, and refuses what belongs to something else. Changes nothing.
pub(crate) fn plan(runner: &GitRunner, request: &PlanRequest<'_>) -> Result<Worktree, WorktreeError> {
    let Some(repo_dir) = runner.at(request.directory).top()? else {
        return Err(WorktreeError::Refused {
            problem: format!(
                "{} is not in a git clone, so it cannot have a worktree",
                request.directory.display()
            ),
            hint: "go on without one: --no-worktree".to_owned(),
        });
    };
    let git = runner.at(&repo_dir);
    let path = real(&repo_dir.join(request.root)).join(request.key);
    let branch = branch_name(&git, request.branch)?;
    let Some(from) = git.commit(request.from)? else {
        return Err(WorktreeError::Refused {
            problem: format!("`{}` is not a commit in {}", request.from, repo_dir.display()),
            hint: "fetch it, or name another one with --from".to_owned(),
        });
    };
    let base_branch = base_branch(&git, request.from)?;
    let all = git.worktrees()?;
    let base_commit = if is_occupied(&path) {
        adoptable(&git, &all, &path, &branch)?;
        let base = git.ask(["merge-base", &from, &format!("refs/heads/{branch}")])?;
        if base.ok { base.text() } else { from }
    } else {
        if git.branch(&branch)?.is_some() {
            return Err(branch_taken(&all, &repo_dir, &path, &branch));
        }
        from
    };
    Ok(Worktree {
        path,
        branch,
        base_commit,
        base_branch,
        blocked_rebase: None,
        repo_dir,
        created: Timestamp::now(),
        pending: true,
    })
}

/// The branch that a name resolves to; `None` for a commit, a tag or a detached head.
fn base_branch(git: &Git, name: &str) -> Result<Option<String>, WorktreeError> {
    let output = git.ask([
        "rev-parse",
        "--verify",
        "--quiet",
        "--symbolic-full-name",
        "--end-of-options",
        name,
    ])?;
    let full = output.text();
    Ok(match full.strip_prefix("refs/heads/") {
        Some(branch) => Some(branch.to_owned()),
        None => full.starts_with("refs/remotes/").then_some(full),
    })
}

/// Refuses a worktree whose clone is gone.
pub(crate) fn check_clone(worktree: &Worktree) -> Result<(), WorktreeError> {
    let clone = &worktree.repo_dir;
    if clone.is_dir() {
        return Ok(());
    }
    Err(WorktreeError::Lost {
        problem: format!(
            "the clone {} that the worktree belongs to does not exist",
            clone.display()
        ),
        hint: "if the clone has moved, say where it is now: kugetsu move REF --dir FOLDER".to_owned(),
    })
}

/// Creates the worktree that a record names, or finds it. `saved` is the file that [`save`](super::save()) wrote, if
/// there is one. With `new`, a worktree whose branch is gone may start again from its base commit, and the remains of an
/// unfinished creation are removed: nothing has worked in them.
pub(crate) fn make(
    runner: &GitRunner,
    worktree: &Worktree,
    saved: &Path,
    new: bool,
) -> Result<Made, WorktreeError> {
    check_clone(worktree)?;
    let Worktree {
        path,
        branch,
        repo_dir,
        ..
    } = worktree;
    let git = runner.at(repo_dir);
    let mut all = list_when_idle(&git, path)?;
    if all.iter().any(|one| one.path == *path) && is_there(path) {
        return Ok(Made::Existing);
    }
    if all
        .iter()
        .any(|one| one.path == *path && one.locked.as_deref() == Some(INITIALIZING))
    {
        // git died while it created the worktree, so nothing has worked in it yet.
        fsx::remove_dir_all_durable(path)?;
        git.run([
            "worktree".as_ref(),
            "remove".as_ref(),
            "--force".as_ref(),
            "--force".as_ref(),
            "--".as_ref(),
            path.as_os_str(),
        ])?;
        all = git.worktrees()?;
    }
    if is_occupied(path) {
        if !(new && worktree.pending && is_forgotten(&all, path)) {
            return Err(occupied(path, repo_dir));
        }
        fsx::remove_dir_all_durable(path)?;
    }
    if let Some(other) = all
        .iter()
        .find(|one| one.branch.as_ref() == Some(branch) && one.path != *path)
        && is_there(&other.path)
    {
        return Err(branch_taken(&all, repo_dir, path, branch));
    }
    let bundle = Bundle::read(&git, saved)?;
    let mut made = Made::FromBranch;
    if git.branch(branch)?.is_none() {
        made = match &bundle {
            Some(bundle) => {
                bundle.fetch_branch(&git, worktree)?;
                Made::FromBundle
            }
            None => Made::New,
        };
        if made == Made::New && !new {
            return Err(WorktreeError::Lost {
                problem: format!("the worktree {} and its branch {branch} are gone", path.display()),
                hint: format!(
                    "make the branch again (git -C {} reflog may know its commit), or: kugetsu destroy",
                    repo_dir.display()
                ),
            });
        }
        if git.branch(branch)?.is_none() {
            // No upstream: a push must not go to the branch that this one started from.
            git.run(["branch", "--no-track", "--", branch, &worktree.base_commit])?;
        }
    }
    // `--force`: a worktree that was deleted by hand is still registered. No other worktree has the branch.
    git.run([
        "worktree".as_ref(),
        "add".as_ref(),
        "--quiet".as_ref(),
        "--force".as_ref(),
        "--".as_ref(),
        path.as_os_str(),
        branch.as_ref(),
    ])?;
    if let Some(bundle) = bundle {
        bundle.unpack_changes(&git, worktree)?;
    }
    Ok(made)
}

/// Whether a worktree appears to exist at this path. Checks one file only.
pub(crate) fn is_there(path: &Path) -> bool {
    path.join(".git").symlink_metadata().is_ok()
}

/// The folder in the worktree that corresponds to a folder of the clone or of the worktree itself.
pub(crate) fn directory_in(worktree: &Worktree, directory: &Path) -> PathBuf {
    let directory = real(directory);
    let below = directory
        .strip_prefix(&worktree.path)
        .or_else(|_| directory.strip_prefix(&worktree.repo_dir))
        .map(Path::to_owned)
        .unwrap_or_default();
    let folder = worktree.path.join(&below);
    if below.as_os_str().is_empty() || !folder.is_dir() {
        return worktree.path.clone();
    }
    folder
}

fn branch_name(git: &Git, name: &str) -> Result<String, WorktreeError> {
    let output = git.ask(["check-ref-format", &format!("refs/heads/{name}")])?;
    if output.ok && !name.starts_with('-') {
        return Ok(name.to_owned());
    }
    Err(WorktreeError::Refused {
        problem: format!("`{name}` is not a valid branch name"),
        hint: "name another one with --branch".to_owned(),
    })
}

/// Resolves every link in the path, as git does. Parts that do not exist yet stay as they are.
pub(crate) fn real(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    let mut current = path;
    loop {
        if let Ok(found) = current.canonicalize() {
            return rest.iter().rev().fold(found, |whole, name| whole.join(name));
        }
        match (current.parent(), current.file_name()) {
            (Some(parent), Some(name)) => {
                rest.push(name);
                current = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

/// Whether the path exists and is not an empty folder.
fn is_occupied(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
        && !std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Whether the path holds the remains of a worktree that git no longer knows. An interrupted `git worktree add` removes
/// its administrative folder before the files, and a kill between the two leaves files that belong to nothing.
fn is_forgotten(all: &[Listed], path: &Path) -> bool {
    if all.iter().any(|one| one.path == *path) {
        return false;
    }
    match path.join(".git").symlink_metadata() {
        Ok(_) => linked_git_folder(path).is_some_and(|git| !git.join("gitdir").exists()),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Refuses anything at the path except a worktree of this clone on this branch.
fn adoptable(git: &Git, all: &[Listed], path: &Path, branch: &str) -> Result<(), WorktreeError> {
    let Some(there) = all.iter().find(|one| one.path == *path) else {
        return Err(occupied(path, git.folder()));
    };
    if there.branch.as_deref() == Some(branch) {
        return Ok(());
    }
    let (on, hint) = match &there.branch {
        Some(other) => (
            format!("is on the branch {other} and not on {branch}"),
            format!("take it as it is with: --branch {other}"),
        ),
        None => (
            format!("is on no branch, and not on {branch}"),
            format!(
                "switch it to a branch of its own: git -C {} switch",
                path.display()
            ),
        ),
    };
    Err(WorktreeError::Refused {
        problem: format!("the worktree {} {on}", path.display()),
        hint,
    })
}

fn occupied(path: &Path, repo_dir: &Path) -> WorktreeError {
    WorktreeError::Refused {
        problem: format!(
            "{} is in the way: it is not a worktree of {}",
            path.display(),
            repo_dir.display()
        ),
        hint: "move it elsewhere, or set worktree_root to another folder".to_owned(),
    }
}

fn branch_taken(all: &[Listed], repo_dir: &Path, path: &Path, branch: &str) -> WorktreeError {
    let user = all
        .iter()
        .find(|one| one.branch.as_deref() == Some(branch) && is_there(&one.path));
    match user {
        Some(user) => WorktreeError::Refused {
            problem: format!(
                "the branch {branch} is checked out in {}, which is not this session's worktree",
                user.path.display()
            ),
            hint: "name another branch with --branch".to_owned(),
        },
        None => WorktreeError::Refused {
            problem: format!(
                "the branch {branch} already exists, and no record says that it belongs to this session"
            ),
            hint: format!(
                "name another one with --branch; or hand it over: git -C {} worktree add -f {} {branch}",
                repo_dir.display(),
                path.display()
            ),
        },
    }
}

/// Lists the worktrees once no git is still creating this one: a git process goes on after its kugetsu is killed.
fn list_when_idle(git: &Git, path: &Path) -> Result<Vec<Listed>, WorktreeError> {
    let end = Instant::now() + ORPHANED_ADD;
    loop {
        let all = git.worktrees()?;
        let being_made = all
            .iter()
            .any(|one| one.path == *path && one.locked.as_deref() == Some(INITIALIZING));
        if !being_made || Instant::now() >= end {
            return Ok(all);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Hides the folder of all worktrees from the clone's `git status` if the folder is inside the clone. Edits no file
/// that git tracks. Failure only makes `git status` noisy.
pub(crate) fn exclude(runner: &GitRunner, worktree: &Worktree, root: &Path) {
    if let Err(error) = add_exclude(runner, worktree, root) {
        tracing::warn!("{} stays in git status: {error}", root.display());
    }
}

fn add_exclude(runner: &GitRunner, worktree: &Worktree, root: &Path) -> Result<(), WorktreeError> {
    let repo_dir = &worktree.repo_dir;
    let root = real(&repo_dir.join(root));
    let excluded = if root == *repo_dir { &worktree.path } else { &root };
    let Ok(below) = excluded.strip_prefix(repo_dir) else {
        return Ok(());
    };
    let line = format!("/{}/", below.to_string_lossy());
    let common = runner
        .at(repo_dir)
        .run(["rev-parse", "--path-format=absolute", "--git-common-dir"])?;
    let info = PathBuf::from(common.text()).join("info");
    let file = info.join("exclude");
    let known = std::fs::read_to_string(&file).unwrap_or_default();
    if known.lines().any(|old| old.trim() == line) {
        return Ok(());
    }
    fsx::create_dir_all_durable(&info, &info)?;
    Ok(fsx::append_line_durable(&file, line.as_bytes())?)
}
