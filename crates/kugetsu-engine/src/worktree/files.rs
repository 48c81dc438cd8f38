//! Untracked files that a worktree needs, such as `opencode.json`.
//!
//! A file that already exists in the worktree, because git tracks it or someone created it, stays as it is.

use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use super::WorktreeError;
use crate::fsx::{self, FsError};
use kugetsu_api::Worktree;

/// Suffix of an incomplete copy.
const PARTIAL: &str = ".kugetsu-partial";

/// The paths, below the clone's top folder, to copy or link into a new worktree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    copy: Vec<PathBuf>,
    link: Vec<PathBuf>,
}

impl Extras {
    /// Takes the paths to copy and the paths to link; see [`parse_extra`].
    pub fn new(copy: Vec<PathBuf>, link: Vec<PathBuf>) -> Self {
        Self { copy, link }
    }

    /// Copies and links the files that exist in the clone into the worktree.
    pub fn bring(&self, worktree: &Worktree) -> Result<(), WorktreeError> {
        for path in &self.copy {
            if let Some((from, to)) = prepare(worktree, path)? {
                let mut partial = to.clone().into_os_string();
                partial.push(PARTIAL);
                let partial = PathBuf::from(partial);
                fsx::remove_dir_all_durable(&partial).or_else(|_| fsx::remove_file_durable(&partial))?;
                copy(&from, &partial)?;
                fsx::rename_durable(&partial, &to)?;
            }
        }
        for path in &self.link {
            if let Some((from, to)) = prepare(worktree, path)? {
                symlink(&from, &to).map_err(|error| io("link", &to, error))?;
            }
        }
        Ok(())
    }

    /// Whether an untracked file of the worktree came from the clone and has not changed since.
    pub(super) fn is_unchanged_extra(&self, worktree: &Worktree, file: &Path) -> bool {
        let listed = |list: &[PathBuf]| list.iter().any(|path| file.starts_with(path));
        let (from, to) = (worktree.repo_dir.join(file), worktree.path.join(file));
        if listed(&self.link) && std::fs::read_link(&to).is_ok_and(|target| target == from) {
            return true;
        }
        listed(&self.copy) && same(&from, &to)
    }
}

/// Parses the path of an untracked file below the top folder of a clone.
pub fn parse_extra(path: &str) -> Result<PathBuf, String> {
    let parts = Path::new(path);
    let plain = parts
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if plain && !parts.starts_with(".git") {
        // Collected from components, so that a trailing `/` has no effect.
        return Ok(parts.components().collect());
    }
    Err(format!("`{path}` is not a path below the top of a clone"))
}

/// The source and the destination, if the source exists and the destination does not.
fn prepare(worktree: &Worktree, path: &Path) -> Result<Option<(PathBuf, PathBuf)>, WorktreeError> {
    let (from, to) = (worktree.repo_dir.join(path), worktree.path.join(path));
    if to.symlink_metadata().is_ok() || !from.exists() {
        return Ok(None);
    }
    let parent = to.parent().unwrap_or(&worktree.path);
    fsx::create_dir_all_durable(&worktree.path, parent)?;
    Ok(Some((from, to)))
}

fn copy(from: &Path, to: &Path) -> Result<(), WorktreeError> {
    // A link at the top is followed; a link inside a folder is copied as a link.
    let from = from.canonicalize().map_err(|error| io("read", from, error))?;
    copy_entry(&from, to)
}

fn copy_entry(from: &Path, to: &Path) -> Result<(), WorktreeError> {
    let meta = from.symlink_metadata().map_err(|error| io("read", from, error))?;
    if meta.is_symlink() {
        let target = std::fs::read_link(from).map_err(|error| io("read", from, error))?;
        return symlink(target, to).map_err(|error| io("link", to, error).into());
    }
    if meta.is_dir() {
        fsx::create_dir_all_durable(to.parent().unwrap_or(to), to)?;
        let entries = std::fs::read_dir(from).map_err(|error| io("read the folder", from, error))?;
        for entry in entries {
            let name = entry
                .map_err(|error| io("read the folder", from, error))?
                .file_name();
            copy_entry(&from.join(&name), &to.join(&name))?;
        }
    } else {
        fsx::copy_durable(from, to)?;
    }
    let permissions = meta.permissions();
    std::fs::set_permissions(to, permissions).map_err(|error| io("give permissions to", to, error).into())
}

fn same(one: &Path, other: &Path) -> bool {
    let kind = |path: &Path| path.symlink_metadata().map(|meta| meta.file_type());
    match (kind(one), kind(other)) {
        (_, Ok(found)) if found.is_symlink() => std::fs::read_link(one)
            .and_then(|first| Ok(first == std::fs::read_link(other)?))
            .unwrap_or(false),
        (Ok(_), Ok(found)) if found.is_file() => std::fs::read(one)
            .and_then(|first| Ok(first == std::fs::read(other)?))
            .unwrap_or(false),
        _ => false,
    }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> FsError {
    FsError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
