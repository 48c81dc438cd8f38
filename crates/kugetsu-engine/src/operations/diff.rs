//! `diff`: what a session has changed since it began, in its worktree or clone.

use std::ffi::OsString;

use tempfile::TempDir;

use super::{Engine, EngineError};
use crate::changes::{Reading, top_of};
use crate::git::{Git, GitError};
use kugetsu_api::{Address, Changes, ErrorCode, SessionRecord};

/// What git shows of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiffForm {
    /// The changed lines.
    Patch,
    /// The number of changed lines in each file.
    Stat,
    /// The names of the changed files.
    Names,
}

/// A difference that git can show on a person's terminal.
#[derive(Debug)]
pub struct DiffView {
    git: Git,
    args: Vec<OsString>,
    /// Holds a copy of git's index that names the new files as well, so that they are in the difference. The clone's
    /// own index stays as it is.
    _index: TempDir,
}

impl DiffView {
    /// Starts git on this terminal, with git's own pager and colours.
    pub fn start(&self) -> std::io::Result<tokio::process::Child> {
        self.git.on_terminal(&self.args).spawn()
    }
}

impl Engine {
    /// The difference between the commit that the session began at and its files now, new files included.
    pub fn diff(&self, address: &Address, form: DiffForm) -> Result<DiffView, EngineError> {
        let record = self.record(address)?;
        let from = start_of(&record)?;
        let top = top_of(&record.directory).ok_or_else(|| no_clone(&record))?;
        let git = self.git().at(top);
        let failed = EngineError::Git;
        let folder = TempDir::with_prefix("kugetsu-diff-").map_err(EngineError::TemporaryFile)?;
        let index = folder.path().join("index");
        let own_index = git.run(["rev-parse", "--git-path", "index"]).map_err(failed)?;
        let own_index = top.join(own_index.text());
        if own_index.is_file() {
            std::fs::copy(own_index, &index).map_err(EngineError::TemporaryFile)?;
        }
        let git = git.with("GIT_INDEX_FILE", index);
        git.run(["add", "--intent-to-add", "--all"]).map_err(failed)?;
        let shown = match form {
            DiffForm::Patch => "--patch",
            DiffForm::Stat => "--stat",
            DiffForm::Names => "--name-only",
        };
        let args = ["diff", "--no-ext-diff", "--no-textconv", shown, &from, "--"];
        Ok(DiffView {
            git,
            args: args.map(OsString::from).to_vec(),
            _index: folder,
        })
    }

    /// The changes since the session began.
    pub fn changes_since_start(&self, address: &Address) -> Result<Changes, EngineError> {
        let record = self.record(address)?;
        let from = start_of(&record)?;
        let reading = Reading::of_commit(&record.directory, &from).ok_or_else(|| no_clone(&record))?;
        let compared = reading.compare(&self.git().at(&record.directory));
        let changes = compared.map_err(EngineError::Git)?;
        changes.ok_or_else(|| {
            EngineError::Git(GitError {
                command: "status".to_owned(),
                folder: record.directory,
                problem: "it names too many files".to_owned(),
                missing: false,
            })
        })
    }
}

/// The commit that the session began at.
fn start_of(record: &SessionRecord) -> Result<String, EngineError> {
    let worktree = record.worktree.as_ref().map(|worktree| &worktree.base_commit);
    let commit = worktree.or(record.start_commit.as_ref());
    commit.cloned().ok_or_else(|| no_clone(record))
}

fn no_clone(record: &SessionRecord) -> EngineError {
    EngineError::NotFound {
        code: ErrorCode::NotFound,
        problem: format!(
            "it is not known what {} changed: its turns ran in no git clone, or with an older kugetsu",
            record.address
        ),
        hint: format!("see its files: {}", record.directory.display()),
    }
}
