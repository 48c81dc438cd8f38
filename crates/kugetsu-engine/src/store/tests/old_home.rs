//! A store written by version 0.1 is read and rewritten without loss.

use std::path::Path;

use serde_json::Value;

use crate::store::{RecordKey, Store, record_text};

fn fixture() -> Store {
    Store::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/home-0.1"))
}

/// Compares the rewritten text of a record with the text that the old version wrote.
fn assert_unchanged(store: &Store, key: &RecordKey, written: &[u8]) {
    let old: Value = serde_json::from_slice(&std::fs::read(store.record_path(key)).unwrap()).unwrap();
    let new: Value = serde_json::from_slice(written).unwrap();
    assert_eq!(old, new, "{key}");
}

#[test]
fn every_record_is_read_and_written_as_it_was() {
    let store = fixture();
    let sessions = store.session_records().unwrap();
    assert_eq!(
        (sessions.found.len(), sessions.broken.len()),
        (7, 0),
        "{:?}",
        sessions.broken
    );
    for record in &sessions.found {
        assert_unchanged(
            &store,
            &RecordKey::from(&record.address),
            &record_text(record).unwrap(),
        );
        let turns = store.turns(&record.address).unwrap();
        assert!(turns.len() as u64 >= record.totals.turns, "{}", record.address);
    }
    let bases = store.bases().unwrap();
    assert_eq!((bases.found.len(), bases.broken.len()), (2, 0));
    for base in &bases.found {
        assert_unchanged(&store, &RecordKey::from(&base.repo), &record_text(base).unwrap());
    }
    assert_eq!(bases.found.iter().filter(|base| base.adopted).count(), 1);
    assert_eq!(store.index().unwrap().issues.len(), 7);
}

#[test]
fn the_trash_of_the_old_version_is_read() {
    let store = fixture();
    let entries = store.trash_list().unwrap();
    assert_eq!(entries.len(), 3);
    for entry in &entries {
        if entry.repo.is_some() {
            store.trashed_base(entry).unwrap();
        } else {
            let record = store.trashed_session(entry).unwrap();
            assert_eq!(Some(record.address), entry.address);
            assert!(store.trashed_file(entry, "export.json").is_file());
        }
    }
}
