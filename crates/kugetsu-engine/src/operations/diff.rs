//! `diff`: what a session has changed since it began, in its worktree or clone.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::sync::watch;

use super::interrupts::Interrupts;
use super::{Engine, EngineError};
use crate::aside::aside;
use crate::changes::{ChangesError, Reading, Scratch, naming_new_files, new_files};
use crate::git::{Git, GitError, top_of};
use crate::turn::Interrupt;
use crate::upstream::later_start;
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
    /// Holds the index that git reads.
    _scratch: Scratch,
}

impl DiffView {
    /// Starts git on the stdout of this process.
    pub fn start(&self) -> std::io::Result<tokio::process::Child> {
        let command = self.git.on_terminal(&self.args);
        command.map_err(std::io::Error::other)?.spawn()
    }

    /// Starts git without colours, with its output in a pipe and made for a terminal with this number of columns.
    pub fn start_piped(&self, columns: usize) -> std::io::Result<std::process::Child> {
        let mut args = self.args.clone();
        args.insert(1, "--no-color".into());
        let mut command = self.git.on_terminal(&args).map_err(std::io::Error::other)?;
        command
            .env("COLUMNS", columns.to_string())
            .stdout(Stdio::piped())
            .as_std_mut()
            .spawn()
    }

    /// The person's pager, which reads from a pipe and writes to the stdout of this process. As with git, the variables
    /// `GIT_PAGER` and `PAGER` and the person's own configuration choose it; that of the repository does not.
    pub fn pager(&self) -> tokio::process::Command {
        const DEFAULT: &str = "if command -v less > /dev/null; then exec less; else exec cat; fi";
        let environment = self.git.environment();
        let variable = |name: &str| {
            let found = environment.variables().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone())
        };
        let configured = || {
            let asked = self.git.ask(["config", "--global", "--get", "core.pager"]).ok()?;
            asked.ok.then(|| OsString::from(asked.text()))
        };
        let chosen = variable("GIT_PAGER")
            .or_else(configured)
            .or_else(|| variable("PAGER"));
        let program = match chosen {
            Some(chosen) if chosen.is_empty() => "cat".into(),
            Some(chosen) => chosen,
            None => DEFAULT.into(),
        };
        let mut command = tokio::process::Command::new("/bin/sh");
        command.arg("-c").arg(program).stdin(Stdio::piped());
        command.env_clear().envs(environment.variables());
        for (name, value) in [("LESS", "FRX"), ("LV", "-c")] {
            if variable(name).is_none() {
                command.env(name, value);
            }
        }
        command
    }
}

impl Engine {
    /// The difference between the commit that the session began at and its files now, new files included. If the session
    /// was rebased onto newer commits of others or has merged them, the difference begins there. An interrupt ends the
    /// preparation and leaves nothing behind.
    pub async fn diff(
        &self,
        address: &Address,
        form: DiffForm,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<DiffView, EngineError> {
        let mut interrupts = interrupts.into();
        let scratch = scratch(&mut interrupts).await?;
        let (address, folder) = (address.clone(), scratch.path().to_owned());
        let prepare = move |engine: &Self| engine.prepare_diff(&address, form, &folder);
        let (git, args) = self.interruptible(&mut interrupts, prepare).await?;
        Ok(DiffView {
            git,
            args,
            _scratch: scratch,
        })
    }

    fn prepare_diff(
        &self,
        address: &Address,
        form: DiffForm,
        scratch: &Path,
    ) -> Result<(Git, Vec<OsString>), EngineError> {
        let record = self.record(address)?;
        let (git, from) = self.beginning(&record)?;
        let new = new_files(&git)?;
        let new = new.iter().map(PathBuf::as_path);
        let git =
            naming_new_files(&git, git.folder(), scratch, new).map_err(|error| unknown(&record, error))?;
        let shown = match form {
            DiffForm::Patch => "--patch",
            DiffForm::Stat => "--stat",
            DiffForm::Names => "--name-only",
        };
        let args = [
            "diff",
            "--no-ext-diff",
            "--no-textconv",
            "--submodule=short",
            "--ignore-submodules=dirty",
            shown,
            &from,
            "--",
        ];
        Ok((git, args.map(OsString::from).to_vec()))
    }

    /// The changes since the session began, as [`Engine::diff`] would show them.
    pub async fn changes_since_start(
        &self,
        address: &Address,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<Changes, EngineError> {
        let mut interrupts = interrupts.into();
        let scratch = scratch(&mut interrupts).await?;
        let (address, folder) = (address.clone(), scratch.path().to_owned());
        let compare = move |engine: &Self| {
            let record = engine.record(&address)?;
            let (git, from) = engine.beginning(&record)?;
            let compared =
                Reading::of_commit(git.folder(), &from).compare(&git, &folder, record.worktree.as_ref());
            compared.map_err(|error| unknown(&record, error))
        };
        self.interruptible(&mut interrupts, compare).await
    }

    /// git at the top of the session's clone, and the commit that its difference begins at.
    fn beginning(&self, record: &SessionRecord) -> Result<(Git, String), EngineError> {
        let start = start_of(record)?;
        let top = top_of(&record.directory).ok_or_else(|| no_clone(record))?;
        let git = self.git().at(top);
        // Only what is a commit may become an argument of git.
        let from = git.commit(&start)?.ok_or_else(|| GitError {
            command: "diff".to_owned(),
            folder: top.to_owned(),
            problem: format!("the commit `{start}` that the session began at is not there"),
            missing: false,
        })?;
        let from = later_start(&git, from, record.worktree.as_ref());
        Ok((git, from))
    }
}

async fn scratch(interrupts: &mut Interrupts) -> Result<Scratch, EngineError> {
    let made = interrupts.or(aside(Scratch::temporary)).await?;
    made.map_err(EngineError::TemporaryFile)
}

/// Why the changes of a session are unknown.
fn unknown(record: &SessionRecord, error: ChangesError) -> EngineError {
    let folder = || record.directory.clone();
    match error {
        ChangesError::Git(error) => error.into(),
        ChangesError::File(error) => EngineError::TemporaryFile(std::io::Error::other(error)),
        ChangesError::Temporary(error) => EngineError::TemporaryFile(error),
        ChangesError::NoClone(_) => no_clone(record),
        error @ (ChangesError::TooMany(_) | ChangesError::OtherClone { .. }) => EngineError::Git(GitError {
            command: "status".to_owned(),
            folder: folder(),
            problem: error.to_string(),
            missing: false,
        }),
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
