//! Warm opencode servers. Each is lent to one turn at a time.
//!
//! A server is started for what turns have in common ([`ServerWish`]): the program, the environment, the rules and the
//! configuration. What differs from turn to turn is in files that the server reads for each prompt and for each tool
//! ([`ServerFolder`]). When a turn is over, whatever it has left below the server is ended, and the server is lent again
//! only when that is proven ([`clean`]). Otherwise it is ended.
//!
//! Every server has a guard, as the private server of a turn does, so nothing outlives the process that owns the pool.

mod clean;
mod lender;
mod loan;
mod wish;

/// The crash points of the pool.
pub(crate) mod points {
    crate::crash::crash_points! {
        SERVER_PROVEN = "server_proven";
    }
}

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::aside::aside;
use crate::opencode::{Api, Launch, Secrets, Server, ServerError, SessionContext};
use crate::process::Containment;
use crate::store::{ServedTurn, ServerFolder, Store, StoreError};
use kugetsu_api::{PoolCounts, ServerState, ServerView};

pub use lender::{Hold, Lender, Lent};
pub use loan::Loan;
use wish::ServerKey;
pub use wish::ServerWish;

/// How long a warm server may take to say that it is healthy.
const HEALTH: Duration = Duration::from_secs(1);

/// How long a turn waits for a server that was just given back, before it takes another one. Starting a server takes
/// seconds as well, and more of them on a busy machine.
const RETURN: Duration = Duration::from_secs(5);

/// How often the files of the configuration are looked at while nothing is lent.
const LOOK: Duration = Duration::from_secs(60);

/// What the pool keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// How many idle servers to keep for the newest kind of turn, started ahead of need.
    pub warm: usize,
    /// How many servers there may be, except that a turn that may run always gets one.
    pub most: usize,
    /// How many turns a server serves before it is ended.
    pub turns: u32,
    /// The resident memory, in bytes, from which a server is ended after its turn.
    pub memory: u64,
    /// How long a server stays without a turn.
    pub idle: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            warm: 1,
            most: 6,
            turns: 200,
            memory: 1 << 30,
            idle: Duration::from_mins(15),
        }
    }
}

/// Why no server could be lent.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// opencode did not start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The folder of the server could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration of the caller has no place for what a warm server needs.
    #[error("a warm server cannot be configured: {0}")]
    Configuration(String),
    /// What a server would read from files is too much to be told apart from what another one has read.
    #[error("the configuration of opencode is too large to be compared, or cannot be read")]
    Unknown,
    /// The pool ends.
    #[error("the pool of servers is closed")]
    Closed,
}

/// A pool of warm servers. Cheap to clone.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    store: Store,
    /// kugetsu's own binary.
    guard: PathBuf,
    state: Mutex<State>,
    /// Tells that a server that was given back is idle, or ends, or has ended.
    returned: Notify,
}

struct State {
    options: PoolOptions,
    idle: Vec<Warm>,
    /// The servers that were given back and are not idle yet.
    returning: Vec<ReturningServer>,
    /// Every server, with those that are lent or start.
    views: BTreeMap<Uuid, ServerView>,
    /// What the newest turn wanted, for servers that are started ahead.
    newest: Option<(ServerKey, ServerWish)>,
    counts: PoolCounts,
    closed: bool,
    /// When the files of the configuration were looked at last.
    looked_at: Instant,
}

/// A server that is in nobody's hands.
struct Warm {
    id: Uuid,
    key: ServerKey,
    server: Server,
    folder: ServerFolder,
    /// The directories that the server knows, with a digest of what the project in each configured when the server
    /// learned it.
    directories: HashMap<PathBuf, Option<String>>,
    last_directory: Option<PathBuf>,
    turns: u32,
    idle_since: Instant,
}

/// A server that was given back, while it is cleaned.
struct ReturningServer {
    id: Uuid,
    key: ServerKey,
    directory: Option<PathBuf>,
}

impl Pool {
    /// A pool below this home folder. `guard` is kugetsu's own binary. Removes the folders of servers that a killed
    /// owner has left; their guards have ended the servers. Blocks.
    pub fn open(home: PathBuf, guard: PathBuf, options: PoolOptions) -> Self {
        let store = Store::open(home);
        for id in store.server_ids() {
            // Its guard may not be done yet.
            if crate::process::sweep_marked(id).is_ok() {
                store.forget_server(id);
            }
        }
        let state = State {
            options,
            idle: Vec::new(),
            returning: Vec::new(),
            views: BTreeMap::new(),
            newest: None,
            counts: PoolCounts::default(),
            closed: false,
            looked_at: Instant::now(),
        };
        Self(Arc::new(Inner {
            store,
            guard,
            state: Mutex::new(state),
            returned: Notify::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the limits for later turns.
    pub fn set_options(&self, options: PoolOptions) {
        self.state().options = options;
    }

    /// Lends a server to a turn: a warm one that fits, or a new one. A server that is prepared when this future is dropped
    /// is ended.
    pub async fn lend(&self, wish: ServerWish) -> Result<Loan, PoolError> {
        let (key, parts, wish) = aside(move || {
            let wish = wish.within_own_limits();
            let (key, parts) = wish.key();
            (key, parts, wish)
        })
        .await;
        let key = key.ok_or(PoolError::Unknown)?;
        self.wait_for_return(key, &wish.directory).await;
        let pool = self.clone();
        // In a task of its own, so that no server is forgotten half-way.
        match tokio::spawn(async move { pool.lend_now(key, parts, wish).await }).await {
            Ok(lent) => lent,
            Err(_) => Err(PoolError::Closed),
        }
    }

    async fn lend_now(
        &self,
        key: ServerKey,
        parts: Option<String>,
        wish: ServerWish,
    ) -> Result<Loan, PoolError> {
        let loan = loop {
            let Some(warm) = self.take_idle(key, &wish.directory)? else {
                break None;
            };
            match self.prepare(warm, &wish, parts.as_ref()).await {
                Ok(loan) => break Some(loan),
                Err(why) => tracing::info!(%why, "a warm server is not used again"),
            }
        };
        let loan = match loan {
            Some(loan) => {
                self.state().counts.warm_starts += 1;
                loan
            }
            None => self.lend_new(key, &wish, parts).await?,
        };
        self.state().newest = Some((key, wish.without_turn()));
        self.keep_warm();
        Ok(loan)
    }

    /// The idle server that fits best: the one that served this directory last, or else the one that was used last.
    fn take_idle(&self, key: ServerKey, directory: &Path) -> Result<Option<Warm>, PoolError> {
        let mut state = self.state();
        if state.closed {
            return Err(PoolError::Closed);
        }
        let fitting = state.idle.iter().enumerate().filter(|(_, warm)| warm.key == key);
        let best = fitting.max_by_key(|(_, warm)| {
            let knows = warm.directories.contains_key(directory);
            (
                warm.last_directory.as_deref() == Some(directory),
                knows,
                warm.idle_since,
            )
        });
        let Some((at, _)) = best else {
            return Ok(None);
        };
        let warm = state.idle.swap_remove(at);
        state.set(warm.id, ServerState::Lent);
        Ok(Some(warm))
    }

    /// Waits for a server that was just given back, if it fits better than every idle one.
    async fn wait_for_return(&self, key: ServerKey, directory: &Path) {
        let until = tokio::time::Instant::now() + RETURN;
        loop {
            // Made before the look, so that no return is missed.
            let returned = self.0.returned.notified();
            if !self.state().will_return_a_better_one(key, directory)
                || tokio::time::timeout_at(until, returned).await.is_err()
            {
                return;
            }
        }
    }

    /// Keeps a server that is given back in mind until the value is dropped.
    fn returning(&self, warm: &Warm) -> Returning {
        self.state().returning.push(ReturningServer {
            id: warm.id,
            key: warm.key,
            directory: warm.last_directory.clone(),
        });
        Returning {
            pool: self.clone(),
            id: warm.id,
        }
    }

    /// Makes an idle server one of this turn. A server that cannot be used is ended.
    async fn prepare(
        &self,
        mut warm: Warm,
        wish: &ServerWish,
        parts: Option<&String>,
    ) -> Result<Loan, String> {
        let healthy = tokio::time::timeout(HEALTH, warm.server.api().health()).await;
        let api = warm.server.api().for_directory(&wish.directory);
        let ready = match healthy {
            Err(_) => Err("it does not answer".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(_)) => match warm.directories.get(&wish.directory) {
                // opencode reads what a project configures once.
                Some(known) if known.as_ref() != parts || known.is_none() => {
                    api.dispose().await.map_err(|error| error.to_string())
                }
                _ => Ok(()),
            },
        };
        let folder = warm.folder.clone();
        let served = wish.clone();
        let lent = match ready {
            Ok(()) => {
                aside(move || {
                    if !folder.is_untouched() {
                        return Err("something else has written into its folder".to_owned());
                    }
                    lend_folder(&folder, &served).map_err(|error| error.to_string())
                })
                .await
            }
            Err(problem) => Err(problem),
        };
        match lent {
            Ok(()) => {
                warm.directories.insert(wish.directory.clone(), parts.cloned());
                Ok(self.loan(warm, api, wish))
            }
            Err(problem) => {
                self.end(warm, true).await;
                Err(problem)
            }
        }
    }

    fn loan(&self, mut warm: Warm, api: Api, wish: &ServerWish) -> Loan {
        warm.last_directory = Some(wish.directory.clone());
        warm.turns += 1;
        warm.server.forget_stderr();
        let mut state = self.state();
        if let Some(view) = state.views.get_mut(&warm.id) {
            view.state = ServerState::Lent;
            view.turn = Some(wish.turn);
            view.directory = Some(wish.directory.clone());
            view.turns = warm.turns;
        }
        drop(state);
        Loan::new(self.clone(), warm, api, wish.grace)
    }

    async fn lend_new(
        &self,
        key: ServerKey,
        wish: &ServerWish,
        parts: Option<String>,
    ) -> Result<Loan, PoolError> {
        self.make_room().await;
        let mut warm = self.start(key, wish).await?;
        let (folder, served) = (warm.folder.clone(), wish.clone());
        if let Err(error) = aside(move || lend_folder(&folder, &served)).await {
            self.end(warm, true).await;
            return Err(error.into());
        }
        warm.directories.insert(wish.directory.clone(), parts);
        let api = warm.server.api().for_directory(&wish.directory);
        Ok(self.loan(warm, api, wish))
    }

    /// Ends idle servers until there is room for one more.
    async fn make_room(&self) {
        loop {
            let oldest = {
                let mut state = self.state();
                if state.views.len() < state.options.most {
                    return;
                }
                let oldest = state
                    .idle
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, warm)| warm.idle_since);
                match oldest.map(|(at, _)| at) {
                    Some(at) => state.idle.swap_remove(at),
                    None => return,
                }
            };
            self.end(oldest, true).await;
        }
    }

    /// Starts a server. Dropping the future undoes a partial start.
    async fn start(&self, key: ServerKey, wish: &ServerWish) -> Result<Warm, PoolError> {
        let id = Uuid::now_v7();
        let starting = Starting::new(self, id)?;
        let folder = self.0.store.server_folder(id, wish.shell());
        let own = folder.clone();
        aside(move || own.make()).await?;
        let context =
            SessionContext::of_warm_server(wish.config.clone().unwrap_or_default(), &folder.context())
                .map_err(PoolError::Configuration)?;
        let launch = Launch {
            opencode: wish.opencode(),
            containment: Containment {
                guard_program: self.0.guard.clone(),
                mark: id,
                environment: wish.environment_for(self.0.guard.clone(), Some(&folder.shell())),
                grace: wish.grace,
                cgroup: true,
                limits: Some(wish.limits.clone()),
            },
            directory: folder.work(),
            rules: Some(wish.rules.clone()),
            debug_log: None,
            ready: wish.ready,
            secrets: Secrets::default(),
            context,
            ignore_project: wish.ignore_project,
        };
        let server = Server::start(&launch).await?;
        starting.done(server.process_id());
        self.state().counts.cold_starts += 1;
        Ok(Warm {
            id,
            key,
            server,
            folder,
            directories: HashMap::new(),
            last_directory: None,
            turns: 0,
            idle_since: Instant::now(),
        })
    }

    /// Starts servers ahead of need, in the background.
    fn keep_warm(&self) {
        let wanted = {
            let state = self.state();
            let Some((key, wish)) = state.newest.clone() else {
                return;
            };
            let ready = state.idle.iter().filter(|warm| warm.key == key).count();
            let starting = state
                .views
                .values()
                .filter(|view| view.state == ServerState::Starting);
            let enough = ready + starting.count() >= state.options.warm;
            if state.closed || enough || state.views.len() >= state.options.most {
                return;
            }
            (key, wish)
        };
        let pool = self.clone();
        tokio::spawn(async move {
            let (key, wish) = wanted;
            match pool.start(key, &wish).await {
                Ok(warm) => pool.put(warm).await,
                Err(error) => tracing::warn!(%error, "no server could be started ahead"),
            }
        });
    }

    /// Takes back a server that is clean.
    async fn put(&self, mut warm: Warm) {
        warm.idle_since = Instant::now();
        let tree = warm.server.tree();
        let memory = match tree {
            Some(tree) => aside(move || tree.memory()).await,
            None => None,
        };
        let kept = {
            let mut state = self.state();
            let too_old = warm.turns >= state.options.turns;
            let too_large = memory.is_some_and(|memory| memory > state.options.memory);
            // While it was given back, another one may have been started.
            let staying = state
                .views
                .values()
                .filter(|view| view.state != ServerState::Ending);
            let too_many = staying.count() > state.options.most;
            if state.closed || too_old || too_large || too_many {
                Some(warm)
            } else {
                if let Some(view) = state.views.get_mut(&warm.id) {
                    view.state = ServerState::Idle;
                    view.turn = None;
                    view.memory_bytes = memory;
                    view.since = Timestamp::now();
                }
                state.idle.push(warm);
                None
            }
        };
        if let Some(warm) = kept {
            self.end(warm, false).await;
            self.keep_warm();
        }
    }

    /// Ends a server and everything below it.
    async fn end(&self, mut warm: Warm, now: bool) {
        self.state().set(warm.id, ServerState::Ending);
        // Nobody needs to wait for its return.
        self.0.returned.notify_waiters();
        warm.server.stop(now).await;
        self.forget(warm.id);
    }

    fn forget(&self, id: Uuid) {
        self.state().views.remove(&id);
        self.0.store.forget_server(id);
    }

    /// Ends servers that nobody has used for a while, and those whose program was replaced. To be called now and then.
    pub async fn tidy(&self) {
        let over: Vec<Warm> = {
            let mut state = self.state();
            let (limit, warm) = (state.options.idle, state.options.warm);
            let newest = state.newest.as_ref().map(|(key, _)| *key);
            let mut spare = 0;
            let is_over = |one: &mut Warm| {
                if one.server.has_ended() {
                    return true;
                }
                let is_spare = Some(one.key) == newest && spare < warm;
                spare += usize::from(is_spare);
                !is_spare && one.idle_since.elapsed() >= limit
            };
            state.idle.extract_if(.., is_over).collect()
        };
        for warm in over {
            self.end(warm, false).await;
        }
        self.end_outdated().await;
        self.keep_warm();
    }

    /// Ends the idle servers of the newest kind of turn if it means another kind by now: opencode or its configuration has
    /// changed. Looks at the files of the configuration, so not at every call.
    async fn end_outdated(&self) {
        let newest = {
            let mut state = self.state();
            if state.looked_at.elapsed() < LOOK {
                return;
            }
            state.looked_at = Instant::now();
            state.newest.clone()
        };
        let Some((key, wish)) = newest else {
            return;
        };
        let (now, wish) = aside(move || {
            let (now, _) = wish.key();
            (now, wish)
        })
        .await;
        if now == Some(key) {
            return;
        }
        let outdated: Vec<Warm> = {
            let mut state = self.state();
            state.newest = now.map(|now| (now, wish));
            let idle = std::mem::take(&mut state.idle);
            let (outdated, kept) = idle.into_iter().partition(|warm| warm.key == key);
            state.idle = kept;
            outdated
        };
        for warm in outdated {
            self.end(warm, false).await;
        }
    }

    /// Ends every idle server, and lends no further one. Servers that are lent end when they are given back. Returns when
    /// those that were given back before have ended as well.
    pub async fn close(&self) {
        let idle = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.idle)
        };
        let mut ending = tokio::task::JoinSet::new();
        for warm in idle {
            let pool = self.clone();
            ending.spawn(async move { pool.end(warm, false).await });
        }
        ending.join_all().await;
        loop {
            let returned = self.0.returned.notified();
            if self.state().returning.is_empty() {
                return;
            }
            returned.await;
        }
    }

    /// Every server of the pool, oldest first.
    pub fn servers(&self) -> Vec<ServerView> {
        self.state().views.values().cloned().collect()
    }

    /// What the pool has done.
    pub fn counts(&self) -> PoolCounts {
        self.state().counts
    }
}

/// Makes a server one of this turn. Blocks.
fn lend_folder(folder: &ServerFolder, wish: &ServerWish) -> Result<(), StoreError> {
    let turn = ServedTurn { turn: wish.turn };
    folder.lend(&turn, &wish.variables, &wish.context)
}

impl State {
    /// Whether a server that is given back fits better than every idle one: it has just served the directory, and no idle
    /// one knows that; or none is idle.
    fn will_return_a_better_one(&self, key: ServerKey, directory: &Path) -> bool {
        let idle = || self.idle.iter().filter(|warm| warm.key == key);
        if idle().any(|warm| warm.directories.contains_key(directory)) {
            return false;
        }
        let is_ending = |id| {
            let view = self.views.get(&id);
            view.is_none_or(|view| view.state == ServerState::Ending)
        };
        let none_is_idle = idle().next().is_none();
        let mut returning = self.returning.iter();
        returning.any(|server| {
            let served_it = server.directory.as_deref() == Some(directory);
            server.key == key && (served_it || none_is_idle) && !is_ending(server.id)
        })
    }

    fn set(&mut self, server: Uuid, state: ServerState) {
        if let Some(view) = self.views.get_mut(&server) {
            view.state = state;
        }
    }
}

/// The entry of a server that is given back. Dropping this value removes it.
struct Returning {
    pool: Pool,
    id: Uuid,
}

impl Drop for Returning {
    fn drop(&mut self) {
        self.pool.state().returning.retain(|server| server.id != self.id);
        self.pool.0.returned.notify_waiters();
    }
}

/// A server that starts. Dropping this value, without [`Starting::done`], forgets the server.
struct Starting<'a> {
    pool: &'a Pool,
    id: Uuid,
    is_done: bool,
}

impl<'a> Starting<'a> {
    fn new(pool: &'a Pool, id: Uuid) -> Result<Self, PoolError> {
        let mut state = pool.state();
        if state.closed {
            return Err(PoolError::Closed);
        }
        let view = ServerView {
            server: id,
            pid: None,
            state: ServerState::Starting,
            turn: None,
            directory: None,
            turns: 0,
            memory_bytes: None,
            since: Timestamp::now(),
        };
        state.views.insert(id, view);
        Ok(Self {
            pool,
            id,
            is_done: false,
        })
    }

    fn done(mut self, pid: Option<u32>) {
        self.is_done = true;
        if let Some(view) = self.pool.state().views.get_mut(&self.id) {
            view.pid = pid;
            view.state = ServerState::Idle;
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.pool.forget(self.id);
        }
    }
}
