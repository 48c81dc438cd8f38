//! Into the trash, back, and away for good.

use std::time::Duration;

use kugetsu::store::{Key, StoreError};

use crate::common::*;

#[test]
fn what_is_trashed_comes_back_whole() {
    let (_folder, store) = store();
    let issue = issue("github.com/shoko/kugetsu#14");
    let lease = lease(&store, &issue);
    store.save_issue(&lease, &issue_record(&issue, "kept")).unwrap();
    store.append_turn(&lease, &issue, &turn(7)).unwrap();
    let id = store.trash_issue(&lease, &issue, "destroy").unwrap();

    assert_eq!(store.issue(&issue).unwrap(), None);
    assert!(store.turns(&issue).unwrap().is_empty() && store.issues().unwrap().found.is_empty());
    assert!(store.index().unwrap().issues.is_empty());
    assert_eq!(store.check(), []);
    let listed = store.trash_list().unwrap();
    assert_eq!(
        (listed.len(), &listed[0].id, listed[0].why.as_str()),
        (1, &id, "destroy")
    );
    assert_eq!(listed[0].key(), Some(Key::from(&issue)));
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

    store.restore_issue(&lease, &issue).unwrap();
    assert_eq!(store.issue(&issue).unwrap(), Some(issue_record(&issue, "kept")));
    assert_eq!(store.turns(&issue).unwrap(), [turn(7)]);
    assert_eq!(store.index().unwrap().issues.len(), 1);
    assert!(store.trash_list().unwrap().is_empty());
    assert_eq!(store.check(), []);
    let again = store.restore_issue(&lease, &issue).unwrap_err();
    assert!(matches!(again, StoreError::NotInTrash { .. }), "{again}");
}

#[test]
fn the_newest_comes_back_and_nothing_is_replaced() {
    let (_folder, store) = store();
    let issue = issue("github.com/o/r#1");
    let lease = lease(&store, &issue);
    for title in ["first", "second"] {
        store.save_issue(&lease, &issue_record(&issue, title)).unwrap();
        store
            .append_turn(&lease, &issue, &turn(title.len() as u64))
            .unwrap();
        store.trash_issue(&lease, &issue, "prune").unwrap();
    }
    store.save_issue(&lease, &issue_record(&issue, "third")).unwrap();
    assert!(matches!(
        store.restore_issue(&lease, &issue),
        Err(StoreError::Exists { .. })
    ));
    assert_eq!(store.issue(&issue).unwrap().unwrap().title, "third");
    store.trash_issue(&lease, &issue, "prune").unwrap();
    let mut back = Vec::new();
    for _ in 0..3 {
        store.restore_issue(&lease, &issue).unwrap();
        back.push((
            store.issue(&issue).unwrap().unwrap().title,
            store.turns(&issue).unwrap().len(),
        ));
        std::fs::remove_file(record_path(&store, &issue)).unwrap();
        let _ = std::fs::remove_dir_all(store.folder(&Key::from(&issue)));
    }
    let expected =
        [("third", 0), ("second", 1), ("first", 1)].map(|(title, turns)| (title.to_owned(), turns));
    assert_eq!(back, expected);
}

#[test]
fn logs_of_an_attempt_without_a_record_do_not_stop_a_restore_and_are_kept() {
    let (_folder, store) = store();
    let issue = issue("github.com/o/r#1");
    let lease = lease(&store, &issue);
    store.save_issue(&lease, &issue_record(&issue, "kept")).unwrap();
    store.append_turn(&lease, &issue, &turn(7)).unwrap();
    let id = store.trash_issue(&lease, &issue, "destroy").unwrap();
    overwrite(&store.folder(&Key::from(&issue)).join("debug.log"), "failed");
    assert_eq!(store.check(), []);
    store.restore_issue(&lease, &issue).unwrap();
    assert_eq!(store.turns(&issue).unwrap(), [turn(7)]);
    let entry = std::fs::read_dir(store.home().join("trash").join(id.to_string())).unwrap();
    let kept = entry
        .map(|found| found.unwrap().path())
        .find(|path| path.join("debug.log").exists())
        .unwrap();
    assert_eq!(std::fs::read_to_string(kept.join("debug.log")).unwrap(), "failed");
    assert_eq!(store.check(), []);
}

#[test]
fn a_default_base_that_goes_leaves_none() {
    let (_folder, store) = store();
    let (first, second) = (repo("a.com/o/r"), repo("b.com/o/r"));
    save_base(&store, &first, 0);
    save_base(&store, &second, 1);
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
    let issue = issue("github.com/o/r#1");
    let lease = lease(&store, &issue);
    let nothing_there = store.trash_issue(&lease, &issue, "").unwrap_err();
    assert!(matches!(nothing_there, StoreError::Io { .. }), "{nothing_there}");
    assert_eq!(std::fs::read_dir(store.home().join("trash")).unwrap().count(), 0);
    assert_eq!(store.check(), []);
}

#[test]
fn the_trash_expires() {
    let (_folder, store) = store();
    let (old, new) = (issue("github.com/o/r#1"), issue("github.com/o/r#2"));
    for issue in [&old, &new] {
        let lease = lease(&store, issue);
        store.save_issue(&lease, &issue_record(issue, "x")).unwrap();
        store.trash_issue(&lease, issue, "prune").unwrap();
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
        store.restore_issue(&lease(&store, &old), &old),
        Err(StoreError::NotInTrash { .. })
    ));
    store.restore_issue(&lease(&store, &new), &new).unwrap();
}
