//! Finding opencode, its version and its database.
//!
//! Measured on 1.3.2 and 1.18.33: `--version` and `db path` take 0.9 to 2 s each, so both run at once. A cache file
//! keeps their results, keyed by the binary (path, size, mtime) and by the environment that decides where the database
//! is. npm installs 1.3.2 as a node script that finds the platform's binary and waits for it. kugetsu finds that binary
//! itself, which saves the start of node at every turn. In the package of 1.18.33, the binary itself is in the script's
//! place.

mod cache;
mod locate;
mod version;

#[cfg(test)]
pub(crate) use locate::find;
pub use version::Version;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::DatabaseFile;
use crate::cancel::Cancel;
use crate::environment::Environment;
use crate::process::sandbox::Sandbox;
use crate::process::{self, Containment, Exit, GuardSpec, Output, ProcessError, Sink};

/// How long `--version` and `db path` may take.
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// How long an update may have the program open for writing.
const BUSY_LIMIT: Duration = Duration::from_millis(500);
/// The oldest version that is tested. Measured: 1.2.1 has no `opencode db path`, and 1.2.4 no `opencode session delete`.
const OLDEST: Version = Version::new(1, 3, 2);
/// The first version that may run plugins of a project that it is told to ignore. Measured: 1.3.2 does not, 1.18.33 does;
/// nothing between them was measured, and nothing after them is known to be better.
const RUNS_IGNORED_PLUGINS: Version = Version::new(1, 4, 0);
/// The first version that kugetsu does not support.
const TOO_NEW: Version = Version::new(2, 0, 0);

/// A usable opencode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opencode {
    /// The program to run.
    pub program: PathBuf,
    /// The version that the program reports.
    pub version: Version,
    /// The database with its sessions. The file may not exist yet.
    pub database: PathBuf,
    /// True if `program` is npm's node script because its binary was not found. The script works, but each start costs
    /// the start of node as well.
    pub shim: bool,
    /// Whether the database belongs to one sandboxed session. opencode itself would choose another one.
    pub own_database: bool,
    /// What confines it, if it runs a turn of a sandboxed session.
    pub confinement: Option<Arc<Confinement>>,
}

/// What confines the opencode of one session.
#[derive(Debug, PartialEq, Eq)]
pub struct Confinement {
    /// What it sees and reaches.
    pub sandbox: Sandbox,
    /// Its whole environment, apart from the variables of a turn.
    pub environment: Environment,
}

impl Opencode {
    /// The file of its database.
    pub fn database_file(&self) -> DatabaseFile {
        DatabaseFile {
            path: self.database.clone(),
            confined: self.own_database,
        }
    }

    /// The same opencode with the database of a sandboxed session.
    #[must_use]
    pub fn with_database(&self, database: PathBuf) -> Self {
        Self {
            database,
            own_database: true,
            ..self.clone()
        }
    }

    /// The same opencode, confined in this way.
    #[must_use]
    pub fn confined(&self, confinement: Confinement) -> Self {
        Self {
            confinement: Some(Arc::new(confinement)),
            ..self.clone()
        }
    }
}

impl Opencode {
    /// Whether this version compares the ids of messages to tell which one is newer, so that ids that go back hide a
    /// prompt: 1.3.2 does. 1.18.33 compares times and the prompts that answers name. Versions between them were not
    /// measured; where such a version does not see a prompt, the stored messages show it after the turn.
    pub fn compares_message_ids(&self) -> bool {
        self.version < Version::new(1, 18, 0)
    }
}

impl Opencode {
    /// Whether this version may run plugins of a project although [`Launch::ignore_project`](super::Launch) is set.
    pub fn runs_ignored_plugins(&self) -> bool {
        self.version >= RUNS_IGNORED_PLUGINS
    }
}

/// Where to search for opencode.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// The program from the configuration.
    pub configured: Option<&'a Path>,
    /// `KUGETSU_OPENCODE`, which overrides the configuration.
    pub env_override: Option<&'a OsStr>,
    /// `PATH`, which is searched last.
    pub path: Option<&'a OsStr>,
    /// The home directory in opencode's environment.
    pub home: &'a Path,
    /// `XDG_DATA_HOME`
    pub xdg_data_home: Option<&'a Path>,
    /// `OPENCODE_DB`
    pub opencode_db: Option<&'a OsStr>,
    /// All other variables of opencode's environment.
    pub environment: &'a Environment,
    /// The cache file.
    pub cache_file: &'a Path,
    /// Ends the probes.
    pub(crate) cancel: &'a Cancel,
}

impl<'a> Search<'a> {
    /// A search on `PATH`, for an opencode that sees this environment.
    pub(crate) fn of(environment: &'a Environment, cache_file: &'a Path, cancel: &'a Cancel) -> Self {
        Self {
            configured: None,
            env_override: None,
            path: environment.get("PATH"),
            home: environment.home(),
            xdg_data_home: environment.get("XDG_DATA_HOME").map(Path::new),
            opencode_db: environment.get("OPENCODE_DB"),
            environment,
            cache_file,
            cancel,
        }
    }
}

/// Why there is no usable opencode.
#[derive(Debug, thiserror::Error)]
pub enum OpencodeError {
    /// opencode is not on PATH.
    #[error(
        "opencode was not found on PATH: install it (`npm install -g opencode-ai`) or set KUGETSU_OPENCODE to it"
    )]
    NotFound,
    /// The configured program does not exist.
    #[error("there is no opencode at {}, which {origin} names: correct it, or install opencode (`npm install -g opencode-ai`)", path.display())]
    Missing {
        /// The configured path.
        path: PathBuf,
        /// The source of the path.
        origin: &'static str,
    },
    /// The program exists but cannot be run.
    #[error("{} ({origin}) is not a program that can be run: make it executable, or set KUGETSU_OPENCODE to opencode", path.display())]
    NotExecutable {
        /// The file.
        path: PathBuf,
        /// The source of the path.
        origin: &'static str,
    },
    /// The system could not start the program.
    #[error("{} could not be started: {reason}\nReinstall opencode (`npm install -g opencode-ai`) or set KUGETSU_OPENCODE", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// The system's error.
        reason: String,
    },
    /// The program could not be run under a guard, or its run was cancelled.
    #[error("`{} {args}` could not be run: {source}", path.display())]
    Probe {
        /// The program.
        path: PathBuf,
        /// The arguments of the program.
        args: &'static str,
        /// The cause.
        source: ProcessError,
    },
    /// The program did not end in time.
    #[error("`{} {args}` did not end within {} s and was killed: run it yourself to see why it hangs", path.display(), limit.as_secs())]
    TimedOut {
        /// The program.
        path: PathBuf,
        /// The arguments of the program.
        args: &'static str,
        /// The time limit.
        limit: Duration,
    },
    /// The program did not print a version.
    #[error("`{} --version` {outcome}: is this opencode? Set KUGETSU_OPENCODE to it, or install it (`npm install -g opencode-ai`)", path.display())]
    Garbage {
        /// The program.
        path: PathBuf,
        /// What the program did instead.
        outcome: String,
    },
    /// The version lacks commands that kugetsu needs, or keeps sessions in JSON files.
    #[error("opencode {version} at {} is too old: kugetsu needs {OLDEST} or later (`npm install -g opencode-ai`)", path.display())]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        version: Version,
    },
    /// The version is too new to be supported.
    #[error("opencode {version} at {} is too new: kugetsu supports opencode 1.x; install it (`npm install -g opencode-ai@1`) or set KUGETSU_OPENCODE to it", path.display())]
    TooNew {
        /// The program.
        path: PathBuf,
        /// Its version.
        version: Version,
    },
    /// The program did not print the path of its database.
    #[error("`{} db path` {outcome}: run it yourself to see why; kugetsu supports opencode 1.x from {OLDEST} on", path.display())]
    DatabasePath {
        /// The program.
        path: PathBuf,
        /// What the program did instead.
        outcome: String,
    },
}

/// Finds opencode, its version and its database. Runs opencode only if the cache has no entry for it.
pub fn probe(search: &Search<'_>) -> Result<Opencode, OpencodeError> {
    let located = locate::locate(search)?;
    let key = cache::Key::new(&located.program, search);
    if let Some(found) = key.as_ref().and_then(|key| cache::read(search.cache_file, key)) {
        return usable(Opencode {
            program: located.program,
            version: found.version,
            database: found.database,
            shim: located.shim,
            own_database: false,
            confinement: None,
        });
    }
    let (version, database) = run_probes(&located.program, search)?;
    if let Some(key) = key {
        // Without the cache, the next command is slower but still correct.
        if let Err(error) = cache::write(search.cache_file, key, &version, &database) {
            tracing::debug!(file = %search.cache_file.display(), %error, "the probe cache was not written");
        }
    }
    usable(Opencode {
        program: located.program,
        version,
        database,
        shim: located.shim,
        own_database: false,
        confinement: None,
    })
}

fn usable(found: Opencode) -> Result<Opencode, OpencodeError> {
    if found.version >= TOO_NEW {
        return Err(OpencodeError::TooNew {
            path: found.program,
            version: found.version,
        });
    }
    if found.version < OLDEST {
        return Err(OpencodeError::TooOld {
            path: found.program,
            version: found.version,
        });
    }
    Ok(found)
}

/// Runs both probes at once.
fn run_probes(program: &Path, search: &Search<'_>) -> Result<(Version, PathBuf), OpencodeError> {
    let not_needed = search.cancel.child();
    let (version, database) = std::thread::scope(|scope| {
        let database = scope.spawn(|| run_probe(program, "db path", search, &not_needed));
        let version = run_probe(program, "--version", search, search.cancel).and_then(|output| {
            output.version().ok_or_else(|| OpencodeError::Garbage {
                path: program.to_owned(),
                outcome: output.outcome(),
            })
        });
        if version.as_ref().map_or(true, |version| !is_supported(version)) {
            not_needed.set();
        }
        (version, database.join())
    });
    let version = version?;
    if !is_supported(&version) {
        // This version may not support `db path`, and the caller refuses it anyway.
        return Ok((version, PathBuf::new()));
    }
    let output = database.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    match output.database_path() {
        Some(path) => Ok((version, path)),
        None => Err(OpencodeError::DatabasePath {
            path: program.to_owned(),
            outcome: output.outcome(),
        }),
    }
}

fn is_supported(version: &Version) -> bool {
    *version >= OLDEST && *version < TOO_NEW
}

/// Runs the program with these arguments. Retries for a moment while another process, such as an update, has the file open
/// for writing.
fn run_probe(
    program: &Path,
    args: &'static str,
    search: &Search<'_>,
    cancel: &Cancel,
) -> Result<ProbeOutput, OpencodeError> {
    let started = Instant::now();
    loop {
        match process::run_until_cancelled(probe_spec(program, args, search), PROBE_LIMIT, cancel) {
            Ok(output) => return Ok(ProbeOutput::from(output)),
            Err(ProcessError::Start { reason, .. })
                if reason.contains("busy") && started.elapsed() < BUSY_LIMIT =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(ProcessError::Deadline { .. }) => {
                return Err(OpencodeError::TimedOut {
                    path: program.to_owned(),
                    args,
                    limit: PROBE_LIMIT,
                });
            }
            Err(ProcessError::Start { reason, .. }) => {
                return Err(OpencodeError::Start {
                    path: program.to_owned(),
                    reason,
                });
            }
            Err(source) => {
                return Err(OpencodeError::Probe {
                    path: program.to_owned(),
                    args,
                    source,
                });
            }
        }
    }
}

fn probe_spec(program: &Path, args: &str, search: &Search<'_>) -> GuardSpec {
    let mut set_env: Vec<(OsString, OsString)> = vec![
        ("OPENCODE_DISABLE_MODELS_FETCH".into(), "1".into()),
        ("OPENCODE_DISABLE_AUTOUPDATE".into(), "1".into()),
        ("HOME".into(), search.home.into()),
    ];
    let mut remove_env = Vec::new();
    for (name, value) in [
        ("XDG_DATA_HOME", search.xdg_data_home.map(Path::as_os_str)),
        ("OPENCODE_DB", search.opencode_db),
    ] {
        match value {
            Some(value) => set_env.push((name.into(), value.into())),
            None => remove_env.push(name.into()),
        }
    }
    if let Some(path) = search.path {
        set_env.push(("PATH".into(), path.into()));
    }
    GuardSpec {
        program: program.to_owned(),
        args: args.split(' ').map(OsString::from).collect(),
        cwd: "/".into(),
        set_env,
        remove_env,
        stdin: Arc::from([]),
        sandbox: None,
        containment: Containment {
            guard_program: search.environment.program().to_owned(),
            environment: search.environment.clone(),
            mark: Uuid::now_v7(),
            grace: Duration::ZERO,
            cgroup: false,
            limits: None,
        },
        stdout: Sink::Piped,
        stderr: Sink::Piped,
    }
}

/// What a probe printed, and how it ended.
struct ProbeOutput {
    exit: Exit,
    stdout: String,
    stderr: String,
}

impl From<Output> for ProbeOutput {
    fn from(output: Output) -> Self {
        Self {
            exit: output.exit,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl ProbeOutput {
    fn version(&self) -> Option<Version> {
        let mut lines = self.stdout.lines().rev();
        let version = lines.find_map(|line| line.trim().parse().ok());
        version.filter(|_| self.exit.success())
    }

    fn database_path(&self) -> Option<PathBuf> {
        let mut lines = self.stdout.lines().map(str::trim).rev();
        let path = lines.find(|line| line.starts_with('/'));
        path.filter(|_| self.exit.success()).map(PathBuf::from)
    }

    /// What the program did, for an error message.
    fn outcome(&self) -> String {
        let short = |text: &str| {
            let line = text
                .lines()
                .map(str::trim)
                .rfind(|line| !line.is_empty())
                .unwrap_or_default();
            line.chars()
                .filter(|c| !c.is_control())
                .take(160)
                .collect::<String>()
        };
        let (out, err) = (short(&self.stdout), short(&self.stderr));
        match (self.exit.success(), out.is_empty(), err.is_empty()) {
            (true, true, _) => "printed nothing".to_owned(),
            (true, false, _) => format!("printed `{out}`"),
            (false, true, true) => format!("failed ({}) and printed nothing", self.exit),
            (false, false, true) => format!("failed ({}) and printed `{out}`", self.exit),
            (false, _, false) => format!("failed ({}): {err}", self.exit),
        }
    }
}
