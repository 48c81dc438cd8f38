//! `kill -9` at every crash point of every operation that writes.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::fsx;
use crate::log_file::LogReader;
use crate::store::{Finding, RecordKey, Retention, Store};
use kugetsu_api::Address;

use super::common::*;
use super::faults::age;

const NAME: &str = "store::tests::crash::a_kill_at_any_moment_leaves_the_old_or_the_new";

const OPERATIONS: [&str; 7] = [
    "save_new",
    "save_over",
    "append",
    "trash",
    "restore",
    "save_after_trash",
    "collect",
];

/// The log of the subject's turn, before it is compressed.
fn old_log(store: &Store) -> PathBuf {
    let folder = store.folder(&RecordKey::from(&subject()));
    folder.join(format!("{}.raw.log", turn(1).turn))
}

fn old_lines() -> String {
    "what opencode said\n".repeat(1000)
}

fn subject() -> Address {
    address("github.com/shoko/kugetsu#14")
}

fn bystander() -> Address {
    address("github.com/shoko/kugetsu#15")
}

/// A role of the subject, whose files are in the subject's folder.
fn role_of_subject() -> Address {
    address("github.com/shoko/kugetsu#14/review")
}

/// Sets up the state before the operation.
fn prepare(store: &Store, operation: &str) {
    let address = subject();
    save(store, &bystander(), "bystander").unwrap();
    save(store, &role_of_subject(), "role").unwrap();
    let role = lease(store, &role_of_subject());
    store.append_turn(&role, &role_of_subject(), &turn(7)).unwrap();
    save_base(store, address.repo(), 0);
    let lease = lease(store, &address);
    match operation {
        "save_new" | "append" => {}
        "save_over" => store
            .save_session(&lease, &issue_record(&address, "old"))
            .unwrap(),
        _ => {
            store
                .save_session(&lease, &issue_record(&address, "old"))
                .unwrap();
            store.append_turn(&lease, &address, &turn(1)).unwrap();
        }
    }
    match operation {
        "append" => store.append_turn(&lease, &address, &turn(1)).unwrap(),
        "restore" | "save_after_trash" => perform_with(store, "trash", &lease),
        "collect" => std::fs::write(old_log(store), old_lines()).unwrap(),
        _ => {}
    }
}

fn perform(store: &Store, operation: &str) {
    perform_with(store, operation, &lease(store, &subject()));
}

fn perform_with(store: &Store, operation: &str, lease: &crate::store::Lease) {
    let address = subject();
    match operation {
        "save_new" | "save_over" | "save_after_trash" => {
            store.save_session(lease, &issue_record(&address, "new")).unwrap();
        }
        "append" => store.append_turn(lease, &address, &turn(2)).unwrap(),
        "trash" => drop(store.trash_session(lease, &address, "destroy").unwrap()),
        "restore" => drop(store.restore_session(lease, &address).unwrap()),
        "collect" => {
            let retention = Retention {
                keep: Duration::MAX,
                session: None,
                total: None,
            };
            assert_eq!(store.collect_logs(retention, false).unwrap().failed, []);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_kill_at_any_moment_leaves_the_old_or_the_new() {
    if let Some(role) = role() {
        let store = Store::open(Path::new(&role[0]).into());
        crate::set_crash_point(&role[2]).unwrap();
        return perform(&store, &role[1]);
    }
    let mut passed = BTreeSet::new();
    let mut kills = 0;
    for operation in OPERATIONS {
        for point in own_points() {
            for pass in 1.. {
                let (_folder, store) = store();
                prepare(&store, operation);
                let spec = format!("{point}:{pass}");
                let status = another_process(NAME, &[store.home().to_str().unwrap(), operation, &spec])
                    .stdout(Stdio::null())
                    .status()
                    .unwrap();
                let killed = status.signal() == Some(9);
                assert!(killed || status.success(), "{operation} at {spec}: {status}");
                verify(
                    &store,
                    operation,
                    &format!("{operation} killed at {spec}"),
                    !killed,
                );
                if !killed {
                    break;
                }
                kills += 1;
                passed.insert(point);
            }
        }
    }
    let missed: Vec<_> = own_points().filter(|point| !passed.contains(point)).collect();
    assert!(missed.is_empty(), "no operation passes {missed:?}");
    println!("{kills} kills at {} points, nothing lost", passed.len());
}

/// The title of the subject's record in its place, and the number of its records in the trash.
fn whereabouts(store: &Store) -> (Option<String>, usize) {
    let here = store
        .session_record(&subject())
        .unwrap()
        .map(|record| record.title);
    (here, store.trash_list().unwrap().len())
}

fn verify(store: &Store, operation: &str, what: &str, finished: bool) {
    let address = subject();
    // First read, as the next command would, without any repair.
    let listing = store.session_records().unwrap();
    assert_eq!(listing.broken, [], "{what}");
    assert!(
        listing.found.iter().any(|record| record.title == "bystander"),
        "{what}"
    );
    assert!(
        listing.found.iter().any(|record| record.title == "role"),
        "{what}"
    );
    assert_eq!(store.turns(&role_of_subject()).unwrap(), [turn(7)], "{what}");
    drop(
        store
            .lease_session(&address, me(), None)
            .unwrap_or_else(|error| panic!("{what}: {error}")),
    );
    store.lock("other.lock", "other", Duration::ZERO).unwrap();

    let here = whereabouts(store);
    let old = || Some("old".to_owned());
    let new = || Some("new".to_owned());
    let allowed = match operation {
        "save_new" => vec![(None, 0), (new(), 0)],
        "save_over" => vec![(old(), 0), (new(), 0)],
        "append" => vec![(None, 0)],
        "trash" => vec![(old(), 0), (None, 1)],
        "restore" => vec![(None, 1), (old(), 0)],
        "save_after_trash" => vec![(None, 1), (new(), 1)],
        "collect" => vec![(old(), 0)],
        other => panic!("{other}"),
    };
    assert!(allowed.contains(&here), "{what}: {here:?}");
    if finished {
        assert_eq!(Some(&here), allowed.last(), "{what}");
    }

    // Then repair.
    age_all(store.home());
    assert_eq!(fix_all(store), [], "{what}");
    assert_eq!(whereabouts(store), here, "{what}: the repair decided otherwise");
    let index = store.index().unwrap();
    assert_eq!(
        index.issues.contains_key(&address.to_string()),
        here.0.is_some(),
        "{what}"
    );
    let turns = store.turns(&address).unwrap().len();
    match operation {
        "append" => assert!(
            (if finished { 2 } else { 1 }..=2).contains(&turns),
            "{what}: {turns}"
        ),
        "trash" | "restore" => assert_eq!(turns, usize::from(here.0.is_some()), "{what}"),
        "collect" => {
            assert_eq!(turns, 1, "{what}");
            let mut lines = String::new();
            let mut reader = LogReader::open(&old_log(store)).unwrap();
            reader.read_to_string(&mut lines).unwrap();
            assert!(lines == old_lines(), "{what}");
            perform(store, operation);
            assert!(!old_log(store).exists(), "{what}, done again");
        }
        _ => assert_eq!(turns, 0, "{what}"),
    }

    // Then repeat the operation if it had not completed.
    if Some(&here) != allowed.last() || operation == "append" {
        perform(store, operation);
        assert_eq!(store.turns(&role_of_subject()).unwrap(), [turn(7)], "{what}");
        assert_eq!(Some(&whereabouts(store)), allowed.last(), "{what}, done again");
        assert_eq!(store.check(), [], "{what}, done again");
    }
}

fn age_all(folder: &Path) {
    for path in std::fs::read_dir(folder)
        .unwrap()
        .map(|found| found.unwrap().path())
    {
        if path.is_dir() {
            age_all(&path);
        } else if fsx::is_temp_name(path.file_name().unwrap()) {
            age(&path);
        }
    }
}

#[test]
fn a_new_session_does_not_inherit_the_folder_that_a_crash_left() {
    let (_folder, store) = store();
    let address = subject();
    let key = RecordKey::from(&address);
    let held = lease(&store, &address);
    store.save_session(&held, &issue_record(&address, "old")).unwrap();
    store.append_turn(&held, &address, &turn(1)).unwrap();
    let id = store.trash_session(&held, &address, "destroy").unwrap();
    // The state after a kill between the two moves.
    let trashed = store.home().join("trash").join(id.to_string());
    std::fs::rename(trashed.join("session"), store.folder(&key)).unwrap();
    assert_eq!(
        store.check(),
        [Finding::UnfinishedRemoval {
            id,
            record_moved: true
        }]
    );
    store.save_session(&held, &issue_record(&address, "new")).unwrap();
    assert!(store.turns(&address).unwrap().is_empty());
    assert_eq!(store.check(), []);
    store.trash_session(&held, &address, "destroy").unwrap();
    store.restore_session(&held, &address).unwrap();
    std::fs::remove_file(record_path(&store, &address)).unwrap();
    store.restore_session(&held, &address).unwrap();
    assert_eq!(store.turns(&address).unwrap(), [turn(1)]);
}

#[test]
fn a_restore_that_was_cut_off_is_taken_back_before_its_files_are_looked_for() {
    let (_folder, store) = store();
    let address = subject();
    let held = lease(&store, &address);
    store.save_session(&held, &issue_record(&address, "old")).unwrap();
    store.append_turn(&held, &address, &turn(1)).unwrap();
    let id = store.trash_session(&held, &address, "destroy").unwrap();
    // The state after a kill before the first file is restored.
    let trashed = store.home().join("trash").join(id.to_string());
    std::fs::rename(trashed.join("session"), trashed.join("session.part")).unwrap();
    store.finish_removal(&held).unwrap();
    let entry = store.newest_trashed(held.key()).unwrap();
    assert!(store.trashed_file(&entry, "turns.jsonl").is_file());
    store.restore_session(&held, &address).unwrap();
    assert_eq!(store.turns(&address).unwrap(), [turn(1)]);
    assert_eq!(store.check(), []);
}

#[test]
fn crash_points_are_named_or_refused() {
    let error = crate::set_crash_point("nowhere").unwrap_err();
    assert!(error.contains("temp_written"), "{error}");
    assert!(crate::set_crash_point("renamed:0").is_err());
    assert!(crate::set_crash_point("renamed:x").is_err());
}

/// The crash points that operations of the store pass.
fn own_points() -> impl Iterator<Item = &'static str> {
    let points = fsx::points::ALL.iter().chain(crate::store::points::ALL);
    points.map(|point| point.name())
}
