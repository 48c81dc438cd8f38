//! The queue through its trait, and what happens to it when the disk or the daemon fails.

mod crash;
mod limits;
mod model;
mod order;
mod reading;
mod writing;

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use uuid::Uuid;

use kugetsu_api::{Address, TaskAnswers, TaskId, TaskLimits, TaskSpec, Verdict};

use super::*;

const OPTIONS: QueueOptions = QueueOptions {
    max_queued: 100_000,
    max_tries: 3,
};

/// A folder in memory where there is one: these tests wait for the disk all the time.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() && std::env::var_os("TMPDIR").is_none() {
        return tempfile::tempdir_in(memory).unwrap();
    }
    tempfile::tempdir().unwrap()
}

/// A queue in a folder of its own.
struct World {
    folder: TempDir,
    queue: SqliteQueue,
}

impl World {
    fn new() -> Self {
        Self::with(OPTIONS)
    }

    fn with(options: QueueOptions) -> Self {
        let folder = folder();
        let queue = SqliteQueue::open(&folder.path().join("queue.db"), options).unwrap();
        Self { folder, queue }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("queue.db")
    }

    /// Ends the queue and opens it again.
    fn reopened(self) -> Self {
        let Self { folder, queue } = self;
        drop(queue);
        let queue = open(&folder.path().join("queue.db"));
        Self { folder, queue }
    }

    /// Opens what a crash at this moment would leave. What the open queue does later is not in it.
    fn after_crash(self) -> Self {
        let folder = copied(&self.path());
        let queue = open(&folder.path().join("queue.db"));
        Self { folder, queue }
    }

    async fn submit(&self, address: &str) -> TaskId {
        self.submit_task(new_task(address)).await
    }

    async fn submit_task(&self, task: NewTask) -> TaskId {
        let submitted = self.queue.submit(task).await.unwrap();
        assert!(submitted.is_new);
        submitted.task.task
    }

    async fn claim(&self) -> Option<Claim> {
        self.queue.claim(at(0)).await.unwrap()
    }

    async fn claimed(&self) -> Option<TaskId> {
        self.claim().await.map(|claim| claim.task.task)
    }

    async fn end(&self, claim: &Claim) -> Task {
        let end = Settlement::Ended {
            turn: claim.turn,
            verdict: Verdict::Completed,
            reason: None,
            cost_usd: 0.25,
        };
        self.settle(claim, end).await
    }

    async fn settle(&self, claim: &Claim, end: Settlement) -> Task {
        self.queue
            .settle(claim.task.task, claim.turn, end, at(1))
            .await
            .unwrap()
    }

    async fn state(&self, task: TaskId) -> TaskState {
        self.queue.task(task).await.unwrap().unwrap().state
    }

    async fn all(&self) -> Vec<Task> {
        let filter = TaskFilter {
            limit: usize::MAX,
            ..TaskFilter::default()
        };
        self.queue.list(filter).await.unwrap()
    }
}

fn open(path: &Path) -> SqliteQueue {
    SqliteQueue::open(path, OPTIONS).unwrap()
}

/// The files of a database as they are now, as a crash of the program would leave them.
fn copied(database: &Path) -> TempDir {
    let folder = folder();
    for ending in ["", "-wal", "-shm"] {
        let name = format!("queue.db{ending}");
        let from = database.with_file_name(&name);
        if from.exists() {
            std::fs::copy(from, folder.path().join(name)).unwrap();
        }
    }
    folder
}

/// So many seconds after the tests begin.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_900_000_000).unwrap() + SignedDuration::from_secs(seconds)
}

fn new_task(address: &str) -> NewTask {
    NewTask {
        task: TaskId(Uuid::now_v7()),
        spec: spec(address),
        priority: 0,
        after: Vec::new(),
        not_before: None,
        idempotency_key: None,
        submitted: at(0),
    }
}

fn spec(address: &str) -> TaskSpec {
    TaskSpec {
        traceparent: None,
        address: Address::try_from(format!("github.com/acme/{address}")).unwrap(),
        prompt: "fix it".to_owned(),
        model: None,
        agent: Some("build".to_owned()),
        worktree: Some(true),
        policy: Vec::new(),
        answers: Some(TaskAnswers::default()),
        limits: TaskLimits {
            max_cost_usd: Some(0.1 + 0.2),
            ..TaskLimits::default()
        },
    }
}

fn again(seconds: i64, counts: bool) -> Settlement {
    Settlement::Again {
        not_before: at(seconds),
        reason: "the provider is overloaded".to_owned(),
        cost_usd: 0.5,
        counts,
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

/// Waits for a future that must not take forever.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .unwrap()
}
