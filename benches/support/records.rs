//! Records for benchmarks.
#![allow(dead_code, reason = "each bench uses a part of it")]

use jiff::Timestamp;
use kugetsu_api::{
    Address, Answered, Proof, SCHEMA, SessionId, SessionRecord, TokenCount, Totals, TransportKind,
    TurnRecord, Verdict,
};
use kugetsu_engine::permission::Policy;
use kugetsu_engine::store::{RecordKey, Store, record_text};
use uuid::Uuid;

pub(crate) fn address(number: u64) -> Address {
    Address::try_from(format!("github.com/shoko/kugetsu#{number}")).unwrap()
}

pub(crate) fn record(number: u64) -> SessionRecord {
    let address = address(number);
    let now = Timestamp::now();
    SessionRecord {
        schema: SCHEMA,
        typed: address.to_string(),
        issue_title: None,
        title: address.to_string(),
        base: address.repo().clone(),
        address,
        session: SessionId::new(format!("ses_{number:026}")),
        fork: None,
        base_session: SessionId::new("ses_base").unwrap(),
        directory: "/srv/kugetsu".into(),
        policy: Policy::default(),
        sandbox: None,
        trust: None,
        opencode: "1.18.33".to_owned(),
        created: now,
        updated: now,
        live: None,
        last: Some(turn(Verdict::Completed, now)),
        totals: Totals::default(),
        days: std::collections::BTreeMap::default(),
        pending: Vec::new(),
        worktree: None,
        forked_after: None,
        start_commit: None,
    }
}

pub(crate) fn turn(verdict: Verdict, ended: Timestamp) -> TurnRecord {
    TurnRecord {
        schema: SCHEMA,
        turn: Uuid::now_v7(),
        verdict,
        reason: String::new(),
        retry_at: None,
        proof: Proof::default(),
        transport: TransportKind::Serve,
        sandbox: None,
        started: ended,
        ended,
        timings: kugetsu_api::Timings::default(),
        steps: 2,
        tool_calls: 1,
        cost_usd: 0.000_208,
        tokens: TokenCount::default(),
        opencode: "1.18.33".to_owned(),
        events: 24,
        restarts: 0,
        answered: Answered::default(),
        log_gap: None,
        prompt: None,
        changes: None,
        refused: kugetsu_api::Refused::default(),
        prompt_sha256: None,
        prompt_stored: None,
        parent: None,
        warnings: Vec::new(),
    }
}

/// Writes records into a store without syncing each of them.
pub(crate) fn fill(store: &Store, records: impl Iterator<Item = SessionRecord>) {
    for record in records {
        let path = store.record_path(&RecordKey::from(&record.address));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        #[expect(clippy::disallowed_methods, reason = "thousands of records")]
        std::fs::write(path, record_text(&record).unwrap()).unwrap();
    }
}
