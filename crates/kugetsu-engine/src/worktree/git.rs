//! Running git: it never asks, never waits for ever, and says the same words in every locale.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::WorktreeError;

/// How long one git may take. Checking out a large repository is the longest of what is asked of it.
const LIMIT: Duration = Duration::from_mins(10);
/// How long another git's worktree may be half made.
const HALF_MADE: Duration = Duration::from_secs(5);

/// Set by a git that runs us from one of its hooks; they would lead ours to the wrong repository.
const FOREIGN: [&str; 9] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
];

/// git in one folder.
#[derive(Clone, Debug)]
pub(super) struct Git {
    folder: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

/// What git printed, and whether it was content.
pub(super) struct Said {
    pub(super) ok: bool,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

impl Said {
    /// The output without its last line end.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout)
            .trim_end_matches('\n')
            .to_owned()
    }
}

impl Git {
    pub(super) fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            environment: Vec::new(),
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs it, whatever it answers. Many commands look at every worktree, and another git may be making one at this
    /// moment, whose file `commondir` is there and empty: git gives up on it, and a moment later all is well.
    pub(super) fn ask<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Said, WorktreeError> {
        let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let end = Instant::now() + HALF_MADE;
        loop {
            let said = self.ask_once(&args)?;
            let half_made = !said.ok
                && last_words(&said.stderr).starts_with("failed to read ")
                && said.stderr.contains("/commondir");
            if !half_made || Instant::now() >= end {
                return Ok(said);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ask_once(&self, args: &[OsString]) -> Result<Said, WorktreeError> {
        let failed = |problem: String| WorktreeError::Git {
            command: command(args),
            folder: self.folder.clone(),
            problem,
        };
        let mut expression = duct::cmd("git", args);
        // In duct the innermost wins, so these are given before anything is taken away.
        for (name, value) in &self.environment {
            expression = expression.env(name, value);
        }
        expression = expression
            .dir(&self.folder)
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            // A look must not write into the index.
            .env("GIT_OPTIONAL_LOCKS", "0")
            .stdin_null()
            .stdout_capture()
            .stderr_capture()
            .unchecked();
        for name in FOREIGN {
            expression = expression.env_remove(name);
        }
        let handle = expression.start().map_err(|error| failed(error.to_string()))?;
        let output = match handle.wait_timeout(LIMIT) {
            Ok(Some(output)) => output,
            Ok(None) => {
                let _ = handle.kill();
                return Err(failed(format!("it did not end within {} s", LIMIT.as_secs())));
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        Ok(Said {
            ok: output.status.success(),
            stdout: output.stdout.clone(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it; an error unless it is content.
    pub(super) fn run<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Said, WorktreeError> {
        let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let said = self.ask(&args)?;
        if said.ok {
            return Ok(said);
        }
        Err(WorktreeError::Git {
            command: command(&args),
            folder: self.folder.clone(),
            problem: last_words(&said.stderr),
        })
    }

    /// The commit that a name stands for.
    pub(super) fn commit(&self, name: &str) -> Result<Option<String>, WorktreeError> {
        let name = format!("{name}^{{commit}}");
        let said = self.ask(["rev-parse", "--verify", "--quiet", "--end-of-options", &name])?;
        Ok(said.ok.then(|| said.text()))
    }

    /// The commit that a branch stands at.
    pub(super) fn branch(&self, name: &str) -> Result<Option<String>, WorktreeError> {
        self.commit(&format!("refs/heads/{name}"))
    }

    /// The worktrees of this repository, the main one first.
    pub(super) fn worktrees(&self) -> Result<Vec<Listed>, WorktreeError> {
        let said = self.run(["worktree", "list", "--porcelain", "-z"])?;
        Ok(listed(&said.text()))
    }
}

/// A line of `git worktree list`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) path: PathBuf,
    /// Without `refs/heads/`; none where the head is detached.
    pub(super) branch: Option<String>,
    /// Why it is locked.
    pub(super) locked: Option<String>,
}

fn listed(text: &str) -> Vec<Listed> {
    let mut all: Vec<Listed> = Vec::new();
    for field in text.split('\0') {
        let (word, rest) = field.split_once(' ').unwrap_or((field, ""));
        match (word, all.last_mut()) {
            ("worktree", _) => all.push(Listed {
                path: rest.into(),
                ..Listed::default()
            }),
            ("branch", Some(last)) => {
                last.branch = rest.strip_prefix("refs/heads/").map(str::to_owned);
            }
            ("locked", Some(last)) => last.locked = Some(rest.to_owned()),
            _ => {}
        }
    }
    all
}

/// Git's subcommand, without what would make the message long.
fn command(args: &[OsString]) -> String {
    args.iter()
        .take(2)
        .map(|arg| arg.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The line that says what is wrong: git puts it after `fatal:` or `error:`, progress before it, at times on the same
/// line, and advice behind it.
pub(super) fn last_words(stderr: &str) -> String {
    let lines = || {
        let lines = stderr.split(['\n', '\r']).map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with("hint:"))
    };
    lines()
        .find_map(|line| {
            line.strip_prefix("fatal: ")
                .or_else(|| line.strip_prefix("error: "))
        })
        .or_else(|| lines().next_back())
        .unwrap_or("it said nothing")
        .to_owned()
}
