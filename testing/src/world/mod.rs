//! A hermetic world for one test: its own home, store, git repository and model, and nothing from the machine.
//!
//! Every process started in a world inherits a marker variable. The world uses it to find the processes that are still
//! alive, to prove that there are none, and to kill the rest when dropped.

mod base;
mod binaries;
mod child;
mod database;
mod git;
mod processes;

pub use binaries::{Opencode, STAMP, Version, binaries_in, fake_binary, kugetsu_binary, workspace_root};
pub use child::{Output, Running, Stdin};
pub use database::{DatabaseLock, SessionRow, without_mark};
pub use processes::{ProcessInfo, Signal};

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use child::Transcript;
use serde_json::json;
use tempfile::TempDir;

use crate::fake::{self, FakeCall, FakeScript};
use crate::model::{ModelServer, usage};

/// Names the file with the models that opencode knows in addition to those of its configuration. In a world, the file
/// lists none: loading the catalogue that is built into opencode takes 1.18.33 a third of a trivial turn. A command
/// that needs the catalogue removes this variable.
pub const MODELS: &str = "OPENCODE_MODELS_PATH";

/// Settings of the JavaScript engine in opencode. In a world, they turn off the last stage of its compiler and its
/// additional threads for garbage, which cost a short process a tenth (1.3.2) to a fifth (1.18.33) of its processor time.
pub const SHORT_LIVED: [(&str, &str); 3] = [
    ("BUN_JSC_useFTLJIT", "0"),
    ("BUN_JSC_useConcurrentGC", "0"),
    ("BUN_JSC_numberOfGCMarkers", "1"),
];

/// The variable whose value names the world that a process belongs to.
const MARKER: &str = "KUGETSU_TEST_WORLD";
/// The time limit of [`World::run`].
const DEADLINE: Duration = Duration::from_mins(3);
/// The number of commands that a failure report shows.
const LAST: usize = 4;

/// One test's world.
pub struct World {
    // Fields are dropped in this order, after everything alive in the world was killed.
    /// The model that opencode talks to.
    pub model: ModelServer,
    opencode: Opencode,
    marker: String,
    root: PathBuf,
    /// Whether the settings of this world let sessions share the clone.
    shared_folder: bool,
    /// The process id of the world's daemon; 0: there is none.
    daemon: AtomicU32,
    /// The most recent commands, newest first.
    last: Mutex<VecDeque<Transcript>>,
    _dir: TempDir,
}

impl World {
    /// A world with a repository of one commit and a model that answers "done".
    pub fn new(opencode: Opencode) -> Self {
        let mut world = Self::before_first_use(opencode);
        world.shared_folder = true;
        if let Opencode::Real(version) = opencode {
            world.remember(version);
        }
        world
    }

    /// Writes the cache of kugetsu's first query to opencode, which would start opencode twice; over all tests, that
    /// takes two minutes. If the cache does not match, kugetsu asks again.
    fn remember(&self, version: Version) {
        let program = self.opencode.binary();
        let metadata = program.metadata().expect("the binary is there");
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let known = json!({"schema": 1, "entries": [{
            "key": {
                "program": program,
                "size": metadata.len(),
                "mtime_ns": modified.expect("the binary has a time").as_nanos() as u64,
                "home": self.home(),
                "xdg_data_home": null,
                "opencode_db": null,
            },
            "version": version.as_str(),
            "database": self.opencode_db(),
        }]});
        let run = self.kugetsu_home().join("run");
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(&run)
            .and_then(|()| std::fs::write(run.join("opencode.json"), known.to_string()))
            .expect("a new folder in the temporary folder");
    }

    /// A world in which a new session gets a worktree of its own, as by default.
    pub fn with_worktrees(opencode: Opencode) -> Self {
        let mut world = Self::new(opencode);
        world.shared_folder = false;
        world
    }

    /// The same world on a machine where kugetsu was never used.
    pub fn before_first_use(opencode: Opencode) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Checked first, because a missing binary gives the clearest error.
        let _ = opencode.binary();
        let dir = tempfile::Builder::new()
            .prefix("kugetsu-world-")
            .tempdir()
            .expect("a temporary folder");
        let root = dir.path().canonicalize().expect("the temporary folder exists");
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let marker = format!(
            "{}-{}-{time}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::SeqCst)
        );
        let world = Self {
            model: ModelServer::start(),
            opencode,
            marker,
            root,
            shared_folder: false,
            daemon: AtomicU32::new(0),
            last: Mutex::default(),
            _dir: dir,
        };
        for folder in [world.home(), world.kugetsu_home(), world.tmp()] {
            std::fs::create_dir_all(folder).expect("a folder in the temporary folder");
        }
        if opencode == Opencode::Fake {
            world.fake(&FakeScript::default());
        }
        std::fs::write(world.models(), "{}").expect("a file in the temporary folder");
        let config = world.opencode_config_file();
        std::fs::create_dir_all(config.parent().expect("a file in a folder"))
            .and_then(|()| std::fs::write(&config, world.opencode_config().to_string()))
            .expect("a file in the temporary folder");
        world.make_repository("repo", "https://github.com/shoko/kugetsu.git");
        world
    }

    /// Starts a daemon that all commands of this world use. It starts no servers ahead of need.
    #[track_caller]
    pub fn start_daemon(&self) {
        self.start_daemon_with(&[]);
    }

    /// [`World::start_daemon`] with these flags.
    #[track_caller]
    pub fn start_daemon_with(&self, flags: &[&str]) {
        self.start_daemon_in(&[], flags);
    }

    /// [`World::start_daemon`] with these variables and flags.
    #[track_caller]
    pub fn start_daemon_in(&self, environment: &[(&str, &str)], flags: &[&str]) {
        let words = ["--json", "daemon", "start", "--detach"];
        let mut command = self.kugetsu(words.iter().chain(flags));
        command.env("KUGETSU_WARM_SERVERS", "0");
        command.envs(environment.iter().copied());
        if self.opencode == Opencode::Fake {
            // The fake serves no turns.
            command.env("KUGETSU_TRANSPORT", "run");
        }
        let started = self.finish(command, Stdin::Null);
        started.expect_status(0);
        let pid = started.json()["pid"].as_u64().expect("a process id");
        self.daemon.store(pid as u32, Ordering::SeqCst);
    }

    /// The process id of the world's daemon.
    pub fn daemon(&self) -> Option<u32> {
        Some(self.daemon.load(Ordering::SeqCst)).filter(|pid| *pid != 0)
    }

    /// Kills the daemon, and waits until it is gone.
    #[track_caller]
    pub fn kill_daemon(&self) {
        let pid = self.daemon.swap(0, Ordering::SeqCst);
        assert!(pid != 0 && self.signal(pid, Signal::Kill), "the daemon runs");
        // A thread that writes to the disk keeps the socket open for a moment after the process counts as dead.
        let socket = self.kugetsu_home().join("run/daemon.sock");
        self.wait_until("the daemon is gone", DEADLINE, || {
            !self.processes().iter().any(|process| process.pid == pid)
                && std::os::unix::net::UnixStream::connect(&socket).is_err()
        });
    }

    /// The opencode of this world.
    pub fn opencode(&self) -> Opencode {
        self.opencode
    }

    /// The folder that holds everything of this world.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `HOME`.
    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// `KUGETSU_HOME`.
    pub fn kugetsu_home(&self) -> PathBuf {
        self.root.join("kugetsu-home")
    }

    /// `TMPDIR`.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn models(&self) -> PathBuf {
        self.root.join("models.json")
    }

    /// The git repository that commands run in; its `origin` is `https://github.com/shoko/kugetsu.git`.
    pub fn repo(&self) -> PathBuf {
        self.root.join("repo")
    }

    /// A command in this world's environment and repository. It inherits only `PATH` from the caller's environment and
    /// reaches no network except loopback.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(on_path(program.as_ref()));
        command
            .arg0(program)
            .current_dir(self.repo())
            .env_clear()
            .envs(self.environment());
        command
    }

    /// All variables that the commands of this world see.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        // Nothing listens on port 9 (discard), so connections beyond loopback are refused at once.
        let nowhere = OsString::from("http://127.0.0.1:9");
        let mut variables: Vec<(&'static str, OsString)> = vec![
            ("PATH", path),
            ("HOME", self.home().into()),
            ("TMPDIR", self.tmp().into()),
            ("LANG", "C.UTF-8".into()),
            ("LC_ALL", "C.UTF-8".into()),
            ("TERM", "dumb".into()),
            ("SHELL", "/bin/sh".into()),
            (MARKER, self.marker.clone().into()),
            ("KUGETSU_HOME", self.kugetsu_home().into()),
            ("KUGETSU_OPENCODE", self.opencode.binary().into()),
            ("OPENCODE_DISABLE_MODELS_FETCH", "1".into()),
            (MODELS, self.models().into()),
            ("OPENCODE_DISABLE_AUTOUPDATE", "1".into()),
            ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1".into()),
            ("OPENCODE_DISABLE_DEFAULT_PLUGINS", "1".into()),
            ("OPENCODE_DISABLE_SHARE", "1".into()),
            ("OPENCODE_DISABLE_CLAUDE_CODE", "1".into()),
            // Where there are tools of a user, opencode 1.18.33 installs its plugin package before it answers. Without a
            // network, npm would try again for 70 seconds.
            ("NPM_CONFIG_FETCH_RETRIES", "0".into()),
            ("HTTP_PROXY", nowhere.clone()),
            ("HTTPS_PROXY", nowhere),
            ("NO_PROXY", "127.0.0.1,localhost".into()),
            ("GIT_CONFIG_GLOBAL", "/dev/null".into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            ("GIT_TERMINAL_PROMPT", "0".into()),
            ("GIT_AUTHOR_NAME", "Ada".into()),
            ("GIT_AUTHOR_EMAIL", "ada@example.org".into()),
            ("GIT_COMMITTER_NAME", "Ada".into()),
            ("GIT_COMMITTER_EMAIL", "ada@example.org".into()),
        ];
        if self.shared_folder {
            variables.push(("KUGETSU_WORKTREE", "false".into()));
        }
        match self.opencode {
            Opencode::Fake => variables.push((fake::SCRIPT_VARIABLE, self.fake_script().into())),
            // Where many tests share a slow machine, a start takes longer than the default allows.
            Opencode::Real(_) => {
                variables.push(("KUGETSU_READY_TIMEOUT", "5m".into()));
                variables.extend(SHORT_LIVED.map(|(name, value)| (name, value.into())));
            }
        }
        variables
    }

    /// `kugetsu` with these arguments, in the repository.
    pub fn kugetsu<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command(kugetsu_binary());
        command.args(arguments);
        command
    }

    /// Runs `kugetsu` to its end with an empty stdin; panics if it takes longer than 3 minutes.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        self.finish(self.kugetsu(arguments), Stdin::Null)
    }

    /// [`World::run`] with this stdin.
    #[track_caller]
    pub fn run_with<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>, stdin: Stdin) -> Output {
        self.finish(self.kugetsu(arguments), stdin)
    }

    /// Starts `kugetsu` with an empty stdin.
    pub fn spawn<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Running {
        self.start(self.kugetsu(arguments), Stdin::Null)
    }

    /// Starts `kugetsu` with this stdin.
    pub fn spawn_with<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        stdin: Stdin,
    ) -> Running {
        self.start(self.kugetsu(arguments), stdin)
    }

    /// Runs any command to its end; panics if it takes longer than 3 minutes.
    #[track_caller]
    pub fn finish(&self, command: Command, stdin: Stdin) -> Output {
        self.start(command, stdin).wait(DEADLINE)
    }

    /// Starts any command in a separate process group, as a shell does.
    pub fn start(&self, command: Command, stdin: Stdin) -> Running {
        let running = Running::start(command, stdin);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.truncate(LAST - 1);
        last.push_front(running.printed());
        running
    }

    /// This world's opencode with these arguments, in the repository.
    pub fn opencode_command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command(self.opencode.binary());
        command.args(arguments);
        command
    }

    /// Polls until `done` returns true; panics with `what` if `deadline` passes first.
    #[track_caller]
    pub fn wait_until(&self, what: &str, deadline: Duration, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + deadline;
        while !done() {
            assert!(
                Instant::now() < end,
                "not within {deadline:?}: {what}\nalive in this world: {:#?}\nthe last commands:\n{}",
                self.processes(),
                self.transcripts()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The most recent commands with their output, newest first.
    fn transcripts(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().map(Transcript::transcript).collect()
    }

    /// Every live process of this world. Excludes zombies; misses a process that cleared its environment.
    pub fn processes(&self) -> Vec<ProcessInfo> {
        processes::marked(MARKER, &self.marker)
    }

    /// [`World::processes`] without the daemon, its guards and its servers. What turns left below those is included.
    pub fn turn_processes(&self) -> Vec<ProcessInfo> {
        let mut all = self.processes();
        let Some(daemon) = self.daemon() else {
            return all;
        };
        let guards: Vec<u32> = all
            .iter()
            .filter(|one| one.parent == daemon)
            .map(|one| one.pid)
            .collect();
        all.retain(|one| {
            let is_server = guards.contains(&one.parent) && one.is_opencode();
            one.pid != daemon && !guards.contains(&one.pid) && !is_server
        });
        all
    }

    /// The server of the daemon that the turn of this process has.
    fn lent_server(&self, supervisor: u32) -> Option<u32> {
        let json = |path: &Path| {
            let bytes = std::fs::read(path).ok()?;
            serde_json::from_slice::<serde_json::Value>(&bytes).ok()
        };
        let records = crate::files_below(&self.kugetsu_home().join("sessions"));
        let turn = records.iter().find_map(|record| {
            let live = json(record)?["live"].take();
            (live["supervisor"]["pid"] == supervisor).then(|| live["turn"].clone())
        })?;
        let servers = std::fs::read_dir(self.kugetsu_home().join("run/servers")).ok()?;
        let serves = |server: &std::fs::DirEntry| {
            json(&server.path().join("turn.json")).is_some_and(|served| served["turn"] == turn)
        };
        let id = servers.flatten().find(serves)?.file_name().into_string().ok()?;
        let all = self.processes();
        let guard = all.iter().find(|one| one.command.ends_with(&id))?.pid;
        all.iter().find(|one| one.parent == guard).map(|one| one.pid)
    }

    /// The opencode below a process of this world that serves or runs a turn; not its guard. With a daemon, the server
    /// that serves its turn.
    pub fn opencode_of(&self, pid: u32) -> Option<u32> {
        if self.daemon().is_some() {
            return self.lent_server(pid);
        }
        let all = self.processes();
        let parent_of = |child: u32| all.iter().find(|one| one.pid == child).map(|one| one.parent);
        let is_below = |one: &&ProcessInfo| {
            let mut at = one.parent;
            while at != pid {
                match parent_of(at) {
                    Some(parent) => at = parent,
                    None => return false,
                }
            }
            true
        };
        all.iter()
            .filter(|one| one.is_opencode())
            .find(is_below)
            .map(|one| one.pid)
    }

    /// Sends a signal to a process; false if it is gone.
    #[allow(clippy::unused_self, reason = "what is signalled belongs to a world")]
    pub fn signal(&self, pid: u32, signal: Signal) -> bool {
        processes::signal(pid, signal).is_ok()
    }

    /// Waits until no process of this world is alive, but the daemon with its servers; panics with a list of the rest if `deadline` passes first.
    #[track_caller]
    pub fn wait_nothing_left(&self, deadline: Duration) {
        self.wait_until("no process is left", deadline, || {
            self.turn_processes().is_empty()
        });
    }

    /// Gives the fake opencode its script.
    pub fn fake(&self, script: &FakeScript) {
        assert!(
            self.opencode == Opencode::Fake,
            "a script for the fake opencode in a world with the real one"
        );
        let text = serde_json::to_string_pretty(script).expect("a script is plain data");
        std::fs::write(self.fake_script(), text).expect("a file in the temporary folder");
    }

    fn fake_script(&self) -> PathBuf {
        self.root.join("fake-opencode.json")
    }

    /// The calls of the fake opencode so far, in order, with their prompts as kugetsu got them.
    pub fn fake_calls(&self) -> Vec<FakeCall> {
        let mut calls = fake::calls(&self.home());
        for prompt in calls.iter_mut().filter_map(|call| call.prompt.as_mut()) {
            prompt.truncate(without_mark(prompt).len());
        }
        calls
    }

    /// Removes the locks that an opencode has left. 1.18.33 installs its plugin package in the background, under a lock that
    /// it does not release when it is ended; where there are tools of a user, the next one waits for it for a minute. No
    /// opencode may run.
    pub fn forget_opencode_locks(&self) {
        let _ = std::fs::remove_dir_all(self.home().join(".local/state/opencode/locks"));
    }

    /// The user's own configuration of opencode, which names the model. The repositories bring none.
    pub fn opencode_config_file(&self) -> PathBuf {
        self.home().join(".config/opencode/opencode.json")
    }

    /// What is in [`World::opencode_config_file`].
    pub fn opencode_config(&self) -> serde_json::Value {
        json!({
            // opencode adds this line to a config that lacks it.
            "$schema": "https://opencode.ai/config.json",
            "provider": {
                "scripted": {
                    "npm": "@ai-sdk/openai-compatible",
                    "name": "Scripted",
                    "options": { "baseURL": self.model.base_url(), "apiKey": "none" },
                    "models": {
                        "scripted": {
                            "name": "Scripted",
                            "tool_call": true,
                            "limit": { "context": 200_000, "output": 8_000 },
                            "cost": {
                                "input": usage::INPUT_PRICE,
                                "output": usage::OUTPUT_PRICE,
                                "cache_read": usage::CACHE_READ_PRICE,
                            },
                        },
                    },
                },
            },
            "model": "scripted/scripted",
            "small_model": "scripted/scripted",
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Repeated until none is found: a killed process may just have started another.
        for _ in 0..50 {
            let alive = self.processes();
            if alive.is_empty() {
                break;
            }
            for process in alive {
                let _ = processes::signal(process.pid, Signal::Kill);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The file of a program that is named without its folder. If std had to look for it in a `PATH` of the child's own, it
/// would fork this whole process instead of spawning the program. A `PATH` that a test sets later does not choose it.
fn on_path(program: &OsStr) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_name = Path::new(program).components().count() == 1;
    let mut found = std::env::split_paths(&path).map(|folder| folder.join(program));
    found
        .find(|file| is_name && file.is_file())
        .unwrap_or_else(|| program.into())
}
