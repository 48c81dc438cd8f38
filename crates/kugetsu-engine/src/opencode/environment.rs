//! What every opencode that kugetsu starts has in common: its guard, its environment, its standard error.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Opencode;
use super::log_lines::{failed_attempt, is_log_line, refused_agent, server_failure};
use super::run_events::notice;
use crate::aside::aside;
use crate::fsx;
use crate::permission::{Rule, env_json};
use crate::process::{Containment, GuardSpec, Sink};
use crate::redact::Redactor;

/// How many of opencode's last lines on standard error are kept as evidence.
const KEPT_LINES: usize = 20;
/// How much of one such line is kept, in bytes.
const KEPT_LINE: usize = 2000;

/// How to start opencode.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Which opencode.
    pub opencode: Opencode,
    /// What holds it; the mark is the turn's.
    pub containment: Containment,
    /// The working directory.
    pub directory: PathBuf,
    /// The rules for every session of this process, where a turn is what it is started for.
    pub rules: Option<Vec<Rule>>,
    /// Where opencode's log goes at DEBUG.
    pub debug_log: Option<PathBuf>,
    /// How long a server may take to become ready. Measured: 1.2 to 1.7 s quiet, triple on a busy machine.
    pub ready: Duration,
    /// Variables of opencode's environment whose values are written nowhere.
    pub secrets: Secrets,
}

/// Variables that opencode gets, and what keeps their values out of every log.
#[derive(Clone, Default)]
pub struct Secrets {
    /// Names and values.
    pub variables: Vec<(String, String)>,
    /// For everything that is written.
    pub redactor: Redactor,
}

impl Secrets {
    /// For these variables.
    pub fn new<'a>(variables: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let variables: Vec<_> = variables
            .into_iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let redactor = Redactor::new(variables.iter().map(|(_, value)| value));
        Self { variables, redactor }
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
    /// A guard around opencode with these arguments; no input, both outputs piped.
    pub fn guard_spec(&self, mut args: Vec<OsString>) -> GuardSpec {
        if self.debug_log.is_some() {
            args.extend(["--print-logs", "--log-level", "DEBUG"].map(OsString::from));
        }
        let mut set_env: Vec<(OsString, OsString)> = vec![
            // A turn must not replace the program that it runs on.
            ("OPENCODE_DISABLE_AUTOUPDATE".into(), "1".into()),
        ];
        if let Some(rules) = &self.rules {
            // Reaches the fork before its row can be written, and every subagent's session: both versions.
            set_env.push(("OPENCODE_PERMISSION".into(), env_json(rules).into()));
        }
        for (name, value) in &self.secrets.variables {
            set_env.push((name.into(), value.into()));
        }
        GuardSpec {
            program: self.opencode.program.clone(),
            args,
            cwd: self.directory.clone(),
            set_env,
            remove_env: Vec::new(),
            stdin: Vec::new().into(),
            containment: self.containment.clone(),
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
        if line.len() > KEPT_LINE {
            line.truncate(line.floor_char_boundary(KEPT_LINE));
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The lines, oldest first.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }
}

/// Waits until a task of [`read_stderr`] has read what an opencode that has ended wrote last; not for long, since what
/// opencode left behind may hold the pipe open.
pub async fn wait_until_read(reader: &mut JoinHandle<()>) {
    if !reader.is_finished() {
        let _ = tokio::time::timeout(Duration::from_secs(1), reader).await;
    }
}

/// What opencode says on standard error alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StderrReport {
    /// A request to the model failed; it may be made again.
    AttemptFailed(String),
    /// The agent that was asked for does not take the turn, and another one would.
    AgentRefused(String),
}

/// Reads opencode's standard error to its end, so that it never blocks on it; keeps the last lines that are
/// words for people, and all of it in the debug log. `reports` gets what the turn depends on.
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
    // The rest of a line of the log whose beginning has been read: 1.3.2 logs a whole request with its failure.
    let mut skipping = false;
    let report = |what: StderrReport| {
        if let Some(reports) = &reports {
            // Full: nobody listens, or enough was reported.
            let _ = reports.try_send(what);
        }
    };
    let mut take = |line: &[u8], skipping: bool| {
        let clean = redactor.clean_bytes(line);
        if let Some(log) = &mut log {
            let _ = log.write_all(&clean);
        }
        let text = notice(&clean);
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
        // Bounded: a line without an end is cut, and goes on as the next one.
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
        if ended || line.len() > KEPT_LINE {
            // What might be the beginning of a secret stays with what follows.
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
