//! What the environment tells, read once.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use clap::Args;
use directories::BaseDirs;

use super::CommandError;
use super::detached::Detached;
use kugetsu_api::{Address, ErrorCode, RefContext, RepoRef};
use kugetsu_engine::duration::parse_duration;
use kugetsu_engine::operations::{Engine, Environment, Subject};
use kugetsu_engine::settings::{Settings, SettingsError};

/// A session, or a base.
#[derive(Debug, Args)]
pub(super) struct IssueOrBase {
    /// The session; not with --base
    #[arg(value_name = "REF", required_unless_present = "base", conflicts_with = "base")]
    reference: Option<String>,

    /// The base of the clone's repository instead of a session
    #[arg(long)]
    base: bool,

    /// The base of this repository
    #[arg(long, value_name = "[INSTANCE/]OWNER/REPO", requires = "base")]
    repo: Option<String>,
}

impl IssueOrBase {
    pub(super) fn subject(&self, context: &Context) -> Result<Subject, CommandError> {
        Ok(match &self.reference {
            Some(reference) => Subject::Issue(context.address(reference)?),
            None => {
                let repo = context.repo(self.repo.as_deref())?;
                context.concerns(&repo);
                Subject::Base(repo)
            }
        })
    }

    /// The same again, as it is typed.
    pub(super) fn typed(&self) -> String {
        match (&self.reference, &self.repo) {
            (Some(reference), _) => reference.clone(),
            (None, Some(repo)) => format!("--base --repo {repo}"),
            (None, None) => "--base".to_owned(),
        }
    }
}

/// All that a verb needs.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) engine: Engine,
    pub(super) here: PathBuf,
    /// This process supervises a detached turn.
    pub(super) detached: Option<Detached>,
    /// The issue, or the repository of a base, that the command line names.
    named: OnceCell<String>,
}

impl Context {
    pub(super) fn from_environment() -> Result<Self, CommandError> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(point) = variable("KUGETSU_CRASH_AT") {
            // For tests that prove what a `kill -9` at this point leaves behind.
            kugetsu_engine::set_crash_point(&point.to_string_lossy())
                .map_err(|problem| CommandError::usage(format!("KUGETSU_CRASH_AT: {problem}"), "unset it"))?;
        }
        let user_home = BaseDirs::new().map(|dirs| dirs.home_dir().to_owned());
        let home = variable("KUGETSU_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(user_home.as_ref()?.join(".kugetsu")))
            .ok_or_else(|| {
                CommandError::new(
                    ErrorCode::StoreUnwritable,
                    "there is no home folder to keep sessions in",
                )
                .hint("set KUGETSU_HOME to a folder of your own")
            })?;
        let here = std::env::current_dir().map_err(|error| {
            CommandError::usage(
                format!("the current directory cannot be used: {error}"),
                "change into one that exists",
            )
        })?;
        // A relative home must mean the same folder when a turn runs elsewhere.
        let home = here.join(home);
        let environment = Environment::new(
            std::env::vars_os(),
            user_home.unwrap_or_else(|| PathBuf::from("/")),
            own_program(),
        );
        let settings = Settings::load(&home.join("config.toml"), &environment)
            .map_err(|error| unusable(&home, error))?;
        Ok(Self {
            engine: Engine::open(home, settings, environment).for_one_turn(),
            here,
            detached: None,
            named: OnceCell::new(),
        })
    }

    /// Reads a reference; asks git for the clone's origin only where the reference needs it.
    pub(super) fn address(&self, text: &str) -> Result<Address, CommandError> {
        let context = self.ref_context(Address::needs_clone(text));
        let address = Address::parse(text, &context)?;
        self.concerns(&address);
        Ok(address)
    }

    /// An error of the command is about this, where it names nothing itself.
    fn concerns(&self, subject: &impl ToString) {
        self.named.get_or_init(|| subject.to_string());
    }

    /// The error, about what the command line names.
    pub(super) fn complete(&self, error: CommandError) -> CommandError {
        match self.named.get() {
            Some(subject) => error.about(subject),
            None => error,
        }
    }

    /// The repository that is meant without a reference: the flag, else the clone's origin.
    pub(super) fn repo(&self, flag: Option<&str>) -> Result<RepoRef, CommandError> {
        if let Some(text) = flag {
            return Ok(RepoRef::parse(text, &self.ref_context(false))?);
        }
        match self.engine.origin_of(&self.here) {
            Some(origin) => Ok(origin?),
            None => Err(CommandError::usage(
                "this folder is not in a clone with an `origin`, so the repository is not known",
                "say it: --repo instance/owner/repo",
            )),
        }
    }

    fn ref_context(&self, with_origin: bool) -> RefContext {
        RefContext {
            default_instance: self.engine.settings().instance.clone(),
            origin: with_origin
                .then(|| self.engine.origin_of(&self.here)?.ok())
                .flatten(),
        }
    }
}

/// The file of settings is the first thing that is opened in the home, so this tells of a home that is no folder.
fn unusable(home: &Path, error: SettingsError) -> CommandError {
    match error {
        SettingsError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotADirectory => {
            let message = format!("KUGETSU_HOME, {}, is not a folder", home.display());
            CommandError::new(ErrorCode::StoreUnwritable, message)
                .hint("set KUGETSU_HOME to a folder of your own")
        }
        other => other.into(),
    }
}

/// `/proc/self/exe` stays right while a new version is installed over the running one.
pub(super) fn own_program() -> PathBuf {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() {
        return link;
    }
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("kugetsu"))
}

/// A length of time on the command line.
pub(super) fn duration(text: &str) -> Result<std::time::Duration, String> {
    parse_duration(text)
}
