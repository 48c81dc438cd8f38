//! The common parts of every opencode that kugetsu starts: its guard, its environment and its standard error.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Opencode;
use super::config_problem::ErrorPage;
use super::jsonc;
use super::log_lines::{failed_attempt, is_log_line, refused_agent, server_failure};
use super::project::{IGNORE_PROJECT, instructions};
use super::run_events::notice;
use crate::aside::aside;
use crate::environment::Environment;
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

/// What a session, and the tools that it runs, are told about the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionContext {
    /// The value of `OPENCODE_CONFIG_CONTENT`.
    config: Option<String>,
    /// Variables for the environment of tools.
    variables: Vec<(&'static str, String)>,
}

impl SessionContext {
    /// Tells tools which session they belong to, and its branch.
    pub fn of(reference: &str, branch: Option<&str>) -> Self {
        let mut variables = vec![("KUGETSU_REF", reference.to_owned())];
        variables.extend(branch.map(|branch| (BRANCH, branch.to_owned())));
        Self {
            config: None,
            variables,
        }
    }

    /// Makes a session that ignores what the repository brings for opencode (`Launch::ignore_project`) start no language
    /// server and no formatter, which run programs of the repository, and read the repository's instructions
    /// nevertheless. The error says why that is not possible.
    pub fn ignore_project(&mut self, environment: &Environment, directory: &Path) -> Result<(), String> {
        let mut config = own_config(self.config.as_deref(), environment)?;
        for name in ["lsp", "formatter"] {
            config.insert(name.to_owned(), Value::Bool(false));
        }
        let list = instructions_of(&mut config)?;
        let files = instructions(directory, environment);
        list.extend(files.iter().filter_map(|file| file.to_str()).map(Value::from));
        self.config = Some(Value::Object(config).to_string());
        Ok(())
    }

    /// Makes opencode start no language server and no formatter, which would run in its own part of the sandbox, and use the
    /// tools' shell in any case. The error says why that is not possible.
    pub fn confine(&mut self, environment: &Environment, shell: Option<&Path>) -> Result<(), String> {
        let mut config = own_config(self.config.as_deref(), environment)?;
        for name in ["lsp", "formatter"] {
            config.insert(name.to_owned(), Value::Bool(false));
        }
        if let Some(shell) = shell {
            config.insert("shell".to_owned(), shell.display().to_string().into());
        }
        self.config = Some(Value::Object(config).to_string());
        Ok(())
    }

    /// Adds a file to the system prompt. The error says why that is not possible.
    pub fn instruct(&mut self, environment: &Environment, file: &Path) -> Result<(), String> {
        self.config = Some(config_with_instructions(
            self.config.as_deref(),
            environment,
            file,
        )?);
        self.variables.push((INSTRUCTED, file.display().to_string()));
        Ok(())
    }
}

/// The variable that names the file which kugetsu has added to the instructions.
const INSTRUCTED: &str = "KUGETSU_CONTEXT_FILE";

/// The variable that names the branch of the session's worktree.
const BRANCH: &str = "KUGETSU_BRANCH";

/// The variable with a configuration that opencode merges over the configuration files.
const CONFIG: &str = "OPENCODE_CONFIG_CONTENT";

/// The value of `OPENCODE_CONFIG_CONTENT` that adds a file to the system prompt. opencode adds these files to those that
/// other configurations name, and to `AGENTS.md`, over `serve` and `run` (measured on both versions). Keeps what the
/// user has set. The error says why that is not possible.
fn config_with_instructions(
    so_far: Option<&str>,
    environment: &Environment,
    file: &Path,
) -> Result<String, String> {
    let file = file
        .to_str()
        .ok_or_else(|| format!("the path {} is not valid UTF-8", file.display()))?;
    let mut config = own_config(so_far, environment)?;
    let list = instructions_of(&mut config)?;
    // A kugetsu that a tool started has the text of the tool's session in its environment.
    let outer = environment.get(INSTRUCTED).map(|outer| outer.to_string_lossy());
    list.retain(|entry| outer.is_none() || entry.as_str() != outer.as_deref());
    list.push(file.into());
    Ok(Value::Object(config).to_string())
}

/// The configuration so far, which begins with what the user has set.
fn own_config(so_far: Option<&str>, environment: &Environment) -> Result<Map<String, Value>, String> {
    let own = environment.get(CONFIG).map(|own| own.to_string_lossy());
    match so_far.or(own.as_deref()).map(jsonc::value) {
        None => Ok(Map::new()),
        Some(Some(Value::Object(config))) => Ok(config),
        Some(_) => Err(format!("{CONFIG} is not a JSON object")),
    }
}

fn instructions_of(config: &mut Map<String, Value>) -> Result<&mut Vec<Value>, String> {
    let instructions = config.entry("instructions").or_insert_with(|| json!([]));
    instructions
        .as_array_mut()
        .ok_or_else(|| format!("`instructions` in {CONFIG} is not a list"))
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
        let config = self.context.config.as_deref().map(|config| (CONFIG, config));
        IGNORE_PROJECT
            .into_iter()
            .chain(config)
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
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
        if let Some(config) = &self.context.config {
            set_env.push((CONFIG.into(), config.into()));
        }
        if self.ignore_project {
            set_env.extend(IGNORE_PROJECT.map(|(name, value)| (name.into(), value.into())));
        }
        for (name, value) in &self.context.variables {
            set_env.push((name.into(), value.into()));
        }
        for (name, value) in &self.secrets.variables {
            set_env.push((name.into(), value.into()));
        }
        // If kugetsu itself runs in a tool, these belong to another session.
        let outer = ["KUGETSU_REF", BRANCH, INSTRUCTED];
        let told = |name: &&str| self.context.variables.iter().any(|(told, _)| told == name);
        let mut containment = self.containment.clone();
        let sandbox = self.opencode.confinement.as_ref().map(|confinement| {
            containment.environment = confinement.environment.clone();
            let mut sandbox = confinement.sandbox.clone();
            let told = self.context.variables.iter();
            let file = told.filter(|(name, _)| *name == INSTRUCTED);
            sandbox.mounts.extend(file.map(|(_, file)| Mount::read(file)));
            sandbox
        });
        GuardSpec {
            program: self.opencode.program.clone(),
            args,
            cwd: self.directory.clone(),
            remove_env: outer.iter().filter(|name| !told(name)).map(Into::into).collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_added_to_the_configuration_of_the_user() {
        let with = |own: Option<&str>| {
            let outer = (INSTRUCTED.into(), "/k/outer.md".into());
            let own = own.map(|own| (CONFIG.into(), own.into()));
            let variables = own.into_iter().chain([outer]);
            let environment = Environment::new(variables, "/".into(), "kugetsu".into());
            config_with_instructions(None, &environment, Path::new("/k/14.context.md"))
        };
        let parsed = |own| serde_json::from_str::<Value>(&with(own).unwrap()).unwrap();
        assert_eq!(parsed(None), json!({"instructions": ["/k/14.context.md"]}));
        assert_eq!(
            parsed(Some(
                r#"{"model": "a/b", "instructions": ["x.md", "/k/outer.md"]}"#
            )),
            json!({"model": "a/b", "instructions": ["x.md", "/k/14.context.md"]})
        );
        // opencode allows comments here as well.
        assert_eq!(parsed(Some("{ // comment\n}")), parsed(None));
        for own in ["{ \"a\" }", "[]", r#"{"instructions": "x.md"}"#] {
            assert!(with(Some(own)).unwrap_err().contains(CONFIG), "{own}");
        }
    }
}
