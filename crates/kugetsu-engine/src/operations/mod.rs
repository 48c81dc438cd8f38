//! The operations of the engine, which the command line and any other front end call.

/// The crash points of operations.
pub(crate) mod points {
    crate::crash::crash_points! {
        TURN_LEASED = "turn_leased";
        FORK_INTENDED = "fork_intended";
        FORK_MADE = "fork_made";
        FORK_MARKED = "fork_marked";
        FORK_KNOWN = "fork_known";
        FORK_SETTLED = "fork_settled";
        TURN_LIVE = "turn_live";
        TURN_ENDED = "turn_ended";
        REQUEST_RECORDED = "request_recorded";
        TURN_LOGGED = "turn_logged";
        BASE_ASKED = "base_asked";
        BASE_MADE = "base_made";
        DESTROY_DELETED = "destroy_deleted";
        DESTROY_TRASHED = "destroy_trashed";
        WORKTREE_INTENDED = "worktree_intended";
        WORKTREE_MADE = "worktree_made";
        WORKTREE_READY = "worktree_ready";
        WORKTREE_SAVED = "worktree_saved";
        WORKTREE_REMOVED = "worktree_removed";
        BACKUP_RECORDS_READ = "backup_records_read";
    }
}

mod attach;
mod backup;
mod broker;
mod config;
mod control;
mod deliver;
mod destroy;
mod detach;
mod diff;
mod doctor;
mod error;
mod evidence;
mod family;
mod gc;
mod hooks;
mod init;
mod inspect;
mod interrupts;
mod issue;
mod model_check;
mod move_;
mod pending;
mod permit;
mod prune;
mod query;
mod recover;
mod renumber;
mod repository;
mod request;
mod restore_backup;
mod sandbox;
mod session_context;
mod spawn;
#[cfg(test)]
mod tests;
mod trust;
mod worktree;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use uuid::Uuid;

pub use attach::{AttachCommand, Attachment};
pub use backup::{BackedUp, BackupTarget};
pub use broker::{DELEGATE_COMMAND, TOO_MANY};
pub use control::Stopped;
pub use destroy::Removed;
pub use diff::{DiffForm, DiffView};
pub use error::EngineError;
pub use family::Waiting;
pub use init::{InitReport, InitRequest};
pub use kugetsu_api::{
    Action, BrokenFile, Check, DayView, ErrorCode, Health, LiveState, LiveView, PendingView, Query, RepoView,
};
pub use model_check::ModelCheck;
pub use move_::{Moved, MovedRepo};
pub use pending::describe;
pub use permit::{Explanation, Permit, Subject};
pub use prune::{Kept, Orphan, Orphans, Pruned};
pub use query::QueryCache;
pub use repository::CloneRepo;
pub use request::{Mode, TurnOptions, TurnReport, TurnRequest, turn_id};
pub use restore_backup::{RestoreRequest, RestoredBackup};
pub use spawn::{TurnControl, TurnDone, TurnFeed, TurnHandle, WaitsFor};
pub use worktree::{RemovedWorktree, WorktreeRequest};

use crate::cancel::Cancel;
pub use crate::environment::Environment;
use crate::git::GitRunner;
use crate::opencode::{
    ConfigProblem, Database, Launch, Opencode, Search, Secrets, ServerError, SessionContext,
};
use crate::process::sandbox::Available;
use crate::process::{self, Containment, Output};
use crate::settings::{Origin, Settings};
pub use crate::store::{Collected, LastingLog, Sizes};
use crate::store::{RecordKey, Store};
use crate::transport::{AutoConnector, Connector};
use crate::turn::{SharedBudget, status};
use kugetsu_api::{
    Address, LiveTurn, RepoRef, RunState, SessionRecord, SessionState, SessionSummary, TurnStatus,
};

/// The log of `--debug`, in the session's folder.
pub const DEBUG_LOG: &str = LastingLog::Debug.file_name();

/// All operations on one store.
#[derive(Clone, Debug)]
pub struct Engine {
    store: Store,
    settings: Arc<Settings>,
    environment: Environment,
    /// Ends the blocking work of this engine's operation when it is set.
    cancel: Cancel,
    connectors: AutoConnector,
    /// Whether this process may run other turns. If it may, `stop` never ends the process to stop one turn.
    shared_process: bool,
    turns: spawn::TurnRegistry,
    /// The turn whose tool this engine works for.
    parent: Option<Uuid>,
    /// The span that this engine's turns belong to, as hooks and tools get it.
    traceparent: Option<String>,
    /// The budget that its turns share with others.
    shared_budget: Option<Arc<dyn SharedBudget>>,
    /// What this machine has for sandboxes.
    sandboxes: Arc<OnceLock<Available>>,
}

impl Engine {
    /// Opens an engine on the store in this folder. The folder is made when the first file is written. The engine
    /// assumes that its process runs many turns.
    pub fn open(home: PathBuf, settings: Settings, environment: Environment) -> Self {
        Self {
            store: Store::open(home).with_lock_wait(settings.lock_timeout),
            settings: Arc::new(settings),
            environment,
            cancel: Cancel::default(),
            connectors: AutoConnector::default(),
            shared_process: true,
            turns: spawn::TurnRegistry::default(),
            parent: None,
            traceparent: None,
            shared_budget: None,
            sandboxes: Arc::default(),
        }
    }

    /// Marks the process as one that runs a single turn, so that `stop` may end the process if the turn ignores
    /// signals.
    #[must_use]
    pub fn for_one_turn(mut self) -> Self {
        self.shared_process = false;
        self
    }

    /// Replaces the connector that starts a private opencode server for each turn.
    #[must_use]
    pub fn with_server_connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connectors.serve = connector;
        self
    }

    /// Has turns of this engine share a budget with others.
    #[must_use]
    pub fn with_shared_budget(mut self, budget: Arc<dyn SharedBudget>) -> Self {
        self.shared_budget = Some(budget);
        self
    }

    /// Replaces the settings for later requests. Running requests keep their settings.
    #[must_use]
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.store = self.store.with_lock_wait(settings.lock_timeout);
        self.settings = Arc::new(settings);
        self
    }

    /// Gives the hooks and tools of turns this span as their parent (`TRACEPARENT`), in the format of W3C Trace Context.
    #[must_use]
    pub fn with_traceparent(mut self, traceparent: Option<String>) -> Self {
        self.traceparent = traceparent;
        self
    }

    /// The environment of the programs that this engine starts.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The settings of this engine's requests.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn git(&self) -> GitRunner {
        GitRunner::new(self.environment.clone(), self.cancel.clone())
    }

    /// Whether a live turn still runs. The lease of the session decides: the supervisor holds this lock while the turn
    /// runs, and releases it when the turn panics, even if the process continues.
    pub fn turn_lives(&self, address: &Address, live: &LiveTurn) -> bool {
        let Some(holder) = self.store.lease_holder(&address.into()) else {
            return false;
        };
        // The holder may be another command, such as one that adopts a dead turn.
        holder.is_none_or(|holder| match holder.turn {
            Some(turn) => turn == live.turn,
            // A version that did not name the turn. Other commands name none either.
            None => {
                Mode::VERBS.contains(&holder.what.as_str())
                    && holder.pid == live.supervisor.pid
                    && holder.host == live.supervisor.host
            }
        })
    }

    /// What a live turn is doing; `None` if its supervisor is dead.
    fn live_state(&self, address: &Address, live: &LiveTurn) -> Option<RunState> {
        if !self.turn_lives(address, live) {
            return None;
        }
        let status = self.live_status(address, live.turn);
        Some(status.map_or(RunState::Running, |status| status.state))
    }

    /// The status of a running turn. `None` while the turn is starting.
    pub fn live_status(&self, address: &Address, turn: Uuid) -> Option<TurnStatus> {
        status::read(&self.store, &address.into()).filter(|status| status.turn == turn)
    }

    /// The state of a session.
    pub fn state_of(&self, record: &SessionRecord) -> SessionState {
        record.state(|live| self.live_state(&record.address, live))
    }

    /// The state of a session, from its summary.
    pub fn state_of_summary(&self, summary: &SessionSummary) -> SessionState {
        summary.state(|live| self.live_state(&summary.address, live))
    }

    /// The opencode to use. Its version and database path come from a cache if the binary is unchanged.
    pub fn opencode(&self) -> Result<Opencode, EngineError> {
        let named = self.settings.opencode.as_deref();
        // Kept apart so that an error names the source of a wrong path.
        let (by_environment, configured) = match self.settings.origins.opencode {
            Origin::Environment(_) => (named.map(Path::as_os_str), None),
            Origin::Default | Origin::File => (None, named),
        };
        let cache_file = self.store.home().join("run").join("opencode.json");
        let search = Search {
            configured,
            env_override: by_environment,
            ..Search::of(&self.environment, &cache_file, &self.cancel)
        };
        Ok(crate::opencode::probe(&search)?)
    }

    fn database_wait(&self) -> Duration {
        self.settings.database_timeout
    }

    fn write_database(&self, opencode: &Opencode) -> Result<Database, EngineError> {
        Ok(opencode.database_file().open_write(self.database_wait())?)
    }

    /// The containment of programs that are started with this mark.
    fn containment(&self, mark: Uuid) -> Containment {
        Containment {
            guard_program: self.environment.program().to_owned(),
            environment: self.environment.clone(),
            mark,
            grace: self.settings.grace,
            cgroup: true,
            limits: None,
        }
    }

    /// The launch of a short opencode command outside a turn. It ignores what the repository brings for opencode.
    fn short_launch(&self, opencode: &Opencode, directory: PathBuf) -> Launch {
        Launch {
            opencode: opencode.clone(),
            containment: self.containment(Uuid::now_v7()),
            directory,
            rules: None,
            debug_log: None,
            ready: self.settings.ready_timeout,
            secrets: Secrets::default(),
            context: SessionContext::default(),
            ignore_project: true,
        }
    }

    /// Runs a short opencode command to its end. Waits for a locked database first, because each command reports a
    /// locked database in its own words.
    fn command(
        &self,
        opencode: &Opencode,
        directory: PathBuf,
        args: &[&str],
        stdout: Option<std::fs::File>,
    ) -> Result<Output, EngineError> {
        self.command_of(&self.short_launch(opencode, directory), args, stdout)
    }

    /// [`Engine::command`] with this launch.
    fn command_of(
        &self,
        launch: &Launch,
        args: &[&str],
        stdout: Option<std::fs::File>,
    ) -> Result<Output, EngineError> {
        let opencode = &launch.opencode;
        if let Err(error) = self
            .write_database(opencode)
            .and_then(|mut database| Ok(database.wait_until_writable()?))
            && matches!(&error, EngineError::Database(error) if error.is_temporary())
        {
            return Err(error);
        }
        let mut spec = launch.guard_spec(args.iter().map(Into::into).collect());
        if let Some(file) = stdout {
            spec.stdout = process::Sink::File(file);
        }
        let output = process::run_until_cancelled(spec, Duration::from_secs(60), &self.cancel)?;
        if output.exit.success() {
            return Ok(output);
        }
        if let Some(problem) = ConfigProblem::from_output(&output.stderr) {
            return Err(ServerError::Config(problem).into());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
        Err(EngineError::Command {
            command: args.join(" "),
            problem: format!(
                "{} ({})",
                last.unwrap_or("it printed no error").trim(),
                output.exit
            ),
        })
    }

    /// The record of an address. An address without a record is an error.
    pub fn record(&self, address: &Address) -> Result<SessionRecord, EngineError> {
        self.store
            .session_record(address)?
            .ok_or_else(|| self.no_session(address))
    }

    /// The error of an address without a session, which says if the trash has one.
    fn no_session(&self, address: &Address) -> EngineError {
        let address = address.clone();
        match self.store.newest_trashed(&RecordKey::from(&address)) {
            Ok(entry) if self.is_whole(&entry) => EngineError::Destroyed {
                when: entry.when,
                address,
            },
            _ => EngineError::NoSession(address),
        }
    }

    /// The repository's own base. A repository without a base of its own is an error.
    pub fn own_base(&self, repo: &RepoRef) -> Result<kugetsu_api::BaseRecord, EngineError> {
        self.store.base(repo)?.ok_or_else(|| EngineError::NotFound {
            code: ErrorCode::NoBase,
            problem: format!("{repo} has no base session of its own"),
            hint: "make one inside a clone of the repository: kugetsu init".to_owned(),
        })
    }

    /// The base for a repository: its own, or else the default base.
    pub fn base_for(&self, repo: &RepoRef) -> Result<kugetsu_api::BaseRecord, EngineError> {
        if let Some(base) = self.store.base(repo)? {
            return Ok(base);
        }
        if let Some(default) = self.store.default_base()?
            && let Some(base) = self.store.base(&default)?
        {
            return Ok(base);
        }
        Err(EngineError::NoBase(repo.clone()))
    }
}

/// Opens opencode's database for reading.
fn read_database(opencode: &Opencode) -> Result<Database, EngineError> {
    Ok(opencode.database_file().open_read()?)
}
