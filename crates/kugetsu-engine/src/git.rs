//! The only code that runs git. git never prompts, always has a time limit, can be cancelled, prints the same messages
//! in every locale, and runs no program that a repository names.

mod glance;
mod inert;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::environment::Environment;
use crate::process::{self, Containment, GuardSpec, ProcessError, Sink};
pub(crate) use glance::linked_git_folder;
use inert::{Entry, Inert};
use uuid::Uuid;

/// The time limit of one git command. Checking out a large repository takes longest.
const LIMIT: Duration = Duration::from_mins(10);
/// The same for a command in [`QUICK`].
const QUICK_LIMIT: Duration = Duration::from_mins(1);
/// The commands that only read settings and names. Where one takes longer than a minute, something holds it. Those that
/// look at every file of a worktree, and may run the user's filters, are not among them, and neither are those that walk
/// the history, such as `for-each-ref --contains`, which takes long in a large clone on a slow disk.
const QUICK: [&[&str]; 8] = [
    &["--version"],
    &["check-ref-format"],
    &["config"],
    &["remote", "get-url"],
    &["rev-parse"],
    &["show-ref"],
    &["symbolic-ref"],
    &["worktree", "list"],
];
/// How long another git may leave a worktree incomplete.
const INCOMPLETE_LIMIT: Duration = Duration::from_secs(5);
/// The interval between checks of an incomplete worktree.
const INCOMPLETE_POLL: Duration = Duration::from_millis(20);
/// The most files that a repository's configuration may include under conditions.
const MAX_INCLUDED: usize = 64;
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

/// Runs git in the environment of a request. Can be cancelled. For one step of an operation: what a folder's
/// configuration says is read once, and the tools of a turn may change it.
#[derive(Clone, Debug, Default)]
pub(crate) struct GitRunner {
    environment: Environment,
    cancel: Cancel,
    /// By the folder that git runs in.
    inert: Arc<Mutex<HashMap<PathBuf, Arc<Inert>>>>,
}

impl GitRunner {
    pub(crate) fn new(environment: Environment, cancel: Cancel) -> Self {
        Self {
            environment,
            cancel,
            inert: Arc::default(),
        }
    }

    /// git in this folder.
    pub(crate) fn at(&self, folder: &Path) -> Git {
        Git {
            runner: self.clone(),
            folder: folder.to_owned(),
            limit: None,
            until: None,
            variables: Vec::new(),
            config: Vec::new(),
            stdin: Arc::from([]),
            other: None,
        }
    }
}

/// Runs git in one folder.
#[derive(Clone, Debug)]
pub(crate) struct Git {
    runner: GitRunner,
    folder: PathBuf,
    /// The time limit of each command, if it is not the usual one.
    limit: Option<Duration>,
    /// The end of the time for all commands together.
    until: Option<Instant>,
    variables: Vec<(&'static str, OsString)>,
    config: Vec<&'static str>,
    stdin: Arc<[u8]>,
    /// Another folder that the command works in.
    other: Option<PathBuf>,
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

    /// The same for a command that also works in another worktree of the repository.
    pub(crate) fn reaching(mut self, other: &Path) -> Self {
        self.other = Some(other.to_owned());
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
        self.limit = Some(limit);
        self.until = Some(Instant::now() + limit);
        self
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.runner.environment
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
        let mut inert = self.inert()?;
        if let Some(other) = &self.other {
            inert = Arc::new(inert.and(&*self.moved_to(other).inert()?));
        }
        self.ask_with(args, &inert)
    }

    /// The filters that only the repository's own configuration has. They do not run.
    pub(crate) fn unused_filters(&self) -> Result<Vec<String>, GitError> {
        Ok(self.inert()?.unused_filters.clone())
    }

    /// What keeps the configuration of this folder from running programs.
    fn inert(&self) -> Result<Arc<Inert>, GitError> {
        let known = || self.runner.inert.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inert) = known().get(&self.folder) {
            return Ok(Arc::clone(inert));
        }
        let inert = if glance::may_name_programs(&self.folder) {
            let environment = &self.runner.environment;
            let pager = environment.get("PAGER").unwrap_or("less".as_ref());
            Inert::against(&self.configuration()?, top_of(&self.folder), pager)
        } else {
            Inert::default()
        };
        let inert = Arc::new(inert);
        known().insert(self.folder.clone(), Arc::clone(&inert));
        Ok(inert)
    }

    /// All settings, also those that the repository includes under any condition: git may look at the condition again
    /// in another worktree or on another branch.
    fn configuration(&self) -> Result<Vec<Entry>, GitError> {
        let list = |more: &[&OsStr]| {
            let args = ["config", "--list", "--null"].map(OsString::from);
            let args: Vec<_> = args.into_iter().chain(more.iter().map(OsString::from)).collect();
            let output = self.ask_with(&args, &Inert::default())?;
            if !output.ok {
                return Err(self.error(&args, error_line(&output.stderr)));
            }
            Ok(output.stdout)
        };
        let top = top_of(&self.folder).unwrap_or(&self.folder);
        let environment = &self.runner.environment;
        let home = environment.get("HOME").map_or(environment.home(), Path::new);
        let mut entries = Entry::with_scopes(&list(&["--show-scope".as_ref(), "--show-origin".as_ref()])?);
        let mut files: Vec<_> = entries
            .iter()
            .filter_map(|entry| entry.included(top, home, false))
            .collect();
        let mut read = Vec::new();
        while let Some(file) = files.pop() {
            let file = file.map_err(|problem| self.error(&["config".into()], problem))?;
            if read.contains(&file) || !file.exists() {
                continue;
            }
            if read.len() == MAX_INCLUDED {
                let problem = format!("the configuration includes more than {MAX_INCLUDED} files");
                return Err(self.error(&["config".into()], problem));
            }
            let listed = list(&["--no-includes".as_ref(), "--file".as_ref(), file.as_os_str()])?;
            let more = Entry::in_file(&file, &listed);
            files.extend(more.iter().filter_map(|entry| entry.included(top, home, true)));
            entries.extend(more);
            read.push(file);
        }
        Ok(entries)
    }

    fn ask_with(&self, args: &[OsString], inert: &Inert) -> Result<GitOutput, GitError> {
        let cancelled = || self.error(args, "it was cancelled".to_owned());
        if self.runner.cancel.is_set() {
            return Err(cancelled());
        }
        let limit = self.limit.unwrap_or_else(|| limit_of(args));
        let late = || self.error(args, format!("it did not end within {} s", limit.as_secs()));
        let left = self
            .until
            .map_or(limit, |until| until.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(late());
        }
        let ended = process::run_until_cancelled(self.spec(args, inert), left, &self.runner.cancel);
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

    fn spec(&self, args: &[OsString], inert: &Inert) -> GuardSpec {
        let fixed = [
            ("LC_ALL", "C"),
            ("GIT_TERMINAL_PROMPT", "0"),
            // A read must not write into the index.
            ("GIT_OPTIONAL_LOCKS", "0"),
        ];
        let fixed = fixed.into_iter().chain(inert::VARIABLES);
        let fixed = fixed.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let own = inert.variables.iter().chain(&self.variables);
        let own = own.map(|(name, value)| (OsString::from(name), value.clone()));
        let settings = self.numbered(&inert.settings);
        // If one of git's hooks runs kugetsu, git has set variables that would lead our git to the wrong repository.
        let foreign = self.runner.environment.variables().map(|(name, _)| name);
        let foreign =
            foreign.filter(|name| name.as_encoded_bytes().starts_with(b"GIT_") && !is_of_user(name));
        let set_env: Vec<_> = fixed.chain(own).chain(settings).collect();
        let set = |name: &OsString| set_env.iter().any(|(set, _)| set == name);
        GuardSpec {
            program: "git".into(),
            args: inert::SETTINGS
                .iter()
                .chain(&self.config)
                .flat_map(|setting| ["-c", setting])
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
                cgroup: false,
                limits: None,
            },
            stdout: Sink::Piped,
            stderr: Sink::Piped,
        }
    }

    /// Settings as variables, after those that the user's environment has. As an argument, a filter's name could not
    /// have a `=` in it, and everybody could read the value.
    fn numbered(&self, settings: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
        let first = self.runner.environment.get("GIT_CONFIG_COUNT");
        let first = first.and_then(|count| count.to_str()?.parse().ok());
        let first: usize = first.unwrap_or_default();
        if settings.is_empty() {
            return Vec::new();
        }
        let count = (first + settings.len()).to_string();
        let pairs = settings.iter().zip(first..).flat_map(|((key, value), number)| {
            [
                (format!("GIT_CONFIG_KEY_{number}").into(), key.clone()),
                (format!("GIT_CONFIG_VALUE_{number}").into(), value.clone()),
            ]
        });
        pairs.chain([("GIT_CONFIG_COUNT".into(), count.into())]).collect()
    }

    /// git as a program for a person's terminal, with the person's pager. It has no time limit.
    pub(crate) fn on_terminal(&self, args: &[OsString]) -> Result<tokio::process::Command, GitError> {
        let spec = self.spec(args, &*self.inert()?);
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
        Ok(command)
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

    /// The top of the clone or worktree that this folder is in, as git sees it.
    pub(crate) fn top(&self) -> Result<Option<PathBuf>, GitError> {
        let output = self.ask(["rev-parse", "--show-toplevel"])?;
        let text = output.text();
        Ok((output.ok && !text.is_empty()).then(|| text.into()))
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

/// The folder that holds `.git`: the top of the clone or worktree that this folder is in. Unlike [`Git::top`], it runs
/// nothing and takes any `.git` for one that git accepts.
pub(crate) fn top_of(folder: &Path) -> Option<&Path> {
    folder
        .ancestors()
        .find(|folder| folder.join(".git").symlink_metadata().is_ok())
}

/// Whether a git variable is one of the user's own settings and leads to no repository.
fn is_of_user(name: &OsStr) -> bool {
    const OF_USER: [&str; 11] = [
        "GIT_ALLOW_PROTOCOL",
        "GIT_ASKPASS",
        "GIT_AUTHOR_",
        "GIT_COMMITTER_",
        "GIT_CONFIG_",
        "GIT_EXEC_PATH",
        "GIT_HTTP_",
        "GIT_NO_LAZY_FETCH",
        "GIT_SSH",
        "GIT_SSL_",
        "GIT_TRACE",
    ];
    name != "GIT_CONFIG_PARAMETERS"
        && OF_USER
            .iter()
            .any(|start| name.as_encoded_bytes().starts_with(start.as_bytes()))
}

/// The usual time limit of a command.
fn limit_of(args: &[OsString]) -> Duration {
    let begins = |quick: &&[&str]| {
        let words = args.iter().take(quick.len());
        words.eq(quick.iter())
    };
    if QUICK.iter().any(begins) {
        QUICK_LIMIT
    } else {
        LIMIT
    }
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

#[cfg(test)]
mod tests {
    use super::{LIMIT, QUICK_LIMIT, limit_of};

    #[test]
    fn commands_that_look_at_every_file_or_walk_the_history_have_much_time() {
        for (args, limit) in [
            (["config", "--list"], QUICK_LIMIT),
            (["rev-parse", "HEAD"], QUICK_LIMIT),
            (["worktree", "list"], QUICK_LIMIT),
            (["remote", "get-url"], QUICK_LIMIT),
            (["for-each-ref", "--contains=HEAD"], LIMIT),
            (["log", "--format=%H"], LIMIT),
            (["merge-base", "--is-ancestor"], LIMIT),
            (["rev-list", "--count"], LIMIT),
            (["remote", "update"], LIMIT),
            (["status", "--porcelain"], LIMIT),
            (["worktree", "add"], LIMIT),
            (["rebase", "main"], LIMIT),
        ] {
            assert_eq!(limit_of(&args.map(Into::into)), limit, "{args:?}");
        }
        assert_eq!(limit_of(&[]), LIMIT);
    }
}
