//! `query` on a store of 10,000 sessions with 100 live turns: the goal is 50 ms, and 5 ms from memory.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "criterion's macros make undocumented items; a bench may stop at once"
)]

#[path = "support/records.rs"]
mod records;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use kugetsu_api::{Address, LiveTurn, SessionRecord, TokenCount, TransportKind, Verdict};
use kugetsu_engine::operations::{Engine, Environment, QueryCache};
use kugetsu_engine::process;
use kugetsu_engine::settings::Settings;
use kugetsu_engine::store::{RecordKey, Store, holder_of_turn};
use kugetsu_engine::turn::status::{RunState, STATUS_FILE, TurnStatus};
use records::{fill, record, turn};
use uuid::Uuid;

const SESSIONS: u64 = 10_000;
const LIVE: u64 = 100;

/// A record of one of 20 repositories, with turns on three days.
fn busy_record(number: u64) -> SessionRecord {
    let address = Address::try_from(format!("github.com/shoko/repo{}#{number}", number % 20)).unwrap();
    let mut record = SessionRecord {
        base: address.repo().clone(),
        address,
        ..record(number)
    };
    let verdict = if number.is_multiple_of(10) {
        Verdict::Failed
    } else {
        Verdict::Completed
    };
    let now = Timestamp::now();
    for day in 0..3_i64 {
        let turn = turn(verdict, now - jiff::SignedDuration::from_hours(24 * day));
        record.count(&turn);
        record.last = Some(turn);
    }
    if number <= LIVE {
        record.live = Some(LiveTurn {
            turn: Uuid::now_v7(),
            supervisor: process::current(),
            started: now,
            transport: TransportKind::Serve,
            shared: false,
            prompt: None,
            prompt_sha256: None,
            parent: None,
            after: None,
        });
    }
    record
}

fn status(record: &SessionRecord, live: &LiveTurn) -> TurnStatus {
    TurnStatus {
        schema: 1,
        subject: record.address.to_string(),
        turn: live.turn,
        supervisor: live.supervisor.clone(),
        state: RunState::Running,
        verdict: None,
        current_step: 3,
        tool: Some("bash".to_owned()),
        completed_steps: 2,
        tool_calls: 2,
        cost_usd: 0.000_208,
        tokens: TokenCount::default(),
        started: live.started,
        heartbeat: Timestamp::now(),
        directory: record.directory.clone(),
        worktree: None,
    }
}

fn query(criterion: &mut Criterion) {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path().to_owned());
    let records: Vec<_> = (1..=SESSIONS).map(busy_record).collect();
    // A turn counts as live while its lease is held.
    let mut leases = Vec::new();
    for record in &records {
        if let Some(live) = &record.live {
            let holder = holder_of_turn("continue", live.turn);
            leases.push(store.lease_session(&record.address, holder, None).unwrap());
            let bytes = serde_json::to_vec_pretty(&status(record, live)).unwrap();
            let key = RecordKey::from(&record.address);
            store.write_run_volatile(&key, STATUS_FILE, &bytes).unwrap();
        }
    }
    fill(&store, records.iter().cloned());
    let environment = Environment::default();
    let settings = Settings::load(&home.path().join("config.toml"), &environment).unwrap();
    let engine = Engine::open(home.path().to_owned(), settings, environment);
    criterion.bench_function("query_10000_sessions_100_live", |bencher| {
        bencher.iter(|| {
            let query = engine.query().unwrap();
            assert_eq!(query.live.len() as u64, LIVE);
            black_box(serde_json::to_string(&query).unwrap().len())
        });
    });
    let cache = QueryCache::default();
    let changed = store.record_path(&RecordKey::from(&records[0].address));
    let text = std::fs::read(&changed).unwrap();
    criterion.bench_function("query_10000_sessions_100_live_from_memory", |bencher| {
        bencher.iter(|| {
            // Between two queries, a turn begins or ends.
            std::fs::write(&changed, &text).unwrap();
            let query = engine.query_from(&cache).unwrap();
            assert_eq!(query.live.len() as u64, LIVE);
            black_box(serde_json::to_string(&query).unwrap().len())
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = query
}
criterion_main!(benches);
