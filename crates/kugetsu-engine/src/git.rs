//! The only code that runs git. git never prompts, always has a time limit, can be cancelled, and prints the same
//! messages in every locale.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::environment::Environment;
use crate::process::{self, Containment, GuardSpec, ProcessError, Sink};
use uuid::Uuid;

/// The time limit of one git command. Checking out a large repository takes longest.
const LIMIT: Duration = Duration::from_mins(10);
/// How long another git may leave a worktree incomplete.
const INCOMPLETE_LIMIT: Duration = Duration::from_secs(5);
/// The interval between checks of an incomplete worktree.
const INCOMPLETE_POLL: Duration = Duration::from_millis(20);
/// A monitor of the file system is a program that the clone's configuration names, and may be a daemon that stays.
const UNMONITORED: [&str; 2] = ["-c", "core.fsmonitor=false"];
/// How long a git that exceeded its limit has to end.
const GRACE: Duration = Duration::from_secs(2);

/// git failed, could not be run, took too long or was cancelled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("git {command} failed in {}: {problem}", .folder.display())]
pub struct GitError {
    /// The subcommand.
    pub command: String,
    /// The folder that git ran in.
    pub folder: PathBuf,
    /// git's message.
    pub problem: String,
    /// True if there is no git on `PATH`.
    pub missing: bool,
}

/// Runs git in the environment of a request. Can be cancelled.
#[derive(Clone, Debug, Default)]
pub(crate) struct GitRunner {
    environment: Environment,
    cancel: Cancel,
}

impl GitRunner {
    pub(crate) fn new(environment: Environment, cancel: Cancel) -> Self {
        Self { environment, cancel }
    }

    /// git in this folder.
    pub(crate) fn at(&self, folder: &Path) -> Git {
        Git {
            runner: self.clone(),
            folder: folder.to_owned(),
            limit: LIMIT,
            until: None,
            variables: Vec::new(),
            config: Vec::new(),
            stdin: Arc::from([]),
        }
    }
}

/// Runs git in one folder.
#[derive(Clone, Debug)]
pub(crate) struct Git {
    runner: GitRunner,
    folder: PathBuf,
    limit: Duration,
    /// The end of the time for all commands together.
    until: Option<Instant>,
    variables: Vec<(&'static str, OsString)>,
    config: Vec<&'static str>,
    stdin: Arc<[u8]>,
}

/// The output of git, and whether git exited with 0.
pub(crate) struct GitOutput {
    pub(crate) ok: bool,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl GitOutput {
    /// The output without its last line end.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout)
            .trim_end_matches('\n')
            .to_owned()
    }
}

impl Git {
    /// Runs git in another folder.
    pub(crate) fn at(&self, folder: &Path) -> Self {
        self.runner.at(folder)
    }

    /// The same, but not cancellable, for undoing the effects of a cancelled command.
    pub(crate) fn uncancellable(mut self) -> Self {
        self.runner.cancel = Cancel::default();
        self
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// The same with a setting of git, such as `core.splitIndex=false`.
    pub(crate) fn configured(mut self, setting: &'static str) -> Self {
        self.config.push(setting);
        self
    }

    /// The same with this input.
    pub(crate) fn reading(mut self, input: Vec<u8>) -> Self {
        self.stdin = input.into();
        self
    }

    /// The same in another folder.
    pub(crate) fn moved_to(&self, folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            ..self.clone()
        }
    }

    /// The same with a shorter time limit for all commands together, which begins now. For what may be left out.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self.until = Some(Instant::now() + limit);
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs git and accepts any exit status. Many commands read every worktree. If another git is just creating a
    /// worktree, its file `commondir` exists and is empty, and git fails on it but succeeds a moment later, so such a
    /// failure is retried.
    pub(crate) fn ask<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<GitOutput, GitError> {
        let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let end = Instant::now() + INCOMPLETE_LIMIT;
        let end = self.until.map_or(end, |until| until.min(end));
        loop {
            let output = self.ask_once(&args)?;
            let is_incomplete = !output.ok
                && error_line(&output.stderr).starts_with("failed to read ")
                && output.stderr.contains("/commondir");
            if !is_incomplete || Instant::now() >= end {
                return Ok(output);
            }
            std::thread::sleep(INCOMPLETE_POLL);
        }
    }

    fn ask_once(&self, args: &[OsString]) -> Result<GitOutput, GitError> {
        let cancelled = || self.error(args, "it was cancelled".to_owned());
        if self.runner.cancel.is_set() {
            return Err(cancelled());
        }
        let late = || self.error(args, format!("it did not end within {} s", self.limit.as_secs()));
        let left = self.until.map_or(self.limit, |until| {
            until.saturating_duration_since(Instant::now())
        });
        if left.is_zero() {
            return Err(late());
        }
        let ended = process::run_until_cancelled(self.spec(args), left, &self.runner.cancel);
        match ended {
            Ok(output) => Ok(GitOutput {
                ok: output.exit.success(),
                stdout: output.stdout,
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            }),
            Err(ProcessError::Cancelled { .. }) => Err(cancelled()),
            Err(ProcessError::Deadline { .. }) => Err(late()),
            Err(ProcessError::Start { not_found: true, .. }) if self.folder.is_dir() => Err(GitError {
                missing: true,
                ..self.error(args, "git is not installed, or not on PATH".to_owned())
            }),
            Err(ProcessError::Start { reason, .. }) => Err(self.error(args, reason)),
            Err(error) => Err(self.error(args, error.to_string())),
        }
    }

    /// Runs git under a guard. Any hardening against programs that a repository's configuration makes git run belongs
    /// here.
    fn spec(&self, args: &[OsString]) -> GuardSpec {
        let fixed = [
            ("LC_ALL", "C"),
            ("GIT_TERMINAL_PROMPT", "0"),
            // A read must not write into the index.
            ("GIT_OPTIONAL_LOCKS", "0"),
        ];
        let fixed = fixed.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let own = self.variables.iter();
        let own = own.map(|(name, value)| (OsString::from(name), value.clone()));
        // If one of git's hooks runs kugetsu, git has set variables that would lead our git to the wrong repository.
        let foreign = self.runner.environment.variables().map(|(name, _)| name);
        let foreign =
            foreign.filter(|name| name.as_encoded_bytes().starts_with(b"GIT_") && !is_of_user(name));
        let set_env: Vec<_> = fixed.into_iter().chain(own).collect();
        let set = |name: &OsString| set_env.iter().any(|(set, _)| set == name);
        GuardSpec {
            program: "git".into(),
            args: UNMONITORED
                .iter()
                .copied()
                .chain(self.config.iter().flat_map(|setting| ["-c", setting]))
                .map(OsString::from)
                .chain(args.iter().cloned())
                .collect(),
            cwd: self.folder.clone(),
            remove_env: foreign.filter(|name| !set(name)).cloned().collect(),
            set_env,
            stdin: Arc::clone(&self.stdin),
            sandbox: None,
            containment: Containment {
                guard_program: self.runner.environment.program().to_owned(),
                environment: self.runner.environment.clone(),
                mark: Uuid::now_v7(),
                grace: GRACE,
            },
            stdout: Sink::Piped,
            stderr: Sink::Piped,
        }
    }

    /// git as a program for a person's terminal, with the person's pager and editor. It has no time limit.
    pub(crate) fn on_terminal(&self, args: &[OsString]) -> tokio::process::Command {
        let spec = self.spec(args);
        let mut command = tokio::process::Command::new(&spec.program);
        command
            .args(&spec.args)
            .current_dir(&spec.cwd)
            .env_clear()
            .envs(self.runner.environment.variables());
        for name in &spec.remove_env {
            let is_pager = name.as_encoded_bytes().starts_with(b"GIT_PAGER");
            if !is_pager {
                command.env_remove(name);
            }
        }
        command.envs(spec.set_env);
        command
    }

    fn error(&self, args: &[OsString], problem: String) -> GitError {
        GitError {
            command: subcommand(args),
            folder: self.folder.clone(),
            problem,
            missing: false,
        }
    }

    /// Runs git; fails unless git exits with 0.
    pub(crate) fn run<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<GitOutput, GitError> {
        let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let output = self.ask(&args)?;
        if output.ok {
            return Ok(output);
        }
        Err(self.error(&args, error_line(&output.stderr)))
    }

    /// The error of a command with this error output.
    pub(crate) fn failed(&self, command: &str, stderr: &str) -> GitError {
        self.error(&[command.into()], error_line(stderr))
    }

    /// The commit that a name resolves to.
    pub(crate) fn commit(&self, name: &str) -> Result<Option<String>, GitError> {
        let name = format!("{name}^{{commit}}");
        let output = self.ask(["rev-parse", "--verify", "--quiet", "--end-of-options", &name])?;
        Ok(output.ok.then(|| output.text()))
    }

    /// The commit that a branch points to.
    pub(crate) fn branch(&self, name: &str) -> Result<Option<String>, GitError> {
        self.commit(&format!("refs/heads/{name}"))
    }

    /// The worktrees of this repository, the main one first.
    pub(crate) fn worktrees(&self) -> Result<Vec<Listed>, GitError> {
        let output = self.run(["worktree", "list", "--porcelain", "-z"])?;
        Ok(listed(&output.text()))
    }
}

/// One worktree in the output of `git worktree list`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) path: PathBuf,
    /// The branch without `refs/heads/`; none if the head is detached.
    pub(crate) branch: Option<String>,
    /// The reason of its lock, if it is locked.
    pub(crate) locked: Option<String>,
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

/// Whether a git variable is one of the user's own settings and leads to no repository.
fn is_of_user(name: &OsStr) -> bool {
    const OF_USER: [&str; 7] = [
        "GIT_ASKPASS",
        "GIT_AUTHOR_",
        "GIT_COMMITTER_",
        "GIT_CONFIG_",
        "GIT_EXEC_PATH",
        "GIT_SSH",
        "GIT_TRACE",
    ];
    name != "GIT_CONFIG_PARAMETERS"
        && OF_USER
            .iter()
            .any(|start| name.as_encoded_bytes().starts_with(start.as_bytes()))
}

/// git's subcommand, without arguments that would make a message long.
fn subcommand(args: &[OsString]) -> String {
    args.iter()
        .take(2)
        .map(|arg| arg.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Finds the line with the error. git prints it after `fatal:` or `error:`, with progress before it, at times on the
/// same line, and advice after it.
pub(crate) fn error_line(stderr: &str) -> String {
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
        .unwrap_or("it printed nothing")
        .to_owned()
}
