//! From a wish to a worktree that stands: what may be taken, what is refused, what is finished after a crash.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::WorktreeError;
use super::save::Bundle;
use crate::fsx;
use crate::git::{Git, GitRunner, Listed};
use kugetsu_api::Worktree;

/// How long a `git worktree add` that lost its kugetsu may still take before its worktree is taken for dead.
const ORPHANED_ADD: Duration = Duration::from_secs(10);
/// What git writes as the reason of the lock while it makes a worktree.
const INITIALIZING: &str = "initializing";

/// Which worktree is wanted.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// A folder of the clone.
    pub directory: &'a Path,
    /// The folder of all worktrees; a relative one is below the clone's top.
    pub root: &'a Path,
    /// The worktree's place below `root`: no other issue has the same.
    pub key: &'a Path,
    /// The branch to make.
    pub branch: &'a str,
    /// The commit that it begins at.
    pub from: &'a str,
}

/// What [`make`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It stood already.
    Stood,
    /// It was made on a new branch.
    New,
    /// It was made on its branch, which was there.
    FromBranch,
    /// It was made from what had been saved of it.
    FromBundle,
}

/// Decides where the worktree will be, on which branch, from which commit; refuses what is somebody else's. Changes
/// nothing.
pub(crate) fn plan(runner: &GitRunner, wish: &Wish<'_>) -> Result<Worktree, WorktreeError> {
    let repo_dir = top_of(runner, wish.directory)?;
    let git = runner.at(&repo_dir);
    let path = real(&repo_dir.join(wish.root)).join(wish.key);
    let branch = branch_name(&git, wish.branch)?;
    let Some(from) = git.commit(wish.from)? else {
        return Err(WorktreeError::Refused {
            problem: format!("`{}` names no commit in {}", wish.from, repo_dir.display()),
            hint: "fetch it, or name another one with --from".to_owned(),
        });
    };
    let base_branch = base_branch(&git, wish.from)?;
    let all = git.worktrees()?;
    let base_commit = if is_in_the_way(&path) {
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

/// The branch that a name stands for; none for a commit or a tag, or for a head that is on no branch.
fn base_branch(git: &Git, name: &str) -> Result<Option<String>, WorktreeError> {
    let said = git.ask([
        "rev-parse",
        "--verify",
        "--quiet",
        "--symbolic-full-name",
        "--end-of-options",
        name,
    ])?;
    let full = said.text();
    Ok(match full.strip_prefix("refs/heads/") {
        Some(branch) => Some(branch.to_owned()),
        None => full.starts_with("refs/remotes/").then_some(full),
    })
}

/// Makes the worktree that a record names, or finds it. `saved`: the file that [`save`](super::save()) wrote, if there
/// is one. `new`: it may begin anew at its base commit where its branch is gone.
pub(crate) fn make(
    runner: &GitRunner,
    worktree: &Worktree,
    saved: &Path,
    new: bool,
) -> Result<Made, WorktreeError> {
    let Worktree {
        path,
        branch,
        repo_dir,
        ..
    } = worktree;
    if !repo_dir.is_dir() {
        return Err(WorktreeError::Lost {
            problem: format!(
                "the clone {} that the worktree belongs to does not exist",
                repo_dir.display()
            ),
            hint: "bring it back, or forget the session: kugetsu destroy".to_owned(),
        });
    }
    let git = runner.at(repo_dir);
    let mut all = settled(&git, path)?;
    if all.iter().any(|one| one.path == *path) && is_there(path) {
        return Ok(Made::Stood);
    }
    if all
        .iter()
        .any(|one| one.path == *path && one.locked.as_deref() == Some(INITIALIZING))
    {
        // git died while it made it: nothing has worked in there yet.
        fsx::remove_dir_all_durable(path)?;
        git.run([
            "worktree".as_ref(),
            "remove".as_ref(),
            "--force".as_ref(),
            "--force".as_ref(),
            path.as_os_str(),
        ])?;
        all = git.worktrees()?;
    }
    if is_in_the_way(path) {
        return Err(in_the_way(path, repo_dir));
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
            // No upstream: a push must not go to the branch that it began at.
            git.run(["branch", "--no-track", branch, &worktree.base_commit])?;
        }
    }
    // `--force`, since a worktree that was removed by hand is still registered; nobody else has its branch.
    git.run([
        "worktree".as_ref(),
        "add".as_ref(),
        "--quiet".as_ref(),
        "--force".as_ref(),
        path.as_os_str(),
        branch.as_ref(),
    ])?;
    if let Some(bundle) = bundle {
        bundle.unpack_changes(&git, worktree)?;
    }
    Ok(made)
}

/// Whether a worktree stands at this path, as far as one look tells.
pub(crate) fn is_there(path: &Path) -> bool {
    path.join(".git").symlink_metadata().is_ok()
}

/// The folder in the worktree that a folder of the clone, or of the worktree itself, corresponds to.
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

/// The top folder of the clone.
fn top_of(runner: &GitRunner, directory: &Path) -> Result<PathBuf, WorktreeError> {
    let said = runner.at(directory).ask(["rev-parse", "--show-toplevel"])?;
    if said.ok && !said.text().is_empty() {
        return Ok(said.text().into());
    }
    Err(WorktreeError::Refused {
        problem: format!(
            "{} is in no git clone, so there can be no worktree of it",
            directory.display()
        ),
        hint: "go on without one: --no-worktree".to_owned(),
    })
}

fn branch_name(git: &Git, name: &str) -> Result<String, WorktreeError> {
    let said = git.ask(["check-ref-format", &format!("refs/heads/{name}")])?;
    if said.ok && !name.starts_with('-') {
        return Ok(name.to_owned());
    }
    Err(WorktreeError::Refused {
        problem: format!("`{name}` cannot be the name of a branch"),
        hint: "name another one with --branch".to_owned(),
    })
}

/// The path with every link in it resolved, as git knows it; what does not exist yet stays as it is.
fn real(path: &Path) -> PathBuf {
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

/// Anything but an empty folder.
fn is_in_the_way(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
        && !std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Refuses what stands at the path, unless it is a worktree of this clone on this branch.
fn adoptable(git: &Git, all: &[Listed], path: &Path, branch: &str) -> Result<(), WorktreeError> {
    let Some(there) = all.iter().find(|one| one.path == *path) else {
        return Err(in_the_way(path, git.folder()));
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

fn in_the_way(path: &Path, repo_dir: &Path) -> WorktreeError {
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
                "the branch {branch} is checked out in {}, which is not this issue's worktree",
                user.path.display()
            ),
            hint: "name another branch with --branch".to_owned(),
        },
        None => WorktreeError::Refused {
            problem: format!("there is a branch {branch} already, and it is not known to be this issue's"),
            hint: format!(
                "name another one with --branch; or hand it over: git -C {} worktree add -f {} {branch}",
                repo_dir.display(),
                path.display()
            ),
        },
    }
}

/// The worktrees, once no git is making this one any more: a git whose kugetsu was killed goes on by itself.
fn settled(git: &Git, path: &Path) -> Result<Vec<Listed>, WorktreeError> {
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

/// Keeps the folder of all worktrees, where it is inside the clone, out of its `git status`, without touching a file
/// that git tracks. Where that cannot be, there is no harm but noise.
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
