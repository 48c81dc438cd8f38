//! Moving to the trash, restoring and expiring.

use std::time::Duration;

use crate::store::encoding::{MAX_RECORD, record_text};
use crate::store::{RecordKey, StoreError};

use super::common::*;

#[test]
fn what_is_trashed_comes_back_whole() {
    let (_folder, store) = store();
    let address = address("github.com/shoko/kugetsu#14");
    let lease = lease(&store, &address);
    store
        .save_session(&lease, &issue_record(&address, "kept"))
        .unwrap();
    store.append_turn(&lease, &address, &turn(7)).unwrap();
    let id = store.trash_session(&lease, &address, "destroy").unwrap();

    assert_eq!(store.session_record(&address).unwrap(), None);
    assert!(store.turns(&address).unwrap().is_empty() && store.session_records().unwrap().found.is_empty());
    assert!(store.index().unwrap().issues.is_empty());
    assert_eq!(store.check(), []);
    let listed = store.trash_list().unwrap();
    assert_eq!(
        (listed.len(), &listed[0].id, listed[0].why.as_str()),
        (1, &id, "destroy")
    );
    assert_eq!(
        crate::store::trash::key_of(&listed[0]),
        Some(RecordKey::from(&address))
    );
    assert_eq!(
        listed[0].record.to_str(),
        Some("github.com/shoko/kugetsu/14.json")
    );
    assert!(
        store
            .home()
            .join("trash")
            .join(id.to_string())
            .join("entry.json")
            .is_file()
    );

    store.restore_session(&lease, &address).unwrap();
    assert_eq!(
        store.session_record(&address).unwrap(),
        Some(issue_record(&address, "kept"))
    );
    assert_eq!(store.turns(&address).unwrap(), [turn(7)]);
    assert_eq!(store.index().unwrap().issues.len(), 1);
    assert!(store.trash_list().unwrap().is_empty());
    assert_eq!(store.check(), []);
    let again = store.restore_session(&lease, &address).unwrap_err();
    assert!(matches!(again, StoreError::NotInTrash { .. }), "{again}");
}

#[test]
fn the_newest_comes_back_and_nothing_is_replaced() {
    let (_folder, store) = store();
    let address = address("github.com/o/r#1");
    let lease = lease(&store, &address);
    for title in ["first", "second"] {
        store
            .save_session(&lease, &issue_record(&address, title))
            .unwrap();
        store
            .append_turn(&lease, &address, &turn(title.len() as u64))
            .unwrap();
        store.trash_session(&lease, &address, "prune").unwrap();
    }
    store
        .save_session(&lease, &issue_record(&address, "third"))
        .unwrap();
    assert!(matches!(
        store.restore_session(&lease, &address),
        Err(StoreError::Exists { .. })
    ));
    assert_eq!(store.session_record(&address).unwrap().unwrap().title, "third");
    store.trash_session(&lease, &address, "prune").unwrap();
    let mut back = Vec::new();
    for _ in 0..3 {
        store.restore_session(&lease, &address).unwrap();
        back.push((
            store.session_record(&address).unwrap().unwrap().title,
            store.turns(&address).unwrap().len(),
        ));
        std::fs::remove_file(record_path(&store, &address)).unwrap();
        let _ = std::fs::remove_dir_all(store.folder(&RecordKey::from(&address)));
    }
    let expected =
        [("third", 0), ("second", 1), ("first", 1)].map(|(title, turns)| (title.to_owned(), turns));
    assert_eq!(back, expected);
}

#[test]
fn logs_of_an_attempt_without_a_record_stay_and_do_not_stop_a_restore() {
    let (_folder, store) = store();
    let address = address("github.com/o/r#1");
    let lease = lease(&store, &address);
    store
        .save_session(&lease, &issue_record(&address, "kept"))
        .unwrap();
    store.append_turn(&lease, &address, &turn(7)).unwrap();
    let id = store.trash_session(&lease, &address, "destroy").unwrap();
    overwrite(
        &store.folder(&RecordKey::from(&address)).join("debug.log"),
        "failed",
    );
    assert_eq!(store.check(), []);
    store.restore_session(&lease, &address).unwrap();
    assert_eq!(store.turns(&address).unwrap(), [turn(7)]);
    let entry = std::fs::read_dir(store.home().join("trash").join(id.to_string())).unwrap();
    let aside = entry
        .map(|found| found.unwrap().path())
        .find(|path| path.join("debug.log").exists())
        .unwrap();
    assert_eq!(
        std::fs::read_to_string(aside.join("debug.log")).unwrap(),
        "failed"
    );
    assert_eq!(store.check(), []);
}

#[test]
fn a_default_base_that_goes_leaves_none() {
    let (_folder, store) = store();
    let (first, second) = (repo("a.com/o/r"), repo("b.com/o/r"));
    save_base(&store, &first, 0);
    save_base(&store, &second, 1);
    store.set_default_base(Some(&first)).unwrap();
    let lease = store.lease_base(&first, me(), None).unwrap();
    store.trash_base(&lease, &first, "destroy").unwrap();
    assert_eq!(store.default_base().unwrap(), None);
    assert_eq!(store.check(), []);
    store.restore_base(&lease, &first).unwrap();
    assert_eq!(store.base(&first).unwrap(), Some(base_record(&first, 0)));
    assert_eq!(store.check(), []);
}

#[test]
fn what_cannot_be_trashed_stays_as_it_was() {
    let (_folder, store) = store();
    let address = address("github.com/o/r#1");
    let lease = lease(&store, &address);
    let nothing_there = store.trash_session(&lease, &address, "").unwrap_err();
    assert!(matches!(nothing_there, StoreError::Io { .. }), "{nothing_there}");
    assert_eq!(std::fs::read_dir(store.home().join("trash")).unwrap().count(), 0);
    assert_eq!(store.check(), []);
}

#[test]
fn the_trash_expires() {
    let (_folder, store) = store();
    let (old, new) = (address("github.com/o/r#1"), address("github.com/o/r#2"));
    for address in [&old, &new] {
        let lease = lease(&store, address);
        store.save_session(&lease, &issue_record(address, "x")).unwrap();
        store.trash_session(&lease, address, "prune").unwrap();
    }
    let entry = store.trash_list().unwrap().remove(0);
    let file = store
        .home()
        .join("trash")
        .join(entry.id.to_string())
        .join("entry.json");
    let mut aged = entry.clone();
    aged.when = at(-1_000_000_000);
    overwrite(&file, serde_json::to_vec(&aged).unwrap());
    let gone = store.expire_trash(Duration::from_hours(1)).unwrap();
    assert_eq!(gone, [aged]);
    assert!(!file.parent().unwrap().exists());
    assert!(matches!(
        store.restore_session(&lease(&store, &old), &old),
        Err(StoreError::NotInTrash { .. })
    ));
    store.restore_session(&lease(&store, &new), &new).unwrap();
}

#[test]
fn the_largest_record_is_written_destroyed_and_restored_and_no_larger_one_is_written() {
    let (_folder, store) = store();
    let address = address("github.com/shoko/kugetsu#14");
    let lease = lease(&store, &address);
    let with_title = |length: usize| issue_record(&address, &"x".repeat(length));
    let overhead = record_text(&with_title(0)).unwrap().len();
    let largest = usize::try_from(MAX_RECORD).unwrap() - overhead;

    store.save_session(&lease, &with_title(largest)).unwrap();
    assert_eq!(
        std::fs::metadata(store.record_path(&RecordKey::from(&address)))
            .unwrap()
            .len(),
        MAX_RECORD
    );
    let error = store.save_session(&lease, &with_title(largest + 1)).unwrap_err();
    assert!(
        matches!(error, StoreError::RecordTooLarge { max: MAX_RECORD, .. }),
        "{error}"
    );
    assert_eq!(
        store.session_record(&address).unwrap().unwrap().title.len(),
        largest
    );

    store.trash_session(&lease, &address, "destroy").unwrap();
    let entry = store.newest_trashed(&RecordKey::from(&address)).unwrap();
    assert_eq!(store.trashed_session(&entry).unwrap().title.len(), largest);
    store.restore_session(&lease, &address).unwrap();
    assert_eq!(
        store.session_record(&address).unwrap().unwrap().title.len(),
        largest
    );
}
