//! `query` on a store of 10,000 sessions with 100 live turns: the goal is 50 ms.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "criterion's macros make undocumented items; a bench may stop at once, and writes without syncs"
)]

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use kugetsu::broker::{Broker, Surroundings};
use kugetsu::config::Config;
use kugetsu::permission::Policy;
use kugetsu::process;
use kugetsu::session::{
    Answered, IssueRecord, IssueRef, LiveTurn, SCHEMA, SessionId, TokenCount, Totals, TransportKind,
    TurnRecord, Verdict,
};
use kugetsu::store::{Key, Store};
use kugetsu::turn::status::{RunState, STATUS_FILE, TurnStatus};
use uuid::Uuid;

const SESSIONS: u64 = 10_000;
const LIVE: u64 = 100;

fn record(number: u64) -> IssueRecord {
    let issue = IssueRef::try_from(format!("github.com/shoko/repo{}#{number}", number % 20)).unwrap();
    let now = Timestamp::now();
    let mut record = IssueRecord {
        schema: SCHEMA,
        typed: issue.to_string(),
        title: issue.to_string(),
        base: issue.repo().clone(),
        issue,
        session: SessionId::new(format!("ses_{number:026}")),
        fork: None,
        base_session: SessionId::new("ses_base").unwrap(),
        directory: "/srv/kugetsu".into(),
        policy: Policy::default(),
        opencode: "1.18.33".to_owned(),
        created: now,
        updated: now,
        live: None,
        worktree: None,
        last: None,
        totals: Totals::default(),
        days: std::collections::BTreeMap::default(),
        pending: Vec::new(),
    };
    for day in 0..3_i64 {
        let verdict = if number.is_multiple_of(10) {
            Verdict::Failed
        } else {
            Verdict::Completed
        };
        let turn = TurnRecord {
            schema: SCHEMA,
            turn: Uuid::now_v7(),
            verdict,
            reason: String::new(),
            transport: TransportKind::Serve,
            started: now,
            ended: now - jiff::SignedDuration::from_hours(24 * day),
            steps: 2,
            tool_calls: 1,
            cost_usd: 0.000_208,
            tokens: TokenCount::default(),
            opencode: "1.18.33".to_owned(),
            events: 24,
            restarts: 0,
            answered: Answered::default(),
        };
        record.count(&turn);
        record.last = Some(turn);
    }
    if number <= LIVE {
        record.live = Some(LiveTurn {
            turn: Uuid::now_v7(),
            supervisor: process::current(),
            started: now,
            transport: TransportKind::Serve,
        });
    }
    record
}

fn status(record: &IssueRecord, live: &LiveTurn) -> TurnStatus {
    TurnStatus {
        schema: 1,
        subject: record.issue.to_string(),
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
    for number in 1..=SESSIONS {
        let record = record(number);
        let key = Key::from(&record.issue);
        let path: PathBuf = store.record_path(&key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, serde_json::to_vec_pretty(&record).unwrap()).unwrap();
        if let Some(live) = &record.live {
            let bytes = serde_json::to_vec_pretty(&status(&record, live)).unwrap();
            store.write_run_volatile(&key, STATUS_FILE, &bytes).unwrap();
        }
    }
    let config = Config::load(&home.path().join("config.toml"), |_| None).unwrap();
    let broker = Broker {
        store,
        config,
        surroundings: Surroundings::default(),
    };
    criterion.bench_function("query_10000_sessions_100_live", |bencher| {
        bencher.iter(|| {
            let query = broker.query().unwrap();
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
