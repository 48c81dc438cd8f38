//! Full and read-only disks, folders of other users, and symbolic links inside the store.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::store::{Finding, Fixed, LeaseError, RecordKey, Store, StoreError};

use super::common::*;

/// Runs this test again in a separate namespace after the script `prepare`, in which `$0` is an empty folder.
fn in_a_namespace(test: &str, prepare: &str) {
    let folder = tempfile::tempdir().unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    if !is_root {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--mount", "sh", "-c", &format!("{prepare} && exec \"$@\"")])
        .arg(folder.path());
    command
        .arg(std::env::current_exe().unwrap())
        .args(test_arguments(test));
    command.env("KUGETSU_TEST_ROLE", folder.path());
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("this test needs util-linux: {command:?}: {error}"));
    assert!(
        output.status.success(),
        "failed: {command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_full_disk_is_reported_and_loses_nothing() {
    let Some(role) = role() else {
        return in_a_namespace(
            "store::tests::faults::a_full_disk_is_reported_and_loses_nothing",
            "mount -t tmpfs -o size=256k,mode=700 tmpfs \"$0\"",
        );
    };
    let disk = Path::new(&role[0]);
    let store = Store::open(disk.join("home"));
    let reserve = disk.join("reserve");
    overwrite(&reserve, vec![b'x'; 60_000]);
    let turns_of = address("github.com/o/turns#1");
    save(&store, &turns_of, "before").unwrap();
    let mut saved = Vec::new();
    let error = loop {
        let next = address(&format!("github.com/o/r#{}", saved.len() + 1));
        match save(&store, &next, "x") {
            Ok(()) => saved.push(next),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(
        error.to_string().contains("full") && error.to_string().contains("home"),
        "{error}"
    );
    // A file that cannot be replaced stays as it is, and a turn is added completely or not at all.
    let big = "y".repeat(200_000);
    assert!(matches!(
        save(&store, &turns_of, &big),
        Err(StoreError::Full { .. })
    ));
    assert_eq!(store.session_record(&turns_of).unwrap().unwrap().title, "before");
    let held = lease(&store, &turns_of);
    let mut long = turn(1);
    long.reason = "z".repeat(3_000);
    let mut added = 0;
    let error = loop {
        match store.append_turn(&held, &turns_of, &long) {
            Ok(()) => added += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(store.turns(&turns_of).unwrap().len(), added);
    let file =
        std::fs::read(store.folder(&RecordKey::from(&turns_of)).join("turns.jsonl")).unwrap_or_default();
    assert!(
        file.is_empty() || file.ends_with(b"\n"),
        "a part of a line stayed"
    );
    assert!(matches!(
        store.trash_session(&held, &turns_of, ""),
        Err(StoreError::Full { .. })
    ));
    assert!(store.session_record(&turns_of).unwrap().is_some());
    drop(held);

    let listing = store.session_records().unwrap();
    assert_eq!(listing.broken, []);
    for address in &saved {
        assert!(
            listing.found.iter().any(|record| record.address == *address),
            "{address} is lost"
        );
    }
    std::fs::remove_file(&reserve).unwrap();
    assert_eq!(fix_all(&store), []);
    save(&store, &address("github.com/o/r#9999"), "x").unwrap();
    assert_eq!(store.check(), []);
}

#[test]
fn a_read_only_disk_is_read_and_reported() {
    let Some(role) = role() else {
        return in_a_namespace(
            "store::tests::faults::a_read_only_disk_is_read_and_reported",
            "mount -t tmpfs -o size=1m,mode=700 tmpfs \"$0\"",
        );
    };
    let store = Store::open(Path::new(&role[0]).join("home"));
    let address = address("github.com/o/r#1");
    save(&store, &address, "x").unwrap();
    let remount = Command::new("mount")
        .args(["-o", "remount,ro", &role[0]])
        .status()
        .unwrap();
    assert!(remount.success());
    assert_eq!(store.session_record(&address).unwrap().unwrap().title, "x");
    assert_eq!(store.session_records().unwrap().found.len(), 1);
    assert_eq!(store.check(), []);
    let error = store.lease_session(&address, me(), None).unwrap_err();
    assert!(
        matches!(error, LeaseError::Store(StoreError::ReadOnly { .. })),
        "{error:?}"
    );
    assert!(error.to_string().contains("read-only"), "{error}");
    assert!(matches!(store.rebuild_index(), Err(StoreError::ReadOnly { .. })));
}

#[test]
fn a_folder_of_another_user_is_reported() {
    const NAME: &str = "store::tests::faults::a_folder_of_another_user_is_reported";
    if let Some(role) = role() {
        let store = Store::open(Path::new(&role[0]).into());
        assert_eq!(store.session_records().unwrap().found.len(), 1);
        for (number, result) in [
            (1, "run/github.com/o/r/1.lease"),
            (2, "run/github.com/o/r/2.lease"),
        ] {
            let address = address(&format!("github.com/o/r#{number}"));
            let error = store.lease_session(&address, me(), None).unwrap_err();
            assert!(
                matches!(error, LeaseError::Store(StoreError::Permission { .. })),
                "{error:?}"
            );
            assert!(error.to_string().contains(result), "{error}");
        }
        assert!(matches!(
            store.rebuild_index(),
            Err(StoreError::Permission { .. })
        ));
        return;
    }
    let (_folder, store) = store();
    save(&store, &address("github.com/o/r#1"), "x").unwrap();
    let index = store.home().join("index.lock");
    let lease = store.run_path(&RecordKey::from(&address("github.com/o/r#1")), ".lease");
    let modes = [
        (index.as_path(), 0o400),
        (lease.as_path(), 0o400),
        (lease.parent().unwrap(), 0o500),
    ];
    for (path, mode) in modes {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    // Root may do anything, except in a namespace that maps it to nobody.
    let mut command = Command::new("unshare");
    command
        .arg("--user")
        .arg(std::env::current_exe().unwrap())
        .args(test_arguments(NAME));
    let output = command.env("KUGETSU_TEST_ROLE", store.home()).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs util-linux: {command:?}: {error}"));
    for (path, _) in modes {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert!(
        output.status.success(),
        "failed: {command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn no_link_is_followed() {
    let (folder, store) = store();
    let address = address("github.com/o/r#1");
    let key = RecordKey::from(&address);
    let outside = folder.path().join("outside");
    let record = serde_json::to_vec(&issue_record(&address, "outside")).unwrap();

    // A record.
    overwrite(&outside.join("1.json"), &record);
    let path = record_path(&store, &address);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(outside.join("1.json"), &path).unwrap();
    let is_link = |error: StoreError| assert!(matches!(error, StoreError::Symlink { .. }), "{error:?}");
    is_link(store.session_record(&address).unwrap_err());
    is_link(save(&store, &address, "x").unwrap_err());
    is_link(
        store
            .trash_session(&lease(&store, &address), &address, "")
            .unwrap_err(),
    );
    let listing = store.session_records().unwrap();
    assert!(
        listing.found.is_empty() && listing.broken[0].0 == path,
        "{listing:?}"
    );
    let finding = Finding::Symlink { path: path.clone() };
    assert_eq!(store.check(), std::slice::from_ref(&finding));
    assert_eq!(store.fix(&finding).unwrap(), Fixed::NotByMachine);
    std::fs::remove_file(&path).unwrap();

    // Every folder on the way, and the folder of the session's turns.
    let mut on_the_way: Vec<_> = path
        .ancestors()
        .skip(1)
        .take_while(|folder| *folder != store.home())
        .map(Path::to_owned)
        .collect();
    on_the_way.push(store.folder(&key));
    for link in on_the_way {
        let _ = std::fs::remove_dir_all(store.home());
        let _ = std::fs::remove_dir_all(&outside);
        let below = path.strip_prefix(&link).unwrap_or(Path::new(""));
        let target = if below.as_os_str().is_empty() {
            outside.join("turns.jsonl")
        } else {
            outside.join(below)
        };
        overwrite(&target, &record);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&outside, &link).unwrap();
        if link == store.folder(&key) {
            is_link(store.turns(&address).unwrap_err());
            is_link(
                store
                    .append_turn(&lease(&store, &address), &address, &turn(1))
                    .unwrap_err(),
            );
            is_link(store.open_log(&key, "debug.log").unwrap_err());
        } else {
            is_link(store.session_record(&address).unwrap_err());
            is_link(save(&store, &address, "x").unwrap_err());
            match store.session_records() {
                Ok(listing) => assert!(
                    listing.found.is_empty() && listing.broken.len() == 1,
                    "{listing:?}"
                ),
                Err(error) => is_link(error),
            }
        }
        assert!(
            store
                .check()
                .iter()
                .any(|finding| matches!(finding, Finding::Symlink { .. })),
            "{}",
            link.display()
        );
        assert_eq!(std::fs::read(&target).unwrap(), record, "{}", link.display());
    }

    // A lease, the index, the trash.
    let _ = std::fs::remove_dir_all(store.home());
    let lease_path = store.run_path(&key, ".lease");
    std::fs::create_dir_all(lease_path.parent().unwrap()).unwrap();
    overwrite(&outside.join("victim"), "precious");
    symlink(outside.join("victim"), &lease_path).unwrap();
    let error = store.lease_session(&address, me(), None).unwrap_err();
    assert!(
        matches!(error, LeaseError::Store(StoreError::Symlink { .. })),
        "{error:?}"
    );
    std::fs::remove_file(&lease_path).unwrap();
    symlink(outside.join("victim"), store.home().join("index.json")).unwrap();
    is_link(save(&store, &address, "x").unwrap_err());
    std::fs::remove_file(store.home().join("index.json")).unwrap();
    symlink(&outside, store.home().join("trash")).unwrap();
    is_link(
        store
            .trash_session(&lease(&store, &address), &address, "")
            .unwrap_err(),
    );
    is_link(store.trash_list().unwrap_err());
    assert_eq!(
        std::fs::read_to_string(outside.join("victim")).unwrap(),
        "precious"
    );
}

#[test]
fn the_home_folder_itself_may_be_a_link() {
    let (folder, _) = store();
    let real = folder.path().join("disk/kugetsu");
    std::fs::create_dir_all(&real).unwrap();
    symlink(&real, folder.path().join("link")).unwrap();
    let store = Store::open(folder.path().join("link"));
    let address = address("github.com/o/r#1");
    save(&store, &address, "x").unwrap();
    assert!(real.join("sessions/github.com/o/r/1.json").is_file());
    assert_eq!(store.session_record(&address).unwrap().unwrap().title, "x");
    assert_eq!(store.check(), []);
}

#[test]
fn pipes_and_folders_in_a_record_s_place_hang_nothing() {
    let (_folder, store) = store();
    let address = address("github.com/o/r#1");
    let path = record_path(&store, &address);
    std::fs::create_dir_all(&path).unwrap();
    assert!(matches!(
        store.session_record(&address),
        Err(StoreError::Broken { .. } | StoreError::Io { .. })
    ));
    std::fs::remove_dir(&path).unwrap();
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    assert!(matches!(
        store.session_record(&address),
        Err(StoreError::Broken { .. })
    ));
    assert!(matches!(
        save(&store, &address, "x"),
        Err(StoreError::Broken { .. })
    ));
    assert_eq!(store.session_records().unwrap().broken.len(), 1);
}

#[test]
fn left_temporary_files_are_found_once_they_are_old() {
    let (_folder, store) = store();
    let address = address("github.com/o/r#1");
    save(&store, &address, "x").unwrap();
    let places = [
        record_path(&store, &address).with_file_name(".tmp-1-2-3"),
        store.home().join(".tmp-4"),
        store
            .run_path(&RecordKey::from(&address), ".lease")
            .with_file_name(".tmp-5"),
    ];
    for path in &places {
        overwrite(path, "half");
    }
    assert_eq!(store.check(), [], "someone may be writing them");
    for path in &places {
        age(path);
    }
    assert_eq!(store.check().len(), 3);
    assert_eq!(fix_all(&store), []);
    assert!(places.iter().all(|path| !path.exists()));
    assert_eq!(store.session_record(&address).unwrap().unwrap().title, "x");
}

pub(crate) fn age(path: &Path) {
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(1);
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(hour_ago)
        .unwrap();
}
