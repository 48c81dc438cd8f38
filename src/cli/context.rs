//! The context of a command, read once from the environment.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use directories::BaseDirs;

use super::CommandError;
use super::detached::Detached;
use kugetsu_api::{Address, ErrorCode, RefContext, RepoRef};
use kugetsu_engine::duration::{parse_duration, parse_time_limit};
use kugetsu_engine::operations::{CloneRepo, Engine, EngineError, Environment, Subject};
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
            Some(reference) => Subject::Session(context.address(reference)?),
            None => Subject::Base(context.base_repo(self.repo.as_deref())?),
        })
    }
}

/// The context of a verb.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) engine: Engine,
    /// kugetsu's home.
    pub(super) home: PathBuf,
    pub(super) here: PathBuf,
    /// The command line, with the name of the program.
    pub(super) arguments: Vec<OsString>,
    /// Set if this process supervises a detached turn.
    pub(super) detached: Option<Detached>,
    /// Why the defaults are used instead of the settings.
    pub(super) invalid_settings: Option<SettingsError>,
    /// The session's address, or the base's repository, that the command line names.
    named: OnceCell<String>,
    /// The repository of the clone that contains the current directory, once a reference has needed it.
    clone: OnceCell<Option<CloneRepo>>,
}

impl Context {
    /// With `tolerant`, the defaults replace invalid settings, and [`Context::invalid_settings`] has the error.
    pub(super) fn from_environment(tolerant: bool) -> Result<Self, CommandError> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(point) = variable("KUGETSU_CRASH_AT") {
            // For tests of what a `kill -9` at this point leaves behind.
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
                "change to a directory that exists",
            )
        })?;
        // A relative home must stay the same folder when a turn runs in another directory.
        let home = here.join(home);
        kugetsu_engine::refuse_shared_home(&home).map_err(EngineError::from)?;
        let environment = Environment::new(
            std::env::vars_os(),
            user_home.unwrap_or_else(|| PathBuf::from("/")),
            own_program(),
        );
        let (settings, invalid_settings) = match Settings::load(&home.join("config.toml"), &environment) {
            Ok(settings) => (settings, None),
            Err(error) if tolerant => {
                let of_variables =
                    |variables: &Environment| Settings::load(Path::new("/dev/null"), variables);
                let settings =
                    of_variables(&environment).or_else(|_| of_variables(&Environment::default()))?;
                (settings, Some(error))
            }
            Err(error) => return Err(unusable(&home, error)),
        };
        let engine = Engine::open(home.clone(), settings, environment).for_one_turn();
        let enclosing = engine.enclosing_turn();
        Ok(Self {
            engine: engine.within(enclosing),
            home,
            here,
            arguments: Vec::new(),
            detached: None,
            invalid_settings,
            named: OnceCell::new(),
            clone: OnceCell::new(),
        })
    }

    /// Parses a reference. Asks git for the clone's repository only if the reference needs it.
    pub(super) fn address(&self, text: &str) -> Result<Address, CommandError> {
        let address = self.parse(text)?;
        self.set_subject(&address);
        Ok(address)
    }

    fn parse(&self, text: &str) -> Result<Address, CommandError> {
        Ok(Address::parse(
            text,
            &self.ref_context(Address::needs_clone(text))?,
        )?)
    }

    /// Parses several references; each address comes once.
    pub(super) fn addresses(&self, texts: &[String]) -> Result<Vec<Address>, CommandError> {
        let mut addresses = Vec::new();
        for text in texts {
            let address = self.parse(text)?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if let [one] = addresses.as_slice() {
            self.set_subject(one);
        }
        Ok(addresses)
    }

    /// Sets the subject of errors that name no subject themselves.
    fn set_subject(&self, subject: &impl ToString) {
        self.named.get_or_init(|| subject.to_string());
    }

    /// Adds to an error the subject from the command line, and the session that may be meant if there is none.
    pub(super) fn with_subject(&self, error: CommandError) -> CommandError {
        let Some(subject) = self.named.get() else {
            return error;
        };
        let other = (error.code() == ErrorCode::NoSession).then(|| self.session_of_origin(subject));
        let error = error.about(subject);
        match other.flatten() {
            Some((other, remote)) => error.hint(format!(
                "{other} has one, from when `origin` named the repository and not `{remote}`: write it in full"
            )),
            None => error,
        }
    }

    /// The session that an address would mean if `origin` named the clone's repository, and the remote that names it
    /// instead.
    pub(super) fn session_of_origin(&self, address: &str) -> Option<(Address, &str)> {
        let clone = self.unusual_clone()?;
        let rest = address.strip_prefix(&clone.repo.to_string())?;
        if !rest.starts_with(['#', '~']) {
            return None;
        }
        let origin = self.engine.repository_of_remote(&self.here, "origin").ok()??;
        let other = Address::parse(&format!("{origin}{rest}"), &RefContext::default()).ok()?;
        let record = self.engine.find(&other).ok().flatten()?;
        (other.to_string() != address && record.session.is_some()).then_some((other, &clone.remote))
    }

    /// The repository of the base that a command with `--base` means.
    pub(super) fn base_repo(&self, flag: Option<&str>) -> Result<RepoRef, CommandError> {
        let repo = self.repo(flag)?;
        self.set_subject(&repo);
        Ok(repo)
    }

    /// The repository of a command without a reference: the flag's, or else that of the clone.
    pub(super) fn repo(&self, flag: Option<&str>) -> Result<RepoRef, CommandError> {
        if let Some(text) = flag {
            return Ok(RepoRef::parse(text, &self.ref_context(false)?)?);
        }
        self.clone_repo()?.map(|clone| clone.repo).ok_or_else(|| {
            CommandError::usage(
                "this folder is not in a clone with a remote, so the repository is not known",
                "name it: --repo instance/owner/repo",
            )
        })
    }

    /// The repository of the clone that contains the current directory.
    pub(super) fn clone_repo(&self) -> Result<Option<CloneRepo>, CommandError> {
        if let Some(known) = self.clone.get() {
            return Ok(known.clone());
        }
        let found = self.engine.repository_of(&self.here)?;
        Ok(self.clone.get_or_init(|| found).clone())
    }

    /// The repository of the clone, if a reference of this command was completed by another remote than `origin`.
    pub(super) fn unusual_clone(&self) -> Option<&CloneRepo> {
        let clone = self.clone.get()?.as_ref();
        clone.filter(|clone| clone.remote != "origin")
    }

    fn ref_context(&self, needs_clone: bool) -> Result<RefContext, CommandError> {
        let clone = if needs_clone { self.clone_repo()? } else { None };
        Ok(RefContext {
            default_instance: self.engine.settings().instance.clone(),
            origin: clone.map(|clone| clone.repo),
        })
    }
}

/// The error for unusable settings. The settings file is the first file that is opened in the home, so this error also
/// reports a home that is not a folder.
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

/// The path of kugetsu's own program. `/proc/self/exe` stays valid while a new version replaces the running one.
pub(super) fn own_program() -> PathBuf {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() {
        return link;
    }
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("kugetsu"))
}

/// Parses a limit of time on the command line.
pub(super) fn time_limit(text: &str) -> Result<std::time::Duration, String> {
    parse_time_limit(text)
}

/// Parses a duration on the command line.
pub(super) fn duration(text: &str) -> Result<std::time::Duration, String> {
    parse_duration(text)
}
