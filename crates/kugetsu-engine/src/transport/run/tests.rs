//! What is read of one `opencode run` beside its events, with a database that the test makes.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::params;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::fork_search::ForkSearch;
use super::subagents::Subagents;
use super::watch::{Report, SharedSearch, Watch};
use crate::environment::Environment;
use crate::opencode::tests::database::{BASE, Db};
use crate::opencode::{Launch, Opencode, Secrets, Version};
use crate::process::Containment;
use crate::transport::{Target, TransportEvent, TurnSpec};
use kugetsu_api::SessionId;

/// Far more than anything here takes.
const SOON: Duration = Duration::from_secs(60);
const PROMPT: &str = "fix the crash";
const FORK: &str = "ses_fork";

fn id(text: &str) -> SessionId {
    SessionId::new(text).unwrap()
}

fn spec(database: &Path) -> TurnSpec {
    TurnSpec {
        launch: Launch {
            opencode: Opencode {
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
            },
            directory: "/repo".into(),
            rules: None,
            debug_log: None,
            ready: SOON,
            secrets: Secrets::default(),
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
    let part = serde_json::json!({"type": "text", "text": PROMPT}).to_string();
    connection
        .execute(
            "INSERT INTO part (id, message_id, session_id, time_created, time_updated, data) \
             VALUES ('prt_1', 'msg_1', ?1, 1, 1, ?2)",
            params![FORK, part],
        )
        .unwrap();
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
        let search = ForkSearch::begin(&spec, &id(BASE), PROMPT).unwrap();
        let search = SharedSearch::new(Some(search).into());
        let (events, received) = mpsc::channel(256);
        let (reporter, reports) = mpsc::channel(256);
        let watch = Watch {
            events: received,
            stderr: None,
            search: Arc::clone(&search),
            subagents: Subagents::begin(&spec, &Target::ForkOf(id(BASE))),
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
            Err(_) => panic!("nothing is reported"),
        }
    }
}

#[tokio::test]
async fn a_fork_is_found_while_events_never_pause() {
    let db = Db::new("1.18.33");
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
