//! A damaged store.

use std::os::unix::fs::symlink;

use crate::support::kit::{self, record_path, run};

use super::*;

#[test]
fn a_record_of_a_newer_schema_is_left_alone() {
    let world = world();
    let path = record_path(&world, "1");
    let newer = std::fs::read_to_string(&path)
        .unwrap()
        .replacen("\"schema\": 1", "\"schema\": 99", 1);
    std::fs::write(&path, &newer).unwrap();
    for command in [
        &["continue", "1", "hi", "--transport", "run"][..],
        &["permit", "1", "bash:rm=deny"],
    ] {
        expect_error(
            &run(&world, command.iter().copied()),
            73,
            &["schema 99", "1.json"],
        );
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
    run(&world, ["show", "1"]).expect_status(0);
    let found = run(&world, ["doctor", "--fix"]);
    found.expect_status(1);
    assert!(found.stdout().contains("schema 99"), "{found}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
    // Only the schema of this record can be parsed.
    std::fs::write(&path, "{\"schema\": 99, \"all\": \"new\"}").unwrap();
    expect_error(&run(&world, ["show", "1"]), 73, &["schema 99"]);
    expect_error(
        &run(&world, ["start", "1", "hi", "--transport", "run"]),
        73,
        &["schema 99"],
    );
}

#[test]
fn a_truncated_record_is_moved_aside_and_never_overwritten() {
    let world = world();
    let path = record_path(&world, "1");
    let whole = std::fs::read(&path).unwrap();
    let half = &whole[..whole.len() / 2];
    std::fs::write(&path, half).unwrap();
    for command in [
        &["continue", "1", "hi", "--transport", "run"][..],
        &["start", "1", "hi", "--transport", "run"],
        &["show", "1"],
        &["destroy", "1", "-y"],
    ] {
        expect_error(
            &run(&world, command.iter().copied()),
            73,
            &["1.json", "doctor --fix"],
        );
    }
    assert_eq!(std::fs::read(&path).unwrap(), half);
    assert!(run(&world, ["list"]).stderr().contains("1.json"));
    let fixed = run(&world, ["doctor", "--fix"]);
    assert!(fixed.stdout().contains(".broken-"), "{fixed}");
    let aside = kit::files_below(&world.kugetsu_home());
    let aside = aside
        .iter()
        .find(|path| path.to_string_lossy().contains(".broken-"))
        .expect("it is kept");
    assert_eq!(std::fs::read(aside).unwrap(), half);
    run(&world, ["doctor"]).expect_status(0);
    run(&world, ["start", "1", "hi", "--transport", "run"]).expect_status(0);
}

#[test]
fn an_index_that_lies_does_no_harm() {
    let world = world();
    let index = world.kugetsu_home().join("index.json");
    let right = std::fs::read(&index).unwrap();
    let lie = r#"{"schema":1,"base":"a/b/c/base.json","bases":{},"issues":{"github.com/a/b#9":"github.com/a/b/9.json"}}"#;
    for content in [lie, "", "{", "[]", "\u{0}\u{0}"] {
        std::fs::write(&index, content).unwrap();
        run(&world, ["show", "1"]).expect_status(0);
        assert!(run(&world, ["list"]).stdout().contains("#1"), "{content}");
        run(&world, ["continue", "1", "hi", "--transport", "run"]).expect_status(0);
        std::fs::write(&index, content).unwrap();
        let found = run(&world, ["doctor"]);
        found.expect_status(1);
        assert!(found.stdout().contains("index"), "{found}");
        run(&world, ["doctor", "--fix"]).expect_status(0);
        run(&world, ["doctor"]).expect_status(0);
        let rebuilt: serde_json::Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
        let before: serde_json::Value = serde_json::from_slice(&right).unwrap();
        assert_eq!(
            (&rebuilt["issues"], &rebuilt["bases"]),
            (&before["issues"], &before["bases"]),
            "{content}"
        );
    }
    std::fs::remove_file(&index).unwrap();
    run(&world, ["continue", "1", "hi", "--transport", "run"]).expect_status(0);
}

#[test]
fn stale_locks_and_leases_hold_nobody_up() {
    let world = world();
    let holder = r#"{"pid":1,"host":"elsewhere","since":"2020-01-01T00:00:00Z","what":"start"}"#;
    let files = kit::files_below(&world.kugetsu_home());
    let locks: Vec<_> = files
        .iter()
        .filter(|path| {
            path.extension()
                .is_some_and(|ending| ending == "lock" || ending == "lease")
        })
        .collect();
    assert!(locks.len() >= 3, "{files:?}");
    for content in [holder, "", "garbage \u{0}"] {
        for lock in &locks {
            std::fs::write(lock, content).unwrap();
        }
        run(&world, ["continue", "1", "hi", "--transport", "run"]).expect_status(0);
    }
}

#[test]
fn a_symlink_in_the_store_is_refused() {
    let world = world();
    let elsewhere = world.root().join("elsewhere");
    let path = record_path(&world, "1");
    std::fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    let content = std::fs::read(&elsewhere).unwrap();
    for command in [
        &["show", "1"][..],
        &["continue", "1", "hi"],
        &["start", "1", "hi"],
        &["destroy", "1", "-y"],
    ] {
        expect_error(
            &run(&world, command.iter().copied()),
            73,
            &["symbolic link", "1.json"],
        );
    }
    assert_eq!(std::fs::read(&elsewhere).unwrap(), content);
    let found = run(&world, ["doctor", "--fix"]);
    found.expect_status(1);
    assert!(found.stdout().contains("symbolic link"), "{found}");
    assert!(path.is_symlink());
    // A folder on the way to the record.
    let folder = path.parent().unwrap().parent().unwrap().join("other");
    symlink(world.root(), &folder).unwrap();
    expect_error(
        &run(&world, ["start", "github.com/shoko/other#1", "hi"]),
        73,
        &["symbolic link"],
    );
}
