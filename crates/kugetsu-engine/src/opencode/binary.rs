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

pub use locate::find;
pub use version::Version;

use crate::environment::Environment;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long `--version` and `db path` may take.
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// The part of a probe's output that is kept, in bytes.
const MAX_OUTPUT: u64 = 64 * 1024;
/// The first version that keeps sessions in a database.
const OLDEST: Version = Version::new(1, 2, 0);
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
    #[error("{} could not be started: {source}\nReinstall opencode (`npm install -g opencode-ai`) or set KUGETSU_OPENCODE", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
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
    /// The version keeps sessions in JSON files.
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
    #[error("`{} db path` {outcome}: run it yourself to see why", path.display())]
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
    let version = start(program, &["--version"], search);
    let database = start(program, &["db", "path"], search);
    let deadline = Instant::now() + PROBE_LIMIT;
    let finish = |running: io::Result<RunningProbe>, args| match running {
        Err(source) => Err(OpencodeError::Start {
            path: program.to_owned(),
            source,
        }),
        Ok(running) => running.finish(deadline).map_err(|source| match source.kind() {
            io::ErrorKind::TimedOut => OpencodeError::TimedOut {
                path: program.to_owned(),
                args,
                limit: PROBE_LIMIT,
            },
            _ => OpencodeError::Start {
                path: program.to_owned(),
                source,
            },
        }),
    };
    let answer = finish(version, "--version")?;
    let parsed = answer
        .stdout
        .lines()
        .rev()
        .find_map(|line| line.trim().parse::<Version>().ok());
    let Some(version) = parsed.filter(|_| answer.status.success()) else {
        return Err(OpencodeError::Garbage {
            path: program.to_owned(),
            outcome: answer.outcome(),
        });
    };
    if version < OLDEST || version >= TOO_NEW {
        // This version may not support `db path`, and the caller refuses it anyway.
        return Ok((version, PathBuf::new()));
    }
    let answer = finish(database, "db path")?;
    let line = answer
        .stdout
        .lines()
        .map(str::trim)
        .rfind(|line| line.starts_with('/'));
    match line.filter(|_| answer.status.success()) {
        Some(path) => Ok((version, PathBuf::from(path))),
        None => Err(OpencodeError::DatabasePath {
            path: program.to_owned(),
            outcome: answer.outcome(),
        }),
    }
}

/// A running probe, with threads that read its output. Dropping it kills its whole process group.
struct RunningProbe {
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
}

struct ProbeOutput {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl ProbeOutput {
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
        match (self.status.success(), out.is_empty(), err.is_empty()) {
            (true, true, _) => "printed nothing".to_owned(),
            (true, false, _) => format!("printed `{out}`"),
            (false, true, true) => format!("failed ({}) and printed nothing", self.status),
            (false, false, true) => format!("failed ({}) and printed `{out}`", self.status),
            (false, _, false) => format!("failed ({}): {err}", self.status),
        }
    }
}

fn start(program: &Path, args: &[&str], search: &Search<'_>) -> io::Result<RunningProbe> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.process_group(0).current_dir("/");
    command.env_clear().envs(search.environment.variables());
    command
        .env("OPENCODE_DISABLE_MODELS_FETCH", "1")
        .env("OPENCODE_DISABLE_AUTOUPDATE", "1");
    command.env("HOME", search.home);
    let mut set = |name: &str, value: Option<OsString>| {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    };
    set("XDG_DATA_HOME", search.xdg_data_home.map(OsString::from));
    set("OPENCODE_DB", search.opencode_db.map(OsString::from));
    if let Some(path) = search.path {
        command.env("PATH", path);
    }
    let mut child = spawn(&mut command)?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    Ok(RunningProbe {
        child,
        stdout,
        stderr,
    })
}

/// Starts the command. Retries for a moment while another process, such as an update, has the file open for writing.
fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut tries = 0;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < 20 => {
                tries += 1;
                thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
            let _ = io::copy(&mut pipe, &mut io::sink());
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

impl RunningProbe {
    /// Waits until the probe has closed its output and ended.
    fn finish(mut self, deadline: Instant) -> io::Result<ProbeOutput> {
        let left = || deadline.saturating_duration_since(Instant::now());
        let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
        let stdout = self.stdout.recv_timeout(left()).map_err(timed_out)?;
        let stderr = self.stderr.recv_timeout(left()).map_err(timed_out)?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(ProbeOutput {
                    status,
                    stdout,
                    stderr,
                });
            }
            if left().is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for RunningProbe {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Some(group) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
