//! What a turn wants from a warm server, and which servers can serve it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::environment::Environment;
use crate::fsx;
use crate::opencode::{
    Launch, Opencode, ProjectParts, SessionContext, Version, chooses_shell, user_configuration,
};
use crate::permission::{Rule, env_json};
use crate::process::{ProcessLimits, Tree};

/// Variables that tell shells, terminals, logins and traces apart, and that opencode itself does not use. A turn's tools get
/// their caller's values, although the server may have been started for another caller.
const OF_THE_CALLER: [&str; 24] = [
    "_",
    "COLUMNS",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LINES",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "NOTIFY_SOCKET",
    "OLDPWD",
    "PWD",
    "SHLVL",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "SSH_TTY",
    "STY",
    "SYSTEMD_EXEC_PID",
    "TERM_SESSION_ID",
    "TMUX",
    "TMUX_PANE",
    "TRACEPARENT",
    "TRACESTATE",
    "WINDOW",
    "WINDOWID",
    "XDG_SESSION_ID",
];
/// Variables of the caller that would mislead tools: they describe another process or folder.
const NOT_FOR_TOOLS: [&str; 9] = [
    "_",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "NOTIFY_SOCKET",
    "OLDPWD",
    "PWD",
    "SYSTEMD_EXEC_PID",
];
/// The variable that names the shell.
const SHELL: &str = "SHELL";
/// The shells that opencode runs tools with.
const SHELLS: [&str; 5] = ["bash", "dash", "ksh", "sh", "zsh"];
/// The size limit of an instruction file of an ignored project.
const MAX_INSTRUCTIONS: u64 = 1 << 20;

/// What a turn wants from a warm server.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerWish {
    /// The turn.
    pub turn: Uuid,
    /// The session's directory.
    pub directory: PathBuf,
    program: PathBuf,
    version: Version,
    /// The caller's variables, without those of [`OF_THE_CALLER`].
    environment: Vec<(String, String)>,
    home: PathBuf,
    /// The umask, priority and resource limits of the caller.
    pub(super) limits: ProcessLimits,
    pub(super) rules: Vec<Rule>,
    pub(super) config: Option<Map<String, Value>>,
    pub(super) ignore_project: bool,
    /// The text for the model.
    pub(super) context: String,
    /// Variables for the environment of tools.
    pub(super) variables: Vec<(String, String)>,
    pub(super) ready: Duration,
    pub(super) grace: Duration,
}

/// The environment may hold keys.
impl std::fmt::Debug for ServerWish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerWish")
            .field("turn", &self.turn)
            .field("directory", &self.directory)
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

/// What all turns of one server have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServerKey([u8; 32]);

impl ServerWish {
    /// What a turn wants; `None` if it must have a server of its own: it has secrets, a log or a database of its own, a
    /// sandbox, a limit of processor time, or a directory or an environment that is not text. Blocks.
    pub(crate) fn of(launch: &Launch) -> Option<Self> {
        let opencode = &launch.opencode;
        let is_own = !launch.secrets.variables.is_empty()
            || launch.debug_log.is_some()
            || opencode.own_database
            || opencode.confinement.is_some()
            // The variables of a turn reach its tools through the shell.
            || chooses_shell(&launch.containment.environment, &launch.directory);
        if is_own || !Tree::IS_KNOWN {
            return None;
        }
        let limits = ProcessLimits::for_children();
        if !limits.fit_many_turns() {
            return None;
        }
        launch.directory.to_str()?;
        opencode.program.to_str()?;
        let all = &launch.containment.environment;
        let mut environment = Vec::new();
        let mut variables = launch.context.tool_variables();
        for (name, value) in all.variables() {
            let (name, value) = (name.to_str()?, value.to_str()?);
            if !OF_THE_CALLER.contains(&name) {
                environment.push((name.to_owned(), value.to_owned()));
            } else if !NOT_FOR_TOOLS.contains(&name) && !variables.iter().any(|(own, _)| own == name) {
                variables.push((name.to_owned(), value.to_owned()));
            }
        }
        Some(Self {
            turn: launch.containment.mark,
            directory: launch.directory.clone(),
            program: opencode.program.clone(),
            version: opencode.version.clone(),
            environment,
            home: all.home().to_owned(),
            limits,
            rules: launch.rules.clone().unwrap_or_default(),
            config: launch.context.configuration().cloned(),
            ignore_project: launch.ignore_project,
            context: text(&launch.context)?,
            variables,
            ready: launch.ready,
            grace: launch.containment.grace,
        })
    }

    /// The same wish with limits that this process can give to a server.
    pub(super) fn within_own_limits(mut self) -> Self {
        self.limits = self.limits.within(&ProcessLimits::for_children());
        self
    }

    /// The same wish for a server that serves no turn yet.
    pub(super) fn without_turn(&self) -> Self {
        Self {
            turn: Uuid::nil(),
            context: String::new(),
            variables: Vec::new(),
            ..self.clone()
        }
    }

    /// What a server must have in common with this turn, if that can be told, and a digest of what the turn's project
    /// brings. Blocks.
    pub(super) fn key(&self) -> (Option<ServerKey>, Option<String>) {
        let parts = ProjectParts::of(&self.directory, &self.home);
        (self.key_with(&parts), parts.digest)
    }

    fn key_with(&self, parts: &ProjectParts) -> Option<ServerKey> {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(self.program.as_os_str().as_encoded_bytes());
        add(&program_stamp(&self.program));
        for (name, value) in &self.environment {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        add(&serde_json::to_vec(&self.limits).ok()?);
        add(env_json(&self.rules).as_bytes());
        let config = self.config.clone().map(Value::Object);
        add(config.unwrap_or_default().to_string().as_bytes());
        add(&[u8::from(self.ignore_project)]);
        add(&user_configuration(&self.environment_for(PathBuf::new(), None))?);
        // What a project runs inside opencode stays there, also for other directories.
        if !self.ignore_project && parts.run_inside() {
            add(self.directory.as_os_str().as_encoded_bytes());
            add(parts.digest.as_ref()?.as_bytes());
        }
        Some(ServerKey(hash.finalize().into()))
    }

    /// The environment of a server, whose guard is this program, and whose tools use this shell.
    pub(super) fn environment_for(&self, guard: PathBuf, shell: Option<&Path>) -> Environment {
        let variables = self.environment.iter();
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let shell = shell.map(|shell| (SHELL.into(), shell.into()));
        Environment::new(variables.chain(shell), self.home.clone(), guard)
    }

    /// The shell that opencode would run tools with: the caller's, or the one that it takes instead of a shell that does
    /// not understand its commands (measured on both versions: bash, or else sh).
    pub(super) fn shell(&self) -> PathBuf {
        let own = self.environment.iter().find(|(name, _)| name == SHELL);
        let own = own.map(|(_, value)| PathBuf::from(value));
        let knows = |shell: &PathBuf| {
            let name = shell
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            SHELLS.contains(&name) && shell.is_absolute() && shell.exists()
        };
        let bash = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"].map(PathBuf::from);
        own.into_iter()
            .chain(bash)
            .find(knows)
            .unwrap_or_else(|| PathBuf::from("/bin/sh"))
    }

    pub(super) fn opencode(&self) -> Opencode {
        Opencode {
            program: self.program.clone(),
            version: self.version.clone(),
            database: PathBuf::new(),
            shim: false,
            own_database: false,
            confinement: None,
        }
    }
}

/// What tells two files in the same place apart.
fn program_stamp(program: &Path) -> Vec<u8> {
    let Ok(metadata) = program.metadata() else {
        return Vec::new();
    };
    let numbers = [
        metadata.ino(),
        metadata.size(),
        metadata.mtime() as u64,
        metadata.mtime_nsec() as u64,
    ];
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The text for the model, followed by the instructions of a project whose configuration is ignored: a warm server has
/// one file for all of it.
fn text(context: &SessionContext) -> Option<String> {
    let mut text = String::new();
    let own = context.text().into_iter().map(|file| (None, file));
    let project = context.project_instructions();
    for (name, file) in own.chain(project.iter().map(|file| (Some(file), file.as_path()))) {
        let bytes = fsx::read_bounded(file, MAX_INSTRUCTIONS).ok()?;
        if let Some(name) = name {
            text.push_str(&format!("\nInstructions from: {}\n", name.display()));
        }
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    Some(text)
}
