//! Batches, commits that fail, and the file.

use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::Poll;

use rusqlite::Connection;

use super::*;

type Waiting<'a, T> = Pin<Box<dyn Future<Output = Result<T, QueueError>> + Send + 'a>>;

/// Puts an operation into the channel of the writer. It is answered later.
async fn put<T>(mut operation: Waiting<'_, T>) -> Waiting<'_, T> {
    std::future::poll_fn(|context| {
        assert!(operation.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    operation
}

/// Holds the writer, so that all that is put in until the gate opens becomes one batch.
struct Gate<'a> {
    open: mpsc::Sender<()>,
    held: Waiting<'a, ()>,
}

impl<'a> Gate<'a> {
    async fn close(queue: &'a SqliteQueue) -> Self {
        let (inside, reached) = mpsc::channel();
        let (open, gate) = mpsc::channel();
        let held = queue.write(move |_| {
            inside.send(()).unwrap();
            gate.recv().unwrap();
            Ok(())
        });
        let held = put(Box::pin(held)).await;
        reached.recv_timeout(Duration::from_secs(60)).unwrap();
        Self { open, held }
    }

    async fn open(self) {
        self.open.send(()).unwrap();
        soon(self.held).await.unwrap();
    }
}

/// A transaction with this in it runs to its end and then cannot be committed.
pub(super) fn spoil_commit(connection: &Connection) {
    connection
        .execute_batch("PRAGMA defer_foreign_keys = ON; INSERT INTO dependencies VALUES (-1, 0, 'none')")
        .unwrap();
}

fn assert_unavailable<T: std::fmt::Debug>(result: Result<T, QueueError>) {
    let error = result.unwrap_err();
    assert!(
        matches!(error, QueueError::Unavailable { what: "written", .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_refused_operation_does_not_undo_the_others_of_its_batch() {
    let world = World::with(QueueOptions {
        max_queued: 2,
        ..OPTIONS
    });
    let queue = &world.queue;
    let first = NewTask {
        idempotency_key: Some("key".to_owned()),
        ..new_task("shop#1")
    };
    let reused = NewTask {
        task: TaskId(Uuid::now_v7()),
        priority: 1,
        ..first.clone()
    };
    let waits = NewTask {
        after: vec![TaskId(Uuid::now_v7())],
        ..new_task("shop#2")
    };
    let gate = Gate::close(queue).await;
    let submitted = put(queue.submit(first)).await;
    let reused = put(queue.submit(reused)).await;
    let waits = put(queue.submit(waits)).await;
    let second = put(queue.submit(new_task("shop#3"))).await;
    let full = put(queue.submit(new_task("shop#4"))).await;
    let claim = put(queue.claim(at(0))).await;
    gate.open().await;
    let first = soon(submitted).await.unwrap().task.task;
    assert!(matches!(soon(reused).await, Err(QueueError::KeyReused { task }) if task == first));
    assert!(matches!(soon(waits).await, Err(QueueError::NoSuchDependency(_))));
    let second = soon(second).await.unwrap().task.task;
    assert!(matches!(soon(full).await, Err(QueueError::Full { most: 2 })));
    assert_eq!(soon(claim).await.unwrap().unwrap().task.task, first);
    let listed: Vec<_> = world.all().await.iter().map(|task| task.task).collect();
    assert_eq!(listed, [second, first]);
}

#[tokio::test]
async fn a_commit_that_fails_takes_back_its_whole_batch() {
    let world = World::new();
    for issue in 1..=3 {
        world.submit(&format!("shop#{issue}")).await;
    }
    let waits = world.all().await[0].task;
    let world = world.reopened();
    let claim = world.claim().await.unwrap();
    let (before, counts) = (world.all().await, world.queue.counts());
    let queue = &world.queue;
    let end = Settlement::Parked {
        reason: "no".to_owned(),
    };

    let gate = Gate::close(queue).await;
    let submitted = put(queue.submit(new_task("other#1"))).await;
    let settled = put(queue.settle(claim.task.task, claim.turn, end, at(1))).await;
    let cancelled = put(queue.cancel(waits, at(1))).await;
    let claimed = put(queue.claim(at(0))).await;
    let spoiled = put(Box::pin(queue.write(|work| {
        spoil_commit(work.connection);
        Ok(())
    })))
    .await;
    let after = put(queue.claim(at(0))).await;
    gate.open().await;
    assert_unavailable(soon(submitted).await);
    assert_unavailable(soon(settled).await);
    assert_unavailable(soon(cancelled).await);
    assert_unavailable(soon(claimed).await);
    assert_unavailable(soon(spoiled).await);
    assert_unavailable(soon(after).await);

    assert_eq!(
        (world.all().await, world.queue.counts()),
        (before.clone(), counts)
    );
    let claimed = world.claim().await.unwrap();
    assert_eq!(claimed.task.task, before[1].task);
    world.end(&claim).await;
    let world = world.after_crash();
    assert_eq!(
        world.claim().await,
        Some(Claim {
            resumed: true,
            ..claimed
        })
    );
    assert_eq!(world.claimed().await, Some(waits));
}

#[tokio::test]
async fn a_resumed_claim_whose_batch_fails_is_handed_out_later() {
    let world = World::new();
    world.submit("shop#1").await;
    let claim = world.claim().await.unwrap();
    let world = world.reopened();
    let spoiled = world.queue.write(|work| {
        let claim = work.claim(at(0));
        spoil_commit(work.connection);
        claim
    });
    assert_unavailable(spoiled.await);
    assert_eq!(
        world.claim().await,
        Some(Claim {
            resumed: true,
            ..claim
        })
    );
    assert_eq!(world.claim().await, None);
}

#[tokio::test]
async fn a_file_that_is_locked_can_be_read_and_later_written() {
    let folder = folder();
    let path = folder.path().join("queue.db");
    let queue = SqliteQueue::open_with(&path, OPTIONS, Duration::from_millis(10)).unwrap();
    let task = queue.submit(new_task("shop#1")).await.unwrap().task;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_unavailable(queue.submit(new_task("shop#2")).await);
    assert_unavailable(queue.claim(at(0)).await);
    assert_eq!(queue.task(task.task).await.unwrap(), Some(task.clone()));
    assert_eq!((queue.counts().queued, queue.counts().running), (1, 0));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(queue.claim(at(0)).await.unwrap().unwrap().task.task, task.task);
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_confirmed() {
    let world = World::new();
    let long = || NewTask {
        spec: TaskSpec {
            traceparent: None,
            prompt: "long ".repeat(4000),
            ..spec("shop#1")
        },
        ..new_task("shop#1")
    };
    let mut confirmed = vec![world.submit_task(long()).await];
    world
        .limit_pages("(SELECT page_count + 20 FROM pragma_page_count)")
        .await;
    for _ in 0..100 {
        match world.queue.submit(long()).await {
            Ok(submitted) => confirmed.push(submitted.task.task),
            Err(error) => assert_unavailable::<()>(Err(error)),
        }
    }
    assert!((2..20).contains(&confirmed.len()), "{}", confirmed.len());
    assert_eq!(world.queue.counts().queued, confirmed.len() as u64);
    world.limit_pages("1000000").await;
    confirmed.push(world.submit_task(long()).await);
    let world = world.after_crash();
    let listed: Vec<_> = world.all().await.iter().rev().map(|task| task.task).collect();
    assert_eq!(listed, confirmed);
}

impl World {
    async fn limit_pages(&self, pages: &'static str) {
        let limit = self.queue.write(move |work| {
            let pages: i64 = work
                .connection
                .query_row(&format!("SELECT {pages}"), [], |row| row.get(0))?;
            work.connection.pragma_update(None, "max_page_count", pages)?;
            Ok(())
        });
        limit.await.unwrap();
    }
}

#[tokio::test]
async fn what_was_accepted_is_done_though_nobody_waits_for_it() {
    let world = World::new();
    let gate = Gate::close(&world.queue).await;
    drop(put(world.queue.submit(new_task("shop#1"))).await);
    gate.open().await;
    assert_eq!(world.reopened().queue.counts().queued, 1);
}

#[tokio::test]
async fn fifty_thousand_tasks_wait_and_run() {
    let world = World::new();
    let queue = std::sync::Arc::new(world.queue);
    let mut submissions = tokio::task::JoinSet::new();
    for number in 0..50_000_usize {
        let queue = std::sync::Arc::clone(&queue);
        let task = new_task(&format!("r{}#{}", number % 5, number % 20_000 + 1));
        submissions.spawn(async move { queue.submit(task).await.unwrap().is_new });
    }
    assert!(submissions.join_all().await.into_iter().all(|is_new| is_new));
    assert_eq!(queue.counts().queued, 50_000);
    let mut turns = tokio::task::JoinSet::new();
    for _ in 0..2_000 {
        let queue = std::sync::Arc::clone(&queue);
        turns.spawn(async move {
            let claim = queue.claim(at(0)).await.unwrap().unwrap();
            let cancelled = Settlement::Cancelled { cost_usd: 0.0 };
            queue
                .settle(claim.task.task, claim.turn, cancelled, at(0))
                .await
                .unwrap();
            claim.task.repo().clone()
        });
    }
    let mut repos: HashMap<RepoRef, usize> = HashMap::new();
    for repo in turns.join_all().await {
        *repos.entry(repo).or_default() += 1;
    }
    assert_eq!(repos.into_values().collect::<Vec<_>>(), [400; 5]);
    drop(queue);
    let queue = open(&world.folder.path().join("queue.db"));
    assert_eq!((queue.counts().queued, queue.counts().running), (48_000, 0));
    assert!(queue.claim(at(0)).await.unwrap().is_some());
}

#[tokio::test]
async fn the_files_are_for_their_owner_only() {
    let world = World::new();
    world.submit("shop#1").await;
    let modes = |world: &World| {
        ["queue.db", "queue.db-wal", "queue.db-shm"].map(|name| {
            let metadata = world.folder.path().join(name).metadata().unwrap();
            metadata.permissions().mode() & 0o777
        })
    };
    assert_eq!(modes(&world), [0o600; 3]);
    let copy = copied(&world.path());
    for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        let wide = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(copy.path().join(name), wide).unwrap();
    }
    let queue = open(&copy.path().join("queue.db"));
    let world = World { folder: copy, queue };
    world.submit("shop#2").await;
    assert_eq!(modes(&world), [0o600; 3]);
}

fn open_error(path: &Path) -> QueueError {
    SqliteQueue::open(path, OPTIONS).unwrap_err()
}

fn assert_unusable(path: &Path, part: &str) {
    let error = open_error(path);
    assert!(matches!(&error, QueueError::Unusable { .. }), "{error}");
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let folder = folder();
    let (path, target) = (folder.path().join("queue.db"), folder.path().join("other.db"));
    drop(SqliteQueue::open(&target, OPTIONS).unwrap());
    std::os::unix::fs::symlink(&target, &path).unwrap();
    assert_unusable(&path, "symbolic link");
    std::fs::remove_file(&target).unwrap();
    assert_unusable(&path, "symbolic link");
    assert!(!target.exists());
}

#[test]
fn a_folder_that_is_missing_makes_the_queue_unavailable() {
    let error = open_error(&folder().path().join("missing/queue.db"));
    assert!(matches!(error, QueueError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_file_of_an_older_version_is_brought_up_to_date() {
    let world = World::new();
    let task = world.submit("shop#1").await;
    let claim = world.claim().await.unwrap();
    let World { folder, queue } = world;
    drop(queue);
    let path = folder.path().join("queue.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("ALTER TABLE tasks DROP COLUMN cancelled; PRAGMA user_version = 1")
        .unwrap();
    let queue = open(&path);
    let world = World { folder, queue };
    world.queue.cancel(task, at(0)).await.unwrap();
    let task = world.settle(&claim, again(30, false)).await;
    assert_eq!(task.state, TaskState::Cancelled);
}

#[test]
fn a_file_of_a_newer_version_stays_as_it_is() {
    let folder = folder();
    let path = folder.path().join("queue.db");
    drop(SqliteQueue::open(&path, OPTIONS).unwrap());
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    assert_unusable(&path, "newer");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file that is not a database")]
fn a_file_that_is_not_a_queue_stays_as_it_is() {
    let folder = folder();
    let path = folder.path().join("other.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE tasks (id)")
        .unwrap();
    assert_unusable(&path, "not a queue");
    let path = folder.path().join("text.db");
    std::fs::write(&path, "text ".repeat(1000)).unwrap();
    assert_unusable(&path, "not a database");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "text ".repeat(1000));
    assert_unusable(folder.path(), "not a file");
}

#[tokio::test]
async fn an_empty_file_becomes_a_queue() {
    let folder = folder();
    let path = folder.path().join("queue.db");
    std::fs::File::create_new(&path).unwrap();
    assert!(open(&path).submit(new_task("shop#1")).await.unwrap().is_new);
}

#[tokio::test]
async fn a_task_that_cannot_be_read_is_parked_and_holds_nothing_up() {
    let world = World::new();
    let damaged = world.submit("shop#1").await;
    let next = world.submit("shop#1").await;
    Connection::open(world.path())
        .unwrap()
        .execute(
            "UPDATE tasks SET spec = '{}' WHERE id = ?1",
            [damaged.to_string()],
        )
        .unwrap();
    let error = world.queue.cancel(damaged, at(0)).await.unwrap_err();
    assert!(matches!(&error, QueueError::Unusable { .. }), "{error}");
    assert_eq!(world.claimed().await, Some(next));
    assert_eq!(world.queue.counts().parked, 1);
    let error = world.queue.task(damaged).await.unwrap_err();
    assert!(error.to_string().contains(&damaged.to_string()), "{error}");
    assert_eq!(world.state(next).await, TaskState::Running);
}
