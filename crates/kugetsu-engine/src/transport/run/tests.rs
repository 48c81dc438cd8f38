//! The link to one `opencode run`, and what is read beside its events, with a database that the test makes.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rusqlite::{Connection, params};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::RunLink;
use super::fork_search::ForkSearch;
use super::subagents::Subagents;
use super::watch::{Report, SharedSearch, Watch, find_fork};
use crate::environment::Environment;
use crate::opencode::tests::database::{BASE, Db};
use crate::opencode::{Launch, Opencode, Secrets, SessionContext, Version};
use crate::process::{Containment, Guarded};
use crate::transport::{Target, TransportEvent, TurnLink as _, TurnSpec};
use kugetsu_api::SessionId;
use kugetsu_testing::kugetsu_binary;

/// Far more than anything here takes.
pub(in crate::transport) const SOON: Duration = Duration::from_secs(60);
const MARK: &str = "kugetsu fork 0123";
const FORK: &str = "ses_fork";

pub(in crate::transport) fn id(text: &str) -> SessionId {
    SessionId::new(text).unwrap()
}

pub(in crate::transport) fn spec(database: &Path) -> TurnSpec {
    TurnSpec {
        launch: Launch {
            opencode: Opencode {
                confinement: None,
                own_database: false,
                program: "/nonexistent/opencode".into(),
                version: Version::new(1, 18, 33),
                database: database.to_owned(),
                shim: false,
            },
            containment: Containment {
                guard_program: "/nonexistent/kugetsu".into(),
                mark: Uuid::now_v7(),
                environment: Environment::new([], "/nonexistent".into(), "/nonexistent/kugetsu".into()),
                grace: Duration::from_secs(1),
                cgroup: true,
                limits: None,
            },
            directory: "/repo".into(),
            rules: None,
            debug_log: None,
            ready: SOON,
            secrets: Secrets::default(),
            context: SessionContext::default(),
            ignore_project: true,
        },
        raw_log: None,
        model: None,
        agent: None,
    }
}

/// The row that `opencode run --fork` makes.
fn make_fork(db: &Db) {
    db.session(FORK, "Base (fork #1)", i64::MAX);
}

/// The prompt in the fork, which opencode stores after the row.
fn store_prompt(db: &Db) {
    let connection = db.raw();
    connection
        .execute(
            "INSERT INTO message (id, session_id, time_created, time_updated, data) VALUES ('msg_1', ?1, 1, 1, ?2)",
            params![FORK, r#"{"role":"user"}"#],
        )
        .unwrap();
    let part =
        serde_json::json!({"type": "text", "text": format!("fix the crash\n\n<!-- {MARK} -->")}).to_string();
    connection
        .execute(
            "INSERT INTO part (id, message_id, session_id, time_created, time_updated, data) \
             VALUES ('prt_1', 'msg_1', ?1, 1, 1, ?2)",
            params![FORK, part],
        )
        .unwrap();
}

fn fork_of_base() -> Target {
    Target::ForkOf {
        base: id(BASE),
        mark: MARK.to_owned(),
    }
}

/// A [`Watch`] that searches for the fork of this test's opencode, and the test in opencode's place.
struct Watched {
    events: mpsc::Sender<TransportEvent>,
    reports: mpsc::Receiver<Report>,
    search: SharedSearch,
    task: JoinHandle<()>,
}

impl Watched {
    fn begin(db: &Db) -> Self {
        let spec = spec(&db.path);
        let search = ForkSearch::begin(&spec, &id(BASE), MARK.to_owned()).unwrap();
        let search = SharedSearch::new(Some(search).into());
        let (events, received) = mpsc::channel(256);
        let (reporter, reports) = mpsc::channel(256);
        let watch = Watch {
            events: received,
            stderr: None,
            search: Arc::clone(&search),
            subagents: Subagents::begin(&spec, &fork_of_base()),
            reports: reporter,
            failed_attempts: 0,
        };
        Self {
            events,
            reports,
            search,
            task: tokio::spawn(watch.run()),
        }
    }

    /// The next report, which must be an event.
    async fn event(&mut self) -> TransportEvent {
        match tokio::time::timeout(SOON, self.reports.recv()).await {
            Ok(Some(Report::Event(event))) => event,
            Ok(Some(Report::AgentRefused(message))) => panic!("{message}"),
            Ok(None) => panic!("the watch has ended"),
            Err(elapsed) => panic!("nothing is reported: {elapsed}"),
        }
    }
}

#[tokio::test]
async fn a_fork_is_found_while_events_never_pause() {
    let db = Db::new("1.18.33");
    let _live = live(&db);
    let mut watched = Watched::begin(&db);
    let events = watched.events.clone();
    let flood = tokio::spawn(async move { while events.send(TransportEvent::Activity).await.is_ok() {} });
    make_fork(&db);
    store_prompt(&db);
    let found = async {
        loop {
            match watched.event().await {
                TransportEvent::Activity => {}
                other => return other,
            }
        }
    };
    let found = tokio::time::timeout(SOON, found).await.unwrap();
    assert_eq!(found, TransportEvent::Session(id(FORK)));
    drop(watched.reports);
    flood.await.unwrap();
    watched.task.await.unwrap();
}

/// The connection of a live opencode. While it is open, a reader never takes the file for one that nobody changes.
fn live(db: &Db) -> Connection {
    let live = db.raw();
    live.execute("UPDATE session SET title = title", []).unwrap();
    live
}

/// Makes every query for messages fail, until [`show_messages`].
fn hide_messages(live: &Connection) {
    live.execute_batch("ALTER TABLE message RENAME TO hidden")
        .unwrap();
}

fn show_messages(live: &Connection) {
    live.execute_batch("ALTER TABLE hidden RENAME TO message")
        .unwrap();
}

#[test]
fn a_fork_that_a_locked_database_hides_is_asked_for_again() {
    let db = Db::new("1.18.33");
    let other = db.raw();
    // With a write-ahead log, a writer does not keep readers out.
    other.pragma_update(None, "journal_mode", "DELETE").unwrap();
    let begin = |how: &str| {
        other
            .execute_batch(&format!("BEGIN {how}; UPDATE session SET title = title"))
            .unwrap();
    };
    begin("IMMEDIATE");
    let mut search = ForkSearch::begin(&spec(&db.path), &id(BASE), MARK.to_owned()).unwrap();
    other.execute_batch("COMMIT").unwrap();
    make_fork(&db);
    store_prompt(&db);
    begin("EXCLUSIVE");
    assert!(search.is_fork(&id(FORK)).unwrap_err().is_temporary());
    // The next event that names it does not wait again.
    assert!(!search.is_fork(&id(FORK)).unwrap());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(search.find().unwrap(), Some(id(FORK)));
    // Until somebody has taken it in, it is the answer.
    assert_eq!(search.find().unwrap(), Some(id(FORK)));
}

#[test]
fn a_session_that_is_not_there_is_not_the_fork() {
    let db = Db::new("1.18.33");
    let live = live(&db);
    let mut search = ForkSearch::begin(&spec(&db.path), &id(BASE), MARK.to_owned()).unwrap();
    assert!(!search.is_fork(&id("ses_garbage")).unwrap());
    assert!(!search.is_fork(&id(BASE)).unwrap());
    hide_messages(&live);
    search.is_fork(&id("ses_garbage")).unwrap_err();
    search.find().unwrap_err();
    show_messages(&live);
    assert_eq!(search.find().unwrap(), None);
    // Another home made it: it has no mark yet, or another one.
    make_fork(&db);
    assert!(!search.is_fork(&id(FORK)).unwrap());
    assert_eq!(search.find().unwrap(), None);
    store_prompt(&db);
    assert!(search.is_fork(&id(FORK)).unwrap());
    let mut other = ForkSearch::begin(&spec(&db.path), &id(BASE), "kugetsu fork 4567".to_owned()).unwrap();
    assert!(!other.is_fork(&id(FORK)).unwrap());
    assert_eq!(other.find().unwrap(), None);
}

#[tokio::test]
async fn an_event_that_names_the_fork_of_an_unreadable_database_is_not_lost() {
    let db = Db::new("1.18.33");
    let live = live(&db);
    let mut watched = Watched::begin(&db);
    make_fork(&db);
    store_prompt(&db);
    hide_messages(&live);
    for event in [TransportEvent::Session(id(FORK)), TransportEvent::Activity] {
        watched.events.send(event).await.unwrap();
    }
    // The event before it has been dealt with.
    assert_eq!(watched.event().await, TransportEvent::Activity);
    show_messages(&live);
    assert_eq!(watched.event().await, TransportEvent::Session(id(FORK)));
}

#[tokio::test]
async fn a_fork_that_could_not_be_checked_is_found_at_the_end_of_the_output() {
    let db = Db::new("1.18.33");
    let live = live(&db);
    let mut watched = Watched::begin(&db);
    make_fork(&db);
    store_prompt(&db);
    hide_messages(&live);
    watched
        .events
        .send(TransportEvent::Session(id(FORK)))
        .await
        .unwrap();
    drop(watched.events);
    watched.task.await.unwrap();
    assert!(watched.reports.recv().await.is_none());
    find_fork(&watched.search).await.unwrap().unwrap_err();
    show_messages(&live);
    assert_eq!(find_fork(&watched.search).await.unwrap().unwrap(), Some(id(FORK)));
}

/// How often a task may go on at once before tokio makes it yield.
async fn budget() -> usize {
    tokio::task::yield_now().await;
    let mut count = 0;
    poll_fn(|context| {
        while pin!(tokio::task::consume_budget()).poll(context).is_ready() {
            count += 1;
        }
        Poll::Ready(())
    })
    .await;
    count
}

/// A specification whose opencode is `program`, and that program, started with `argument` under a guard.
async fn started(program: &str, argument: &str) -> (TurnSpec, Guarded) {
    let mut spec = spec(Path::new("/nonexistent/opencode.db"));
    let containment = &mut spec.launch.containment;
    containment.guard_program = kugetsu_binary();
    containment.environment = Environment::new(std::env::vars_os(), "/".into(), kugetsu_binary());
    spec.launch.opencode.program = program.into();
    spec.launch.directory = "/".into();
    let process = Guarded::spawn(spec.launch.guard_spec(vec![argument.into()]))
        .await
        .unwrap();
    (spec, process)
}

#[tokio::test]
async fn a_link_closes_after_it_has_waited_for_the_last_lines_on_standard_error() {
    let (spec, process) = started("/bin/sleep", "0").await;
    let mut link = RunLink {
        process: Some(process),
        reports: Some(mpsc::channel(1).1),
        ..RunLink::new(&spec)
    };
    let ended = async {
        assert!(matches!(link.next().await, TransportEvent::Ended(_)));
        // The reader is done only after the link has begun to wait for it.
        link.stderr_reader.spawn(tokio::task::yield_now());
        assert!(matches!(link.next().await, TransportEvent::Ended(_)));
        link.close(false).await;
    };
    tokio::time::timeout(SOON, ended).await.unwrap();
}

#[tokio::test]
async fn an_opencode_that_refused_the_agent_is_killed_although_next_was_cancelled() {
    let (spec, process) = started("/bin/sleep", "3600").await;
    let (reporter, reports) = mpsc::channel(1);
    let refused = Report::AgentRefused("agent \"nosuch\" not found".to_owned());
    reporter.send(refused).await.ok().unwrap();
    let mut link = RunLink {
        process: Some(process),
        reports: Some(reports),
        ..RunLink::new(&spec)
    };

    // The report is taken in, and the request to kill the process is not sent: the task has to yield between them.
    let budget = budget().await;
    tokio::task::yield_now().await;
    poll_fn(|context| {
        for _ in 1..budget {
            assert!(pin!(tokio::task::consume_budget()).poll(context).is_ready());
        }
        assert!(pin!(link.next()).poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    assert!(link.agent_refused.is_some());

    // opencode's output ends with the events, as it does when a task reads the output.
    let next = async {
        let mut ended = pin!(link.next());
        tokio::select! {
            biased;
            _ = &mut ended => panic!("the output is open"),
            () = tokio::task::yield_now() => {}
        }
        drop(reporter);
        ended.await
    };
    match tokio::time::timeout(SOON, next).await {
        Ok(TransportEvent::Error(error)) => assert!(error.message.contains("nosuch"), "{error:?}"),
        Ok(other) => panic!("{other:?}"),
        Err(elapsed) => panic!("opencode goes on: {elapsed}"),
    }
}
