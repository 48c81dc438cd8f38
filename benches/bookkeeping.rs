//! The cost of kugetsu's own work: the files around a turn, the permission write, an event through the supervisor.
//!
//! Criterion compares a run with the one before it; `cargo xtask bench` prints the figures as a table.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "criterion's macros make undocumented items; a bench may stop at once"
)]

#[path = "support/records.rs"]
mod records;

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use kugetsu_api::{ForkIntent, LiveTurn, SessionId, TransportKind, Verdict};
use kugetsu_engine::opencode::{DatabaseFile, SessionPatch};
use kugetsu_engine::permission::Policy;
use kugetsu_engine::process;
use kugetsu_engine::redact::Redactor;
use kugetsu_engine::store::{RecordKey, Store, this_process};
use kugetsu_engine::transport::TransportEvent;
use kugetsu_engine::turn::stream::{StreamEvent, StreamWriter};
use kugetsu_engine::turn::{Limits, Machine};
use records::{address, fill, record, turn};
use uuid::Uuid;

/// A store with the given number of sessions.
fn store(home: &Path, sessions: u64) -> Store {
    let store = Store::open(home.to_owned());
    fill(&store, (1..=sessions).map(record));
    store.rebuild_index().unwrap();
    store
}

/// Every write of `start`, in order: lease, journal, known fork, stream, line of the turn, end.
fn start(store: &Store, number: u64) {
    let address = address(number);
    let key = RecordKey::from(&address);
    let id = Uuid::now_v7();
    black_box(store.session_record(&address).unwrap());
    let lease = store
        .lease_session(&address, this_process("start"), None)
        .unwrap();
    let mut record = record(number);
    let session = record.session.take();
    record.live = Some(LiveTurn {
        turn: id,
        supervisor: process::current(),
        started: Timestamp::now(),
        transport: TransportKind::Serve,
        shared: false,
        prompt: None,
        prompt_sha256: None,
        parent: None,
        after: None,
    });
    record.fork = Some(ForkIntent {
        turn: id,
        asked: Timestamp::now(),
        mark: "0".repeat(32),
        prompt_sha256: "0".repeat(64),
        ahead: true,
    });
    store.save_session(&lease, &record).unwrap();
    record.session = session;
    record.fork = None;
    store.save_session(&lease, &record).unwrap();
    let stream = StreamWriter::open(store, &key, id).unwrap();
    drop(stream);
    store
        .append_turn(&lease, &address, &turn(Verdict::Completed, Timestamp::now()))
        .unwrap();
    record.live = None;
    store.save_session(&lease, &record).unwrap();
}

fn bookkeeping(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("start_bookkeeping");
    for sessions in [10, 10_000] {
        let home = tempfile::tempdir().unwrap();
        let store = store(home.path(), sessions);
        let mut next = 1_000_000;
        group.bench_function(sessions.to_string(), |bencher| {
            bencher.iter(|| {
                next += 1;
                start(&store, next);
            });
        });
    }
    group.finish();
}

fn listing(criterion: &mut Criterion) {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path(), 10_000);
    criterion.bench_function("issues_10000", |bencher| {
        bencher.iter(|| black_box(store.session_records().unwrap().found.len()));
    });
}

fn permission(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("opencode.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode=WAL;
             CREATE TABLE session (id TEXT PRIMARY KEY, project_id TEXT, parent_id TEXT, slug TEXT, directory TEXT,
                 title TEXT, version TEXT, permission TEXT, time_created INTEGER, time_updated INTEGER, path TEXT);
             CREATE TABLE message (id TEXT PRIMARY KEY, session_id TEXT, time_created INTEGER, data TEXT);
             CREATE TABLE part (id TEXT PRIMARY KEY, message_id TEXT, session_id TEXT, data TEXT);
             INSERT INTO session VALUES ('ses_1', 'p', NULL, 's', '/srv', 't', '1', NULL, 1, 1, '');",
        )
        .unwrap();
    let session = SessionId::new("ses_1").unwrap();
    let rules = Policy::default().rules();
    let file = DatabaseFile {
        path,
        confined: false,
    };
    let mut turn = 0_u64;
    criterion.bench_function("permission_write_and_read_back", |bencher| {
        bencher.iter(|| {
            turn += 1;
            // A new title each time, so that the patch has something to write.
            let title = format!("turn {turn}");
            let patch = SessionPatch {
                permission: Some(&rules),
                title: Some(&title),
                ..SessionPatch::default()
            };
            let mut database = file.open_write(Duration::from_secs(1)).unwrap();
            black_box(database.patch(&session, &patch).unwrap());
        });
    });
}

fn events(criterion: &mut Criterion) {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path().to_owned());
    let mut stream = StreamWriter::open(&store, &RecordKey::from(&address(1)), Uuid::now_v7()).unwrap();
    let mut machine = Machine::new(Limits::default());
    let event = TransportEvent::Text {
        part: "prt_1".to_owned(),
        reasoning: false,
        delta: "a few words of an answer ".to_owned(),
    };
    let none = Redactor::default();
    criterion.bench_function("event_through_machine_and_stream", |bencher| {
        bencher.iter_batched(
            || StreamEvent::MessageUpdate {
                message: "prt_1".to_owned(),
                reasoning: false,
                delta: "a few words of an answer ".to_owned(),
            },
            |line| {
                black_box(machine.event(&event, Duration::from_secs(1), Timestamp::UNIX_EPOCH));
                stream.write(line, &none);
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = bookkeeping, listing, permission, events
}
criterion_main!(benches);
