//! Sample records, and running a test as another process.

use std::path::Path;
use std::process::Command;

use crate::permission::Policy;
use crate::store::{Finding, Holder, Lease, RecordKey, Store, this_process};
use jiff::Timestamp;
use kugetsu_api::{
    Address, BaseRecord, Proof, RepoRef, SCHEMA, SessionId, SessionRecord, TokenCount, Totals, TransportKind,
    TurnRecord, Verdict,
};
use tempfile::TempDir;

pub(crate) fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("home"));
    (folder, store)
}

pub(crate) fn address(text: &str) -> Address {
    Address::try_from(text.to_owned()).unwrap()
}

pub(crate) fn repo(text: &str) -> RepoRef {
    RepoRef::try_from(text.to_owned()).unwrap()
}

pub(crate) fn me() -> Holder {
    this_process("test")
}

pub(crate) fn issue_record(address: &Address, title: &str) -> SessionRecord {
    SessionRecord {
        schema: SCHEMA,
        address: address.clone(),
        typed: address.to_string(),
        issue_title: None,
        session: SessionId::new("ses_1a2b3c4d5e6f"),
        fork: None,
        base: address.repo().clone(),
        base_session: SessionId::new("ses_base").unwrap(),
        directory: "/srv/kugetsu".into(),
        worktree: None,
        forked_after: None,
        start_commit: None,
        title: title.to_owned(),
        policy: Policy::default(),
        sandbox: None,
        trust: None,
        opencode: "1.18.33".to_owned(),
        created: at(0),
        updated: at(0),
        live: None,
        last: Some(turn(0)),
        totals: Totals::default(),
        days: std::collections::BTreeMap::default(),
        pending: Vec::new(),
    }
}

pub(crate) fn base_record(repo: &RepoRef, created: i64) -> BaseRecord {
    BaseRecord {
        default_since: None,
        schema: SCHEMA,
        repo: repo.clone(),
        session: SessionId::new("ses_base").unwrap(),
        directory: "/srv/kugetsu".into(),
        title: "base".to_owned(),
        policy: Policy::default(),
        sandbox: kugetsu_api::SandboxMode::Off,
        trust: None,
        adopted: false,
        opencode: "1.18.33".to_owned(),
        created: at(created),
        updated: at(created),
        prompted: None,
    }
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

pub(crate) fn turn(number: u64) -> TurnRecord {
    TurnRecord {
        schema: SCHEMA,
        turn: uuid::Uuid::from_u128(u128::from(number)),
        verdict: Verdict::Completed,
        reason: String::new(),
        retry_at: None,
        proof: Proof::default(),
        transport: TransportKind::Serve,
        sandbox: None,
        started: at(0),
        ended: at(1),
        timings: kugetsu_api::Timings::default(),
        steps: number,
        tool_calls: 0,
        cost_usd: 0.25,
        tokens: TokenCount::default(),
        opencode: "1.18.33".to_owned(),
        events: 3,
        restarts: 0,
        answered: kugetsu_api::Answered::default(),
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

pub(crate) fn lease(store: &Store, address: &Address) -> Lease {
    store.lease_session(address, me(), None).unwrap()
}

/// Saves a record with this title under a lease of its own.
pub(crate) fn save(store: &Store, address: &Address, title: &str) -> Result<(), crate::store::StoreError> {
    store.save_session(&lease(store, address), &issue_record(address, title))
}

pub(crate) fn save_base(store: &Store, repo: &RepoRef, created: i64) {
    let lease = store.lease_base(repo, me(), None).unwrap();
    store.save_base(&lease, &base_record(repo, created)).unwrap();
}

pub(crate) fn record_path(store: &Store, address: &Address) -> std::path::PathBuf {
    store.record_path(&RecordKey::from(address))
}

pub(crate) fn overwrite(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Fixes every fixable finding and returns the rest.
pub(crate) fn fix_all(store: &Store) -> Vec<Finding> {
    for finding in store.check() {
        store.fix(&finding).unwrap();
    }
    store.check()
}

/// This test as another process, which finds these arguments through [`role`].
pub(crate) fn another_process(test: &str, role: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(test_arguments(test))
        .env("KUGETSU_TEST_ROLE", role.join("\n"));
    command
}

pub(crate) fn test_arguments(test: &str) -> [&str; 4] {
    [test, "--exact", "--nocapture", "--test-threads=1"]
}

/// The role of this process, unless this is the test itself.
pub(crate) fn role() -> Option<Vec<String>> {
    Some(
        std::env::var("KUGETSU_TEST_ROLE")
            .ok()?
            .split('\n')
            .map(str::to_owned)
            .collect(),
    )
}
