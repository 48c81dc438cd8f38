//! Finds the work that exists only in a worktree, and saves it in one file.
//!
//! The file is a git bundle. It holds the branch, if it has commits beyond its base commit, and a commit on top of the
//! worktree's head with every changed or untracked file. Ignored files are not saved.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{Extras, WorktreeError, is_there};
use crate::fsx;
use crate::git::{Git, GitError, GitRunner};
use kugetsu_api::Worktree;

/// The ref of the commit with uncommitted work while it is packed or unpacked.
const SAVED: &str = "refs/kugetsu/saved/";
/// How deep submodules are looked at for changes. Deeper ones count as changed.
const MAX_SUBMODULE_DEPTH: usize = 8;

/// Work that exists only in a worktree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Risk {
    /// Changed and untracked files, relative to the worktree's top folder.
    pub files: Vec<PathBuf>,
    /// The number of commits that are neither in a remote branch nor in the branch that the clone has checked out.
    pub commits: u64,
}

impl Risk {
    /// Whether there is no such work.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.commits == 0
    }
}

impl std::fmt::Display for Risk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        if !self.files.is_empty() {
            let count = self.files.len() as u64;
            let names: Vec<_> = self
                .files
                .iter()
                .take(3)
                .map(|file| file.to_string_lossy())
                .collect();
            let more = if count > 3 { ", ..." } else { "" };
            write!(
                f,
                "{count} file{} not committed ({}{more})",
                plural(count),
                names.join(", ")
            )?;
        }
        if self.commits > 0 {
            let and = if self.files.is_empty() { "" } else { " and " };
            write!(
                f,
                "{and}{} commit{} not pushed",
                self.commits,
                plural(self.commits)
            )?;
        }
        Ok(())
    }
}

/// What [`save`] wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The branch's commits.
    pub branch: bool,
    /// The uncommitted changes.
    pub changes: bool,
}

/// Finds the work that removing the worktree would lose.
pub(crate) fn risk(runner: &GitRunner, worktree: &Worktree, extras: &Extras) -> Result<Risk, WorktreeError> {
    if !worktree.repo_dir.is_dir() {
        return Ok(Risk::default());
    }
    let exists = is_there(&worktree.path);
    let mut risk = Risk::default();
    if exists {
        risk.files = changes(runner, worktree, extras)?
            .into_iter()
            .map(|change| change.path)
            .collect();
    }
    let git = runner.at(if exists {
        &worktree.path
    } else {
        &worktree.repo_dir
    });
    let mut args: Vec<String> = ["rev-list", "--count"].map(str::to_owned).to_vec();
    if exists {
        args.extend(git.commit("HEAD")?);
    }
    args.extend(git.branch(&worktree.branch)?);
    if args.len() == 2 {
        return Ok(risk);
    }
    args.extend(["--not", "--remotes"].map(str::to_owned));
    args.extend(git.commit(&worktree.base_commit)?);
    args.extend(runner.at(&worktree.repo_dir).commit("HEAD")?);
    args.push("--".to_owned());
    let count = git.run(args)?.text();
    // A count that cannot be parsed must not count as zero.
    risk.commits = count.parse().unwrap_or(1);
    Ok(risk)
}

/// A file that `git status` lists.
struct Change {
    path: PathBuf,
    /// True for a submodule with changes inside, which no commit of the worktree can hold.
    submodule: bool,
}

fn changes(runner: &GitRunner, worktree: &Worktree, extras: &Extras) -> Result<Vec<Change>, WorktreeError> {
    let output = runner.at(&worktree.path).run([
        "status",
        "--porcelain=v2",
        "-z",
        "--no-renames",
        "--untracked-files=all",
        "--ignore-submodules=dirty",
    ])?;
    let mut found = Vec::new();
    for line in output.stdout.split(|&byte| byte == 0) {
        // The path follows this many fields.
        let before = match line.first() {
            Some(b'1') => 8,
            Some(b'u') => 10,
            Some(b'?') => 1,
            _ => continue,
        };
        let mut fields = line.splitn(before + 1, |&byte| byte == b' ');
        let state = fields.nth(2).filter(|_| before > 1).unwrap_or_default();
        let path = line
            .splitn(before + 1, |&byte| byte == b' ')
            .last()
            .map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)))
            .unwrap_or_default();
        if before == 1 && extras.is_unchanged_extra(worktree, &path) {
            continue;
        }
        let submodule = state.first() == Some(&b'S') && state != b"S...";
        found.push(Change { path, submodule });
    }
    let dirty = dirty_submodules(&runner.at(&worktree.path), 0)?;
    for path in dirty {
        found.retain(|change| change.path != path);
        found.push(Change {
            path,
            submodule: true,
        });
    }
    Ok(found)
}

/// The submodules with changes inside. git would look into them as well, but their configuration may name programs.
fn dirty_submodules(git: &Git, depth: usize) -> Result<Vec<PathBuf>, GitError> {
    let output = git.run(["ls-files", "--stage", "-z"])?;
    let links = output.stdout.split(|&byte| byte == 0);
    let links = links.filter_map(|line| line.strip_prefix(b"160000 "));
    let mut dirty = Vec::new();
    for link in links {
        let path = link.splitn(2, |&byte| byte == b'\t').nth(1).unwrap_or_default();
        let path = Path::new(OsStr::from_bytes(path));
        let submodule = git.at(&git.folder().join(path));
        if !is_there(submodule.folder()) {
            continue;
        }
        let status = ["status", "--porcelain", "--ignore-submodules=dirty"];
        let is_dirty = depth == MAX_SUBMODULE_DEPTH
            || !submodule.run(status)?.stdout.is_empty()
            || !dirty_submodules(&submodule, depth + 1)?.is_empty();
        if is_dirty {
            dirty.push(path.to_owned());
        }
    }
    Ok(dirty)
}

/// Removes the unchanged extras again, so that git finds the worktree clean.
pub(super) fn take_back(
    runner: &GitRunner,
    worktree: &Worktree,
    extras: &Extras,
) -> Result<(), WorktreeError> {
    let output = runner
        .at(&worktree.path)
        .run(["ls-files", "--others", "--exclude-standard", "-z"])?;
    for name in output.stdout.split(|&byte| byte == 0) {
        let name = Path::new(OsStr::from_bytes(name));
        if !name.as_os_str().is_empty() && extras.is_unchanged_extra(worktree, name) {
            fsx::remove_file_durable(&worktree.path.join(name))?;
        }
    }
    Ok(())
}

/// Saves the commits and changes beyond the base commit in the file `to`, replacing it. If there is nothing to save, it
/// writes no file and an older file stays.
pub(crate) fn save(
    runner: &GitRunner,
    worktree: &Worktree,
    extras: &Extras,
    to: &Path,
) -> Result<Saved, WorktreeError> {
    let git = runner.at(&worktree.repo_dir);
    let mut saved = Saved::default();
    if !worktree.repo_dir.is_dir() {
        return Ok(saved);
    }
    let mut refs: Vec<String> = Vec::new();
    let base = git.commit(&worktree.base_commit)?;
    if let Some(tip) = git.branch(&worktree.branch)?
        && base.as_ref() != Some(&tip)
    {
        saved.branch = true;
        refs.push(format!("refs/heads/{}", worktree.branch));
    }
    let packed = match commit_changes(runner, worktree, extras, to)? {
        Some(commit) => {
            let name = format!("{SAVED}{}", uuid::Uuid::new_v4().simple());
            git.run(["update-ref", &name, &commit])?;
            saved.changes = true;
            refs.push(name.clone());
            Some(name)
        }
        None => None,
    };
    let written = if refs.is_empty() {
        Ok(())
    } else {
        write(&git, &refs, base.as_deref(), to)
    };
    if let Some(name) = packed {
        git.run(["update-ref", "-d", &name])?;
    }
    written.map(|()| saved)
}

fn write(git: &Git, refs: &[String], base: Option<&str>, to: &Path) -> Result<(), WorktreeError> {
    let temp = to.with_extension("bundle.part");
    let create = |with_base: Option<&str>| {
        let mut args: Vec<OsString> = ["bundle", "create", "--quiet"].map(OsString::from).to_vec();
        args.push(temp.clone().into());
        args.extend(refs.iter().map(OsString::from));
        if let Some(base) = with_base {
            args.extend(["--not", base].map(OsString::from));
        }
        git.run(args)
    };
    create(base)?;
    git.run([
        "bundle".as_ref(),
        "verify".as_ref(),
        "--quiet".as_ref(),
        temp.as_os_str(),
    ])?;
    let synced = std::fs::File::open(&temp).and_then(|file| file.sync_all());
    synced.map_err(|source| fsx::FsError::Io {
        action: "sync",
        path: temp.clone(),
        source,
    })?;
    Ok(fsx::rename_durable(&temp, to)?)
}

/// Creates a commit on top of the worktree's head with all uncommitted changes. The worktree and its index stay as they
/// are. Returns `None` if there are no changes.
fn commit_changes(
    runner: &GitRunner,
    worktree: &Worktree,
    extras: &Extras,
    beside: &Path,
) -> Result<Option<String>, WorktreeError> {
    if !is_there(&worktree.path) {
        return Ok(None);
    }
    let found = changes(runner, worktree, extras)?;
    let git = runner.at(&worktree.path);
    let head = git.commit("HEAD")?;
    let tip = git.branch(&worktree.branch)?;
    if found.is_empty() && head == tip {
        return Ok(None);
    }
    if let Some(change) = found.iter().find(|change| change.submodule) {
        return Err(cannot_save(
            worktree,
            &change.path,
            "a submodule with changes of its own",
        ));
    }
    let index = beside.with_extension("index");
    fsx::remove_file_durable(&index)?;
    let with_index = git
        .clone()
        .with("GIT_INDEX_FILE", index.clone())
        .with("GIT_AUTHOR_NAME", "kugetsu")
        .with("GIT_AUTHOR_EMAIL", "kugetsu@localhost")
        .with("GIT_COMMITTER_NAME", "kugetsu")
        .with("GIT_COMMITTER_EMAIL", "kugetsu@localhost");
    let commit = pack(worktree, &with_index, &found);
    fsx::remove_file_durable(&index)?;
    commit.map(Some)
}

fn pack(worktree: &Worktree, git: &Git, found: &[Change]) -> Result<String, WorktreeError> {
    git.run(["read-tree", "HEAD"])?;
    let (there, gone): (Vec<_>, Vec<_>) = found
        .iter()
        .partition(|change| worktree.path.join(&change.path).symlink_metadata().is_ok());
    let words: [(&[&str], Vec<&Change>); 2] = [
        (&["--literal-pathspecs", "add", "--"], there),
        (&["update-index", "--force-remove", "--"], gone),
    ];
    for (command, changes) in words {
        for some in changes.chunks(200) {
            let mut args: Vec<OsString> = command.iter().map(OsString::from).collect();
            args.extend(some.iter().map(|change| change.path.clone().into_os_string()));
            git.run(args)?;
        }
    }
    let tree = git.run(["write-tree"])?.text();
    let links = git.run(["diff-tree", "-r", "-z", "HEAD", &tree])?;
    let text = String::from_utf8_lossy(&links.stdout).into_owned();
    let mut fields = text.split('\0');
    while let (Some(meta), Some(path)) = (fields.next(), fields.next()) {
        if meta.split(' ').nth(1) == Some("160000") {
            return Err(cannot_save(
                worktree,
                Path::new(path),
                "a git repository of its own",
            ));
        }
    }
    let message = format!("What was not committed on {}", worktree.branch);
    let output = git.run([
        "commit-tree",
        "--no-gpg-sign",
        &tree,
        "-p",
        "HEAD",
        "-m",
        &message,
    ])?;
    Ok(output.text())
}

fn cannot_save(worktree: &Worktree, path: &Path, what: &str) -> WorktreeError {
    WorktreeError::Refused {
        problem: format!(
            "{} in the worktree {} is {what}, which cannot be kept in the trash",
            path.display(),
            worktree.path.display()
        ),
        hint: "push it or move it elsewhere first".to_owned(),
    }
}

/// A file that [`save`] wrote.
pub(super) struct Bundle {
    file: PathBuf,
    heads: Vec<String>,
}

impl Bundle {
    /// Returns `None` if the file does not exist.
    pub(super) fn read(git: &Git, file: &Path) -> Result<Option<Self>, WorktreeError> {
        if !file.is_file() {
            return Ok(None);
        }
        let output = git.run(["bundle".as_ref(), "list-heads".as_ref(), file.as_os_str()])?;
        let heads = output
            .text()
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(_, name)| name.to_owned())
            .collect();
        Ok(Some(Self {
            file: file.to_owned(),
            heads,
        }))
    }

    fn fetch(&self, git: &Git, name: &str) -> Result<(), WorktreeError> {
        let spec = format!("{name}:{name}");
        git.run([
            "fetch".as_ref(),
            "--quiet".as_ref(),
            "--no-tags".as_ref(),
            "--no-prune".as_ref(),
            "--no-write-fetch-head".as_ref(),
            "--no-recurse-submodules".as_ref(),
            "--no-auto-maintenance".as_ref(),
            self.file.as_os_str(),
            spec.as_ref(),
        ])?;
        Ok(())
    }

    /// Recreates the branch if the file contains it.
    pub(super) fn fetch_branch(&self, git: &Git, worktree: &Worktree) -> Result<(), WorktreeError> {
        let name = format!("refs/heads/{}", worktree.branch);
        if self.heads.contains(&name) {
            self.fetch(git, &name)?;
        }
        Ok(())
    }

    /// Applies the saved uncommitted changes to the new worktree without committing them.
    pub(super) fn unpack_changes(&self, git: &Git, worktree: &Worktree) -> Result<(), WorktreeError> {
        for name in self.heads.iter().filter(|name| name.starts_with(SAVED)) {
            self.fetch(git, name)?;
            let source = format!("--source={name}");
            git.at(&worktree.path)
                .run(["restore", &source, "--worktree", "--", ":/"])?;
            git.run(["update-ref", "-d", name])?;
        }
        Ok(())
    }
}
