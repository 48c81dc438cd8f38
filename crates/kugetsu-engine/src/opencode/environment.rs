//! The common parts of every opencode that kugetsu starts: its guard, its environment and its standard error.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Opencode;
use super::config_problem::ErrorPage;
use super::log_lines::{failed_attempt, is_log_line, refused_agent, server_failure};
use super::project::IGNORE_PROJECT;
use super::run_events::notice;
use super::session_context::{CONFIG, SessionContext, TOLD};
use crate::aside::aside;
use crate::fsx;
use crate::permission::{Rule, env_json};
use crate::process::sandbox::Mount;
use crate::process::{Containment, GuardSpec, Sink};
use crate::redact::Redactor;

/// The number of last lines on standard error that are kept as evidence.
const TAIL_LINES: usize = 20;
/// The part of each of these lines that is kept, in bytes.
const MAX_TAIL_LINE: usize = 2000;

/// How to start opencode.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The opencode to start.
    pub opencode: Opencode,
    /// The containment of its processes; the mark is the turn's id.
    pub containment: Containment,
    /// The working directory.
    pub directory: PathBuf,
    /// The permission rules for every session of this process, if the process runs a turn.
    pub rules: Option<Vec<Rule>>,
    /// The file for opencode's log at DEBUG.
    pub debug_log: Option<PathBuf>,
    /// How long a server may take to become ready. Measured: 1.2 to 1.7 s on a quiet machine, three times as long on a
    /// busy one.
    pub ready: Duration,
    /// Variables of opencode's environment whose values must not be written anywhere.
    pub secrets: Secrets,
    /// What the session is told about itself.
    pub context: SessionContext,
    /// Whether opencode loads nothing of what the repository brings for it.
    pub ignore_project: bool,
}

/// Secret variables of opencode, and the redactor that keeps their values out of every log.
#[derive(Clone, Default)]
pub struct Secrets {
    /// Names and values.
    pub variables: Vec<(String, String)>,
    /// Masks the values in everything that is written.
    pub redactor: Redactor,
}

impl Secrets {
    /// Makes the redactor for these variables.
    pub fn new<'a>(variables: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let variables: Vec<_> = variables
            .into_iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let redactor = Redactor::new(variables.iter().map(|(_, value)| value));
        Self { variables, redactor }
    }

    /// Masks further values, which are not in opencode's environment.
    #[must_use]
    pub fn masking<'a>(mut self, values: impl IntoIterator<Item = &'a String>) -> Self {
        let own = self.variables.iter().map(|(_, value)| value.clone());
        let all: Vec<_> = own.chain(values.into_iter().cloned()).collect();
        self.redactor = Redactor::new(&all);
        self
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.variables.iter().map(|(name, _)| name))
            .finish()
    }
}

impl Launch {
    /// The variables that keep opencode from loading what the repository brings, if the launch ignores that.
    pub fn project_variables(&self) -> Vec<(OsString, OsString)> {
        if !self.ignore_project {
            return Vec::new();
        }
        let config = self.context.config_content();
        let config = config.map(|config| (CONFIG.into(), config.into()));
        let ignoring = IGNORE_PROJECT.map(|(name, value)| (name.into(), value.into()));
        ignoring.into_iter().chain(config).collect()
    }

    /// A guard around opencode with these arguments, an empty input, and both outputs piped.
    pub fn guard_spec(&self, mut args: Vec<OsString>) -> GuardSpec {
        if self.debug_log.is_some() {
            args.extend(["--print-logs", "--log-level", "DEBUG"].map(OsString::from));
        }
        let mut set_env: Vec<(OsString, OsString)> = vec![
            // A turn must not replace the program that runs it.
            ("OPENCODE_DISABLE_AUTOUPDATE".into(), "1".into()),
        ];
        if self.opencode.own_database {
            set_env.push(("OPENCODE_DB".into(), self.opencode.database.clone().into()));
        }
        if let Some(rules) = &self.rules {
            // The variable also applies to a fork before its row can be written, and to the session of every subagent
            // (both versions).
            set_env.push(("OPENCODE_PERMISSION".into(), env_json(rules).into()));
        }
        if let Some(config) = self.context.config_content() {
            set_env.push((CONFIG.into(), config.into()));
        }
        if self.ignore_project {
            set_env.extend(IGNORE_PROJECT.map(|(name, value)| (name.into(), value.into())));
        }
        for (name, value) in self.context.variables() {
            set_env.push((name.into(), value.into()));
        }
        for (name, value) in &self.secrets.variables {
            set_env.push((name.into(), value.into()));
        }
        // If kugetsu itself runs in a tool, these belong to another session.
        let told = |name: &&str| self.context.variables().iter().any(|(told, _)| told == name);
        let mut containment = self.containment.clone();
        let sandbox = self.opencode.confinement.as_ref().map(|confinement| {
            containment.environment = confinement.environment.clone();
            let mut sandbox = confinement.sandbox.clone();
            sandbox.mounts.extend(self.context.text().map(Mount::read));
            sandbox
        });
        GuardSpec {
            program: self.opencode.program.clone(),
            args,
            cwd: self.directory.clone(),
            remove_env: TOLD.iter().filter(|name| !told(name)).map(Into::into).collect(),
            set_env,
            stdin: Vec::new().into(),
            sandbox,
            containment,
            stdout: Sink::Piped,
            stderr: Sink::Piped,
        }
    }
}

/// The last lines that opencode wrote on standard error.
#[derive(Clone, Debug, Default)]
pub struct StderrTail(Arc<Mutex<VecDeque<String>>>);

impl StderrTail {
    fn push(&self, mut line: String) {
        if line.len() > MAX_TAIL_LINE {
            line.truncate(line.floor_char_boundary(MAX_TAIL_LINE));
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The lines, oldest first.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }
}

/// Waits until the tasks have read the last output of an opencode that has ended. Waits only briefly, because processes
/// that opencode left behind may hold the pipes open. May be cancelled and called again.
pub async fn wait_until_read(readers: &mut JoinSet<()>) {
    let all_read = async { while readers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_secs(1), all_read).await;
}

/// Reports that opencode prints only on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StderrReport {
    /// A request to the model failed; opencode may retry it.
    AttemptFailed(String),
    /// The requested agent cannot run the turn, and opencode would use another one.
    AgentRefused(String),
}

/// Reads opencode's standard error to its end, so that opencode never blocks on it. Keeps the last lines that are not
/// log lines in `tail`, and writes everything to the debug log. `reports` receives the reports that affect the turn.
pub async fn read_stderr(
    pipe: impl AsyncRead + Unpin,
    tail: StderrTail,
    debug_log: Option<PathBuf>,
    redactor: Redactor,
    reports: Option<mpsc::Sender<StderrReport>>,
) {
    let mut log = match debug_log {
        Some(path) => aside(move || fsx::create_append(&path)).await.ok(),
        None => None,
    };
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    // True for the rest of a log line whose beginning has been read: 1.3.2 logs a whole request with its failure.
    let mut skipping = false;
    let mut page = ErrorPage::default();
    let report = |what: StderrReport| {
        if let Some(reports) = &reports {
            // If the channel is full, nothing reads it, or enough was reported.
            let _ = reports.try_send(what);
        }
    };
    let mut take = |line: &[u8], skipping: bool| {
        let clean = redactor.clean_bytes(line);
        if let Some(log) = &mut log {
            let _ = log.write_all(&clean);
        }
        let text = notice(&clean);
        if !page.keeps(&text) {
            return false;
        }
        if skipping || text.is_empty() {
            return skipping;
        }
        if let Some(message) = failed_attempt(&text) {
            report(StderrReport::AttemptFailed(message));
            return true;
        }
        if let Some(refusal) = refused_agent(&text) {
            report(StderrReport::AgentRefused(refusal.to_owned()));
        }
        if let Some(failure) = server_failure(&text) {
            tail.push(failure.to_owned());
            return true;
        }
        let logged = is_log_line(&text);
        if !logged {
            tail.push(text);
        }
        logged
    };
    loop {
        // Memory is bounded: a line without an end is cut, and its rest becomes the next line.
        let taken = match reader.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => {
                let end = bytes.iter().position(|&b| b == b'\n').map(|at| at + 1);
                let taken = end.unwrap_or(bytes.len());
                line.extend_from_slice(&bytes[..taken]);
                taken
            }
        };
        reader.consume(taken);
        let ended = line.ends_with(b"\n");
        if ended || line.len() > MAX_TAIL_LINE {
            // A possible beginning of a secret stays together with the text that follows it.
            let hold = if ended {
                0
            } else {
                redactor
                    .undecided(&String::from_utf8_lossy(&line))
                    .min(line.len())
            };
            let rest = line.split_off(line.len() - hold);
            skipping = take(&line, skipping) && !ended;
            line = rest;
        }
    }
    if !line.is_empty() {
        take(&line, skipping);
    }
}
