//! The daemon as a whole: what it opens, what it runs, and how it ends.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use kugetsu_api::{Address, DaemonStatus, RepoRef, SpendingReport, TaskId, TurnEnd};
use kugetsu_engine::operations::{Engine, Environment, QueryCache, TurnControl};
use kugetsu_engine::pool::{Pool, PoolOptions};
use kugetsu_engine::settings::Settings;
use kugetsu_engine::transport::PooledServers;
use kugetsu_engine::turn::SharedBudget;

use crate::growth::Growth;
use crate::http;
use crate::http::logins::Logins;
use crate::http::rates::{Client, Rates};
use crate::http::room::{Capacity, Room};
use crate::http::serve::OpenFiles;
use crate::http::slots::SlotCommand;
use crate::ledger::{Budgets, Ledger};
use crate::metrics::Metrics;
use crate::place::{self, Lock};
use crate::queue::{Queue, QueueError, QueueOptions, SqliteQueue};
use crate::runner;
use crate::slots::Slots;
use crate::tokens::KnownTokens;
use crate::trace::Tracer;

/// How often the pool is tidied.
const TIDY: Duration = Duration::from_secs(5);
/// How often old tasks are forgotten.
const FORGET: Duration = Duration::from_hours(1);
/// How long turns that are stopped may take to end.
const END: Duration = Duration::from_secs(30);
/// How long requests may take to be answered when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How long a turn waits until what it has spent is on disk.
const SPENT: Duration = Duration::from_secs(2);
/// How many tasks may wait.
const MAX_QUEUED: u64 = 100_000;
/// How often a task is tried before it is parked.
const MAX_TRIES: u32 = 3;

/// How the daemon runs.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// kugetsu's home.
    pub home: PathBuf,
    /// The settings.
    pub settings: Settings,
    /// The environment of turns that the daemon runs.
    pub environment: Environment,
    /// kugetsu's version.
    pub version: &'static str,
    /// How many turns may run at once, instead of what the settings say.
    pub max_concurrent: Option<u32>,
    /// The longest time of a task's turn.
    pub task_timeout: Option<Duration>,
    /// How long it stays without work; `None`: until it is stopped.
    pub idle: Option<Duration>,
    /// The address to listen on for HTTP, besides the socket.
    pub listen: Option<SocketAddr>,
    /// Whether a proxy makes the connections to that address, so that they say nothing of who makes a request.
    pub behind_proxy: bool,
    /// The certificate and the key, in PEM, with which that address has TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// A further address for health and metrics alone, without access control.
    pub metrics: Option<SocketAddr>,
    /// What turns may cost in a day, instead of what the settings say.
    pub budget_daily: Option<f64>,
}

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another daemon serves this home.
    #[error("a daemon runs already for {}", .0.display())]
    Running(PathBuf),
    /// The path of the socket is too long for the system.
    #[error("the path of the daemon's socket is too long: {}", .0.display())]
    LongSocket(PathBuf),
    /// A file could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The failed action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The address could not be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// The certificate or the key cannot be used.
    #[error("TLS is not possible with these files: {0}")]
    Tls(String),
    /// The queue could not be opened.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// What writes to the queue has ended, so that no task can be run any more.
    #[error("the daemon can no longer use its queue")]
    QueueLost,
    /// The daemon ended by itself.
    #[error("the daemon has failed: {0}")]
    Api(std::io::Error),
    /// The system has no event loop or signal handler.
    #[error("the system provides no event loop or signal handler: {0}")]
    System(std::io::Error),
}

/// Why a daemon that ran has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// It finished what ran first.
    Drained,
}

/// How far the end of the daemon has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// It goes on.
    No,
    /// It finishes what runs.
    Draining,
    /// It ends what runs.
    Now,
}

/// A daemon that has opened everything and listens.
pub struct Daemon {
    app: Arc<App>,
    socket: tokio::net::UnixListener,
    listener: Option<tokio::net::TcpListener>,
    tls: Option<TlsAcceptor>,
    metrics: Option<tokio::net::TcpListener>,
    files: OpenFiles,
    _lock: Lock,
}

/// What all parts of the daemon share.
pub(crate) struct App {
    pub(crate) home: PathBuf,
    pub(crate) version: &'static str,
    pub(crate) started: Timestamp,
    pub(crate) task_timeout: Option<Duration>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) slots: Slots,
    /// Whether the number of places does not follow the settings.
    has_own_most: bool,
    pub(crate) pool: Pool,
    pub(crate) tokens: KnownTokens,
    pub(crate) logins: Logins,
    pub(crate) rates: Rates,
    /// Streams of events that are open.
    pub(crate) streams: Arc<Room<Client>>,
    pub(crate) behind_proxy: bool,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) metrics: Metrics,
    pub(crate) growth: Growth,
    pub(crate) tracer: Tracer,
    budget_daily: Option<f64>,
    /// Where it listens for HTTP.
    listen: Option<SocketAddr>,
    pub(crate) has_tls: bool,
    engine: Mutex<Engine>,
    pub(crate) query_cache: Arc<QueryCache>,
    ending: watch::Sender<Ending>,
    /// Whether connections are to end with the requests that they carry.
    closing: watch::Sender<bool>,
    /// Tasks that somebody has cancelled while they ran.
    cancelled: Mutex<HashSet<TaskId>>,
    /// The turns of tasks that run.
    turns: Mutex<HashMap<TaskId, RunningTask>>,
    /// The places of commands.
    commands: Mutex<HashMap<Uuid, mpsc::Sender<SlotCommand>>>,
}

/// The turn of a task that runs.
#[derive(Clone)]
pub(crate) struct RunningTask {
    pub(crate) turn: Uuid,
    pub(crate) control: TurnControl,
}

impl Daemon {
    /// Opens everything, and listens. Blocks; to be called inside a tokio runtime.
    pub fn open(options: DaemonOptions) -> Result<Self, DaemonError> {
        let lock = Lock::take(&options.home)?;
        let files = OpenFiles::raise();
        let limits = QueueOptions {
            max_queued: MAX_QUEUED,
            max_tries: MAX_TRIES,
        };
        let most = options.max_concurrent;
        let most = most.unwrap_or(options.settings.max_concurrent.get());
        let queue = SqliteQueue::open(&options.home.join(kugetsu_engine::home::QUEUE), limits)?;
        let program = options.environment.program().to_owned();
        let pool = Pool::open(options.home.clone(), program, pool_options(&options.settings));
        let tracer = Tracer::open(&options.environment);
        let budgets = budgets(&options.settings, options.budget_daily);
        let engine = Engine::open(options.home.clone(), options.settings, options.environment)
            .with_server_connector(Arc::new(PooledServers::of(Arc::new(pool.clone()))));
        let listener = options.listen.map(listen).transpose()?;
        let tls = options
            .tls
            .as_ref()
            .map(|(certificate, key)| http::tls::acceptor(certificate, key));
        let tls = tls.transpose().map_err(DaemonError::Tls)?;
        let has_tls = tls.is_some();
        let metrics = options.metrics.map(listen).transpose()?;
        let ledger =
            Ledger::open(&options.home, budgets, Timestamp::now()).map_err(|source| DaemonError::File {
                action: "read what was spent in",
                path: options.home.clone(),
                source,
            })?;
        let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let socket = place::listen(&options.home, &lock)?;
        let app = App {
            tokens: KnownTokens::of(&options.home),
            logins: Logins::default(),
            rates: Rates::new(),
            streams: Room::new(Capacity {
                owner: files.share(8),
                others: files.share(16),
                each: 64,
            }),
            ledger: Arc::new(ledger),
            metrics: Metrics::new(),
            growth: Growth::new(),
            tracer,
            budget_daily: options.budget_daily,
            behind_proxy: options.behind_proxy,
            listen: address,
            has_tls,
            home: options.home,
            version: options.version,
            started: Timestamp::now(),
            task_timeout: options.task_timeout,
            queue: Arc::new(queue),
            slots: Slots::new(most),
            has_own_most: options.max_concurrent.is_some(),
            pool,
            engine: Mutex::new(engine),
            query_cache: Arc::default(),
            ending: watch::Sender::new(Ending::No),
            closing: watch::Sender::new(false),
            cancelled: Mutex::default(),
            turns: Mutex::default(),
            commands: Mutex::default(),
        };
        Ok(Self {
            app: Arc::new(app),
            socket,
            listener,
            tls,
            metrics,
            files,
            _lock: lock,
        })
    }

    /// Where it listens for HTTP, besides the socket.
    pub(crate) fn url(&self) -> Option<String> {
        self.app.url()
    }

    /// Where it serves metrics to everybody.
    pub(crate) fn metrics_url(&self) -> Option<String> {
        let address = self.metrics.as_ref()?.local_addr().ok()?;
        Some(format!("http://{address}/metrics"))
    }

    /// A handle that ends the daemon, or changes its settings.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.app))
    }

    /// Runs until the daemon is asked to end.
    pub async fn run(self) -> Result<Ended, DaemonError> {
        let app = Arc::clone(&self.app);
        let socket_path = place::socket_path(&app.home);
        let files = self.files;
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(http::serve_socket(Arc::clone(&app), self.socket, files));
        if let Some(listener) = self.listener {
            serving.spawn(http::serve_address(Arc::clone(&app), listener, self.tls, files));
        }
        if let Some(listener) = self.metrics {
            serving.spawn(http::serve_metrics(Arc::clone(&app), listener, files));
        }
        let weights = weights(app.engine().settings());
        if let Err(error) = app.queue.set_weights(weights).await {
            tracing::error!("the weights of repositories are not used: {error}");
        }
        let tidying = tokio::spawn({
            let app = Arc::clone(&app);
            async move {
                loop {
                    tokio::time::sleep(TIDY).await;
                    app.pool.tidy().await;
                    app.rates.tidy();
                    app.write_what_waits().await;
                }
            }
        });
        // It may take long, and nothing waits for it.
        let forgetting = tokio::spawn({
            let app = Arc::clone(&app);
            async move {
                loop {
                    tokio::time::sleep(TIDY).await;
                    app.forget_old_tasks().await;
                    app.collect_garbage().await;
                    tokio::time::sleep(FORGET).await;
                }
            }
        });
        let mut dispatching = tokio::spawn(runner::dispatch(Arc::clone(&app)));
        let ended = tokio::select! {
            ended = app.until_over() => Ok(ended),
            // The next daemon opens the queue anew.
            _ = &mut dispatching => Err(DaemonError::QueueLost),
        };
        dispatching.abort();
        tidying.abort();
        forgetting.abort();
        app.pool.close().await;
        let last = Arc::clone(&app);
        let _ = tokio::task::spawn_blocking(move || last.tracer.close()).await;
        // The request to end the daemon is still answered.
        let _ = app.closing.send(true);
        let _ = tokio::time::timeout(LAST_ANSWERS, async {
            while serving.join_next().await.is_some() {}
        })
        .await;
        serving.shutdown().await;
        app.write_what_waits().await;
        let _ = std::fs::remove_file(socket_path);
        ended
    }
}

/// Controls a daemon from the process that runs it.
#[derive(Clone)]
pub struct Handle(Arc<App>);

impl Handle {
    /// Asks the daemon to end; with `drain`, when what runs is over.
    pub fn stop(&self, drain: bool) {
        self.0.stop(drain);
    }

    /// Whether a turn runs, or something waits.
    pub fn is_busy(&self) -> bool {
        let (_, running, waiting) = self.0.slots.counts();
        let queue = self.0.queue.counts();
        running + waiting > 0 || queue.queued + queue.running > 0
    }

    /// Uses other settings for later turns.
    pub async fn reload(&self, settings: Settings) {
        if !self.0.has_own_most {
            self.0.slots.set_most(settings.max_concurrent.get());
        }
        self.0.pool.set_options(pool_options(&settings));
        self.0.ledger.set_budgets(budgets(&settings, self.0.budget_daily));
        let weights = weights(&settings);
        {
            let mut engine = locked(&self.0.engine);
            *engine = engine.clone().with_settings(settings);
        }
        if let Err(error) = self.0.queue.set_weights(weights).await {
            tracing::error!("the weights of repositories stay as they were: {error}");
        }
    }
}

impl App {
    /// The engine with the current settings.
    pub(crate) fn engine(&self) -> Engine {
        locked(&self.engine).clone()
    }

    pub(crate) fn stop(&self, drain: bool) {
        let wanted = if drain { Ending::Draining } else { Ending::Now };
        self.ending.send_if_modified(|ending| {
            let is_more = wanted > *ending;
            *ending = wanted.max(*ending);
            is_more
        });
    }

    pub(crate) fn ending(&self) -> watch::Receiver<Ending> {
        self.ending.subscribe()
    }

    /// Tells when connections are to end.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    pub(crate) fn is_ending(&self) -> bool {
        *self.ending.borrow() != Ending::No
    }

    /// Where it listens for HTTP, besides the socket.
    fn url(&self) -> Option<String> {
        let scheme = if self.has_tls { "https" } else { "http" };
        self.listen.map(|address| format!("{scheme}://{address}"))
    }

    /// Counts a turn that has ended. What it cost is on disk when this returns.
    pub(crate) async fn count(&self, address: &Address, end: &TurnEnd) {
        self.metrics.turn(end);
        let turn = end.turn;
        tracing::info!(
            "ref" = %address,
            %turn,
            verdict = end.verdict.as_str(),
            seconds = end.seconds,
            cost_usd = end.cost_usd,
            "a turn has ended"
        );
        self.spent(SpendingReport {
            turn,
            address: address.clone(),
            cost_usd: end.cost_usd,
            recovered: false,
        })
        .await;
    }

    /// Counts what a turn has cost so far. It is on disk when this returns. The reason if the turn must end.
    pub(crate) async fn spent(&self, report: SpendingReport) -> Option<String> {
        let (ledger, turn, address) = (Arc::clone(&self.ledger), report.turn, report.address.clone());
        let counted = tokio::task::spawn_blocking(move || {
            let count = if report.recovered {
                Ledger::recovered
            } else {
                Ledger::spent
            };
            count(
                &ledger,
                report.turn,
                &report.address,
                report.cost_usd,
                Timestamp::now(),
            )
        });
        if let Ok(Err(error)) = counted.await {
            tracing::error!(%turn, %error, "what a turn cost cannot be recorded");
        }
        let crossed = self.ledger.is_crossed(&address, Timestamp::now());
        crossed.map(|used_up| used_up.to_string())
    }

    pub(crate) fn turns(&self) -> MutexGuard<'_, HashMap<TaskId, RunningTask>> {
        locked(&self.turns)
    }

    /// Cancels a task that runs: its turn is ended as soon as it can be, and the task is not run again.
    pub(crate) fn cancel(&self, task: TaskId) {
        locked(&self.cancelled).insert(task);
        if let Some(running) = self.turns().get(&task) {
            running
                .control
                .interrupt(kugetsu_engine::turn::Interrupt::Terminated);
        }
    }

    pub(crate) fn is_cancelled(&self, task: TaskId) -> bool {
        locked(&self.cancelled).contains(&task)
    }

    pub(crate) fn forget_cancelled(&self, task: TaskId) {
        locked(&self.cancelled).remove(&task);
    }

    pub(crate) fn commands(&self) -> MutexGuard<'_, HashMap<Uuid, mpsc::Sender<SlotCommand>>> {
        locked(&self.commands)
    }

    pub(crate) fn status(&self) -> DaemonStatus {
        let (max_concurrent, running, waiting) = self.slots.counts();
        DaemonStatus {
            version: self.version.to_owned(),
            pid: std::process::id(),
            started: self.started,
            draining: self.is_ending(),
            socket: place::socket_path(&self.home),
            listen: self.url(),
            max_concurrent,
            running,
            waiting,
            queue: self.queue.counts(),
            servers: self.pool.servers(),
            pool: self.pool.counts(),
            budget: self.ledger.view(Timestamp::now()),
        }
    }

    /// Records when tokens were used. Requests do not wait for it.
    async fn write_what_waits(self: &Arc<Self>) {
        let app = Arc::clone(self);
        let written =
            tokio::task::spawn_blocking(move || (app.tokens.write_uses(), app.ledger.write())).await;
        let Ok((uses, spent)) = written else {
            return;
        };
        if let Err(error) = uses {
            tracing::warn!(%error, "the use of tokens cannot be recorded");
        }
        if let Err(error) = spent {
            tracing::error!(%error, "what turns cost cannot be recorded");
        }
    }

    /// Forgets tasks that ended longer ago than they are kept.
    async fn forget_old_tasks(&self) {
        let keep = self.engine().settings().task_keep;
        let Some(before) = SignedDuration::try_from(keep)
            .ok()
            .and_then(|keep| Timestamp::now().checked_sub(keep).ok())
        else {
            return;
        };
        match self.queue.forget_ended(before).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "old tasks are forgotten"),
            Err(error) => tracing::warn!(%error, "old tasks cannot be forgotten"),
        }
    }

    /// Compresses and removes logs, and empties the trash, as the settings say.
    async fn collect_garbage(&self) {
        let engine = self.engine();
        let collect = move || engine.collect_due_garbage();
        match tokio::task::spawn_blocking(collect).await {
            Ok(Ok(Some((logs, trash)))) => {
                tracing::info!(
                    "looked through all logs: {} compressed, {} removed, {} bytes freed; {} removed from the trash",
                    logs.compressed.len(),
                    logs.removed.len(),
                    logs.freed,
                    trash.len()
                );
                for (path, why) in logs.failed {
                    tracing::warn!(path = %path.display(), "a log was not compressed or removed: {why}");
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!("old logs cannot be removed: {error}"),
            Err(error) => tracing::warn!("old logs were not looked for: {error}"),
        }
    }

    /// Waits until the daemon is to end, and until what it runs is over.
    async fn until_over(&self) -> Ended {
        let mut ending = self.ending();
        loop {
            let now = *ending.borrow_and_update();
            match now {
                Ending::No => {
                    let _ = ending.changed().await;
                }
                Ending::Draining => {
                    tokio::select! {
                        () = self.until_idle() => return Ended::Drained,
                        _ = ending.changed() => {}
                    }
                }
                Ending::Now => {
                    self.commands().clear();
                    for task in self.turns().values() {
                        task.control
                            .interrupt(kugetsu_engine::turn::Interrupt::Terminated);
                    }
                    let _ = tokio::time::timeout(END, self.until_idle()).await;
                    return Ended::Stopped;
                }
            }
        }
    }

    /// Waits until no turn runs.
    async fn until_idle(&self) {
        while self.slots.counts().1 > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The budgets, as the turn of a task on this session sees them.
pub(crate) struct TaskBudget {
    pub(crate) app: Arc<App>,
    pub(crate) address: Address,
}

impl TaskBudget {
    async fn report(&self, turn: Uuid, cost_usd: f64, recovered: bool) -> Option<String> {
        let address = self.address.clone();
        let report = SpendingReport {
            turn,
            address,
            cost_usd,
            recovered,
        };
        // A disk that hangs must not keep the turn from its signals and limits. The money is counted nevertheless.
        let spent = tokio::time::timeout(SPENT, self.app.spent(report)).await;
        spent.unwrap_or_default()
    }
}

impl std::fmt::Debug for TaskBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TaskBudget").field(&self.address).finish()
    }
}

#[async_trait]
impl SharedBudget for TaskBudget {
    async fn spent(&self, turn: Uuid, cost_usd: f64) -> Option<String> {
        self.report(turn, cost_usd, false).await
    }

    async fn recovered(&self, turn: Uuid, cost_usd: f64) {
        self.report(turn, cost_usd, true).await;
    }

    async fn used_up(&self) -> String {
        self.app.ledger.crossed(&self.address).await.to_string()
    }
}

/// How many turns repositories have in each rotation, if it is not one.
fn weights(settings: &Settings) -> HashMap<RepoRef, u32> {
    let weights = settings.repo_weights.iter();
    weights.map(|of| (of.repo.clone(), of.weight)).collect()
}

/// What turns may cost.
fn budgets(settings: &Settings, daily: Option<f64>) -> Budgets {
    Budgets {
        daily: daily.or(settings.budget_daily),
        daily_per_repo: settings.budget_daily_per_repo,
        daily_per_session: settings.budget_daily_per_session,
        zone: settings.budget_timezone.clone(),
    }
}

/// What the settings say of the pool.
fn pool_options(settings: &Settings) -> PoolOptions {
    let default = PoolOptions::default();
    let warm = settings.warm_servers as usize;
    PoolOptions {
        warm,
        most: default.most.max(settings.max_concurrent.get() as usize + warm),
        ..default
    }
}

/// Listens on an address. A port that was in use a moment ago may be taken again.
fn listen(address: SocketAddr) -> Result<tokio::net::TcpListener, DaemonError> {
    let failed = |source| DaemonError::Listen { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    tokio::net::TcpListener::from_std(listener).map_err(failed)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
