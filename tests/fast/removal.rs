//! Removal, replacement and loss of sessions and bases: each leaves a copy that can be restored, and nothing that is
//! only temporarily unreachable counts as gone.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::support::kit::{
    self, REPO, SOON, fake_session, fake_world, opencode_sessions, prompts_of, record, record_path, refused,
    run, run_in, serving_world, session_of, start, state_of, text,
};
use kugetsu_testing::{Opencode, Stdin, World};
use serde_json::Value;

#[track_caller]
fn crash(world: &World, at: &str, arguments: &[&str]) {
    let output = run_in(world, &[("KUGETSU_CRASH_AT", at)], arguments);
    assert_eq!(output.signal(), Some(9), "{at}\n{output}");
    world.wait_nothing_left(SOON);
}

fn delete(world: &World, session: &str) {
    world
        .finish(
            world.opencode_command(["session", "delete", session]),
            Stdin::Null,
        )
        .expect_status(0);
}

fn base_path(world: &World) -> PathBuf {
    world.kugetsu_home().join("sessions").join(REPO).join("base.json")
}

/// The session of the base; `None` if there is no base.
fn base(world: &World) -> Option<String> {
    let bytes = std::fs::read(base_path(world)).ok()?;
    let record: Value = serde_json::from_slice(&bytes).expect("whole");
    Some(text(&record["session"]))
}

fn change_record(world: &World, issue: &str, change: impl FnOnce(&mut Value)) {
    let mut changed = record(world, issue).expect("a record");
    change(&mut changed);
    std::fs::write(record_path(world, issue), changed.to_string()).expect("the record is written");
}

/// Sends a message to the base without kugetsu.
fn talk_to(world: &World, session: &str) {
    let command = world.opencode_command(["run", "--format", "json", "--session", session]);
    world
        .finish(command, Stdin::text("something of no issue"))
        .expect_status(0);
}

#[test]
fn a_destroy_cut_off_after_the_deletion_is_finished_or_taken_back() {
    let world = fake_world();
    for (issue, way) in [("1", "destroy"), ("2", "prune"), ("3", "restore")] {
        start(&world, issue, "remember this");
        let session = session_of(&world, issue);
        crash(&world, "destroy_deleted", &["destroy", issue, "-y"]);
        assert!(!opencode_sessions(&world).contains(&session));
        assert!(record(&world, issue).is_some(), "{way}");
        match way {
            "destroy" => run(&world, ["destroy", issue, "-y"]).expect_status(0),
            "prune" => run(&world, ["prune", "--force"]).expect_status(0),
            _ => &run(&world, ["show", issue]),
        };
        assert_eq!(record(&world, issue).is_some(), way == "restore");
        run(&world, ["restore", issue]).expect_status(0);
        assert_eq!(session_of(&world, issue), session, "{way}");
        assert!(
            prompts_of(&world, &session).contains(&"remember this".to_owned()),
            "{way}"
        );
        run(&world, ["continue", issue, "go on", "--transport", "run"]).expect_status(0);
        refused(&world, &["restore", issue], 66, &["trash"]);
    }
}

#[test]
fn what_is_removed_leaves_nothing_but_its_lease_in_run() {
    let world = fake_world();
    let run_folder = world.kugetsu_home().join("run").join(REPO);
    let left = || {
        let mut files = kit::files_below(&run_folder);
        files.retain(|path| path.extension().is_some_and(|ending| ending != "lease"));
        let names = files
            .iter()
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
        names.collect::<Vec<_>>()
    };
    for issue in ["1", "2"] {
        start(&world, issue, "hello");
        // A signal that arrived after the turn.
        std::fs::write(run_folder.join(format!("{issue}.signal.json")), "{}").expect("a file");
    }
    assert_eq!(
        left(),
        [
            "1.context.md",
            "1.signal.json",
            "1.status.json",
            "2.context.md",
            "2.signal.json",
            "2.status.json"
        ]
    );
    run(&world, ["destroy", "1", "-y"]).expect_status(0);
    assert_eq!(left(), ["2.context.md", "2.signal.json", "2.status.json"]);
    delete(&world, &session_of(&world, "2"));
    run(&world, ["prune", "--force"]).expect_status(0);
    assert_eq!(left(), [""; 0]);
    run(&world, ["restore", "1"]).expect_status(0);
    run(&world, ["continue", "1", "go on", "--transport", "run"]).expect_status(0);
    assert_eq!(left(), ["1.context.md", "1.status.json"]);
}

#[test]
fn a_destroyed_base_comes_back() {
    let world = serving_world();
    run(&world, ["init"]).expect_status(0);
    let session = base(&world).expect("a base");
    crash(&world, "destroy_deleted", &["destroy", "--base", "-y"]);
    assert!(!opencode_sessions(&world).contains(&session) && base(&world).is_some());
    run(&world, ["restore", "--base"]).expect_status(0);
    assert!(opencode_sessions(&world).contains(&session));
    run(&world, ["destroy", "--base", "-y"]).expect_status(0);
    assert!(opencode_sessions(&world).is_empty() && base(&world).is_none());
    refused(
        &world,
        &["destroy", "--base"],
        66,
        &["no base session of its own", "kugetsu init"],
    );
    let restored = run(&world, ["restore", "--base", "--repo", REPO, "--json"]);
    restored.expect_status(0);
    assert_eq!(restored.json()["session"], session.as_str(), "{restored}");
    assert_eq!(base(&world), Some(session.clone()));
    assert!(world.session(&session).permission.is_some(), "its policy is back");
    start(&world, "1", "hello");
    refused(&world, &["restore", "--base"], 66, &["trash"]);
}

#[test]
fn a_base_that_is_replaced_leaves_no_gap() {
    let world = fake_world();
    for point in [
        "base_made",
        "trash_entry_written",
        "temp_synced:1",
        "temp_synced:2",
        "temp_synced:3",
        "record_saved",
    ] {
        let (old, new) = (base(&world), fake_session(&world));
        crash(&world, point, &["init", "--force", "--adopt", &new]);
        let there = base(&world);
        assert!(there == old || there.as_ref() == Some(&new), "{point}: {there:?}");
        run(&world, ["doctor", "--fix"]);
        run(&world, ["doctor"]).expect_status(0);
    }
    let (old, new) = (base(&world).expect("a base"), fake_session(&world));
    run(&world, ["init", "--force", "--adopt", &new]).expect_status(0);
    refused(&world, &["restore", "--base"], 64, &["base"]);
    run(&world, ["destroy", "--base", "-y"]).expect_status(0);
    // The newest entry is restored first.
    run(&world, ["restore", "--base"]).expect_status(0);
    assert_eq!(base(&world), Some(new));
    std::fs::remove_file(base_path(&world)).unwrap();
    run(&world, ["restore", "--base"]).expect_status(0);
    assert_eq!(base(&world), Some(old));
}

#[test]
fn a_forgotten_base_that_was_talked_to_is_left_alone() {
    let world = serving_world();
    crash(&world, "base_made", &["init"]);
    let forgotten = opencode_sessions(&world).pop_first().expect("a session");
    talk_to(&world, &forgotten);
    run(&world, ["init"]).expect_status(0);
    assert_ne!(base(&world), Some(forgotten));
}

#[test]
fn another_database_is_no_reason_to_forget() {
    let world = fake_world();
    start(&world, "1", "hello");
    delete(&world, &session_of(&world, "1"));
    let found = run(&world, ["prune", "--json"]);
    found.expect_status(0);
    assert_eq!(
        found.json()["orphans"].as_array().map(Vec::len),
        Some(1),
        "with a base that exists one session may be gone: {found}"
    );
    world.sql_write("DELETE FROM session");
    let says = ["none of your sessions", "OPENCODE_DB"];
    refused(&world, &["prune"], 69, &says);
    refused(&world, &["prune", "--force"], 69, &says);
    let doctor = run(&world, ["doctor"]);
    doctor.expect_status(69);
    assert!(doctor.stdout().contains(says[0]), "{doctor}");
}

#[test]
fn prune_tells_of_records_that_it_cannot_read() {
    let world = fake_world();
    start(&world, "1", "hello");
    std::fs::write(record_path(&world, "1"), "{").unwrap();
    let pruned = run(&world, ["prune"]);
    pruned.expect_status(0);
    assert!(
        pruned.stdout().contains("cannot be read") && pruned.stderr().contains("1.json"),
        "{pruned}"
    );
    let found = run(&world, ["prune", "--json"]).json();
    assert_eq!(found["broken"].as_array().map(Vec::len), Some(1), "{found}");
}

#[test]
fn a_base_that_is_gone_is_made_anew_and_not_pruned() {
    let world = fake_world();
    start(&world, "1", "hello");
    delete(&world, &base(&world).expect("a base"));
    let doctor = run(&world, ["doctor"]);
    doctor.expect_status(1);
    assert!(doctor.stdout().contains("kugetsu init --force"), "{doctor}");
    let refused = run(&world, ["start", "2", "hello", "--transport", "run"]);
    refused.expect_status(66);
    assert!(
        refused.stderr().contains("kugetsu init --force") && !refused.stderr().contains("prune"),
        "{refused}"
    );
}

#[test]
fn a_base_that_grows_hides_no_prompt() {
    let world = fake_world();
    let first = ["start", "1", "the first message", "--transport", "run"];
    crash(&world, "turn_ended", &first);
    let (session, base) = (session_of(&world, "1"), base(&world).expect("a base"));
    for _ in 0..2 {
        talk_to(&world, &base);
    }
    run(&world, first).expect_status(64);
    let prompts = prompts_of(&world, &session);
    let delivered = prompts
        .iter()
        .filter(|prompt| *prompt == "the first message")
        .count();
    assert_eq!(delivered, 1, "{prompts:?}");
}

#[test]
fn a_supervisor_on_a_former_host_is_dead() {
    let world = fake_world();
    crash(
        &world,
        "turn_ended",
        &["start", "1", "hello", "--transport", "run"],
    );
    change_record(&world, "1", |record| {
        record["live"]["supervisor"]["host"] = "a-former-name".into();
    });
    assert_eq!(state_of(&world, "1"), "lost");
    let listed = run(&world, ["list", "--json"]).json();
    assert_eq!(listed["sessions"][0]["state"], "lost", "{listed}");
    run(&world, ["continue", "1", "go on", "--transport", "run"]).expect_status(0);
}

#[test]
fn opencodes_output_is_private() {
    let world = World::new(Opencode::Fake);
    run(&world, ["doctor"]);
    let folder = world.kugetsu_home().join("run");
    for (path, mode) in [(folder.join("opencode.json"), 0o600), (folder, 0o700)] {
        let found = std::fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(found, mode, "{}: {found:o}", path.display());
    }
}

#[test]
fn a_sandboxed_session_whose_database_is_lost_is_destroyed_by_force() {
    let world = fake_world();
    let change_databases = |change: &dyn Fn(&PathBuf)| {
        for sandbox in std::fs::read_dir(world.kugetsu_home().join("sandboxes")).unwrap() {
            change(&sandbox.unwrap().path().join("opencode/data/opencode/opencode.db"));
        }
    };
    let destroyed_by_force = |lost: bool| {
        let refused = run(&world, ["destroy", "1", "--yes"]);
        refused.expect_status(69);
        assert!(refused.stderr().contains("destroy REF --force"), "{refused}");
        assert!(record(&world, "1").is_some());
        let destroyed = run(&world, ["destroy", "1", "--yes", "--force", "--json"]).json();
        assert_eq!(destroyed["messages_lost"], lost, "{destroyed}");
        assert!(record(&world, "1").is_none());
    };

    kit::run_sandboxed(&world, &["start", "1", "hello", "--sandbox"]).expect_status(0);
    change_databases(&|database| std::fs::remove_file(database).unwrap());
    destroyed_by_force(true);

    // A fork that was asked for and is not on record is looked for first.
    let sandbox = kit::sandbox_of_fake(&world);
    let mut environment = sandbox
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()))
        .to_vec();
    environment.push(("KUGETSU_CRASH_AT", "fork_intended"));
    let words = ["start", "1", "hello", "--sandbox", "--transport", "run"];
    let killed = run_in(&world, &environment, &words);
    assert_eq!(killed.signal(), Some(9), "{killed}");
    world.wait_nothing_left(SOON);
    change_databases(&|database| std::fs::write(database, "not a database").unwrap());
    destroyed_by_force(false);
    let restored = run(&world, ["restore", "1", "--json"]).json();
    assert!(
        restored["live"].is_null() && restored["fork"].is_null(),
        "{restored}"
    );
    run(&world, ["destroy", "1", "--yes"]).expect_status(0);
    kit::run_sandboxed(&world, &["start", "1", "hello", "--sandbox"]).expect_status(0);
}
