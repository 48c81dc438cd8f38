//! Errors for programs: each situation has its own code, and people see the same message.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use kugetsu_api::ErrorCode;
use kugetsu_testing::{FakeScript, Opencode, Output, Signal, Step, World};
use serde_json::{Value, json};

use crate::support::kit::{REPO, SOON, fake_world, record, record_path, run, run_in, start};

/// Checks that the command failed with this code, that the object has the code's status, and that stderr has the same
/// text.
#[track_caller]
fn coded(output: &Output, code: ErrorCode) -> Value {
    let printed = output.json();
    let error = printed["error"].clone();
    assert_eq!(error["code"], code.as_str(), "{output}");
    let status = code.exit_status().code();
    output.expect_status(status.into());
    assert_eq!(error["exit_status"], status, "{output}");
    assert_eq!(printed["exit_status"], status, "{output}");
    assert_eq!(error["retryable"], code.retryable(), "{output}");
    assert_eq!(error["hint"], error["hints"][0], "{output}");
    let hints = error["hints"].as_array().unwrap();
    let words = hints.iter().chain([&error["message"]]);
    for words in words.map(|words| words.as_str().unwrap()) {
        // For an invalid command line, clap shows people more text, over several lines.
        assert!(
            code == ErrorCode::Usage || output.stderr().contains(words),
            "{words:?}\n{output}"
        );
    }
    error
}

#[test]
fn what_means_wrong_usage_has_a_code_each() {
    let world = fake_world();
    start(&world, "1", "work");
    let issue = format!("{REPO}#1");
    let fails_with = |arguments: &[&str], code| coded(&run(&world, arguments.iter().copied()), code);
    let error = fails_with(&["start", "1", "again", "--json"], ErrorCode::AlreadyHasSession);
    assert_eq!(error["ref"], issue);
    assert_eq!(
        error["hint"],
        format!("continue it: kugetsu continue {issue}"),
        "{error}"
    );
    let error = fails_with(&["init", "--json"], ErrorCode::BaseExists);
    assert_eq!(error["ref"], REPO);
    fails_with(&["list", "--json", "--no-such-flag"], ErrorCode::Usage);
    fails_with(&["start", "2", " ", "--json"], ErrorCode::Usage);
    fails_with(&["show", "a b", "--json"], ErrorCode::InvalidRef);
    fails_with(
        &["start", "2", "work", "--worktree", "--branch", "a..b", "--json"],
        ErrorCode::WorktreeRefused,
    );
    assert!(record(&world, "2").is_none());
    let wrong = run_in(&world, &[("KUGETSU_TIMEOUT", "soon")], &["list", "--json"]);
    coded(&wrong, ErrorCode::InvalidSetting);
    run(&world, ["destroy", "1", "-y"]).expect_status(0);
    start(&world, "1", "work");
    fails_with(&["restore", "1", "--json"], ErrorCode::AlreadyHasSession);
}

#[test]
fn what_means_try_again_has_a_code_each() {
    let world = World::new(Opencode::Fake);
    world.fake(&FakeScript::default().on(
        "hang",
        [
            Step::Event {
                kind: "step_start".into(),
                part: json!({"type": "step-start"}),
            },
            Step::Hang,
        ],
    ));
    crate::support::kit::with_base(&world);
    start(&world, "1", "work");
    let fails_with = |arguments: &[&str], code| coded(&run(&world, arguments.iter().copied()), code);
    let turn = world.spawn(["continue", "1", "hang", "--transport", "run", "--json"]);
    world.wait_until("the turn runs", SOON, || {
        turn.stdout_so_far().contains("agent_start")
    });
    let error = fails_with(&["continue", "1", "work", "--json"], ErrorCode::InUse);
    assert_eq!(error["ref"], format!("{REPO}#1"));
    fails_with(&["permit", "1", "bash=deny", "--json"], ErrorCode::InUse);
    let error = fails_with(
        &["wait", "1", "--timeout", "100ms", "--output", "json"],
        ErrorCode::WaitTimeout,
    );
    assert_eq!(error["ref"], format!("{REPO}#1"));
    turn.signal(Signal::Terminate);
    turn.wait(SOON).expect_status(143);

    let lock = world.lock_database();
    let locked = [("KUGETSU_DATABASE_TIMEOUT", "100ms")];
    let waited = run_in(
        &world,
        &locked,
        &["continue", "1", "work", "--transport", "run", "--json"],
    );
    let error = coded(&waited, ErrorCode::DatabaseLocked);
    assert_eq!(error["ref"], format!("{REPO}#1"), "the turn says whose it is");
    drop(lock);

    let index = std::fs::File::create(world.kugetsu_home().join("index.lock")).unwrap();
    index.lock().unwrap();
    let waited = run_in(
        &world,
        &[("KUGETSU_LOCK_TIMEOUT", "100ms")],
        &["destroy", "1", "-y", "--json"],
    );
    coded(&waited, ErrorCode::LockTimeout);
    drop(index);

    for (status, code) in [(255, ErrorCode::ConnectionLost), (127, ErrorCode::RemoteMissing)] {
        let programs = world.root().join(format!("ssh-{status}"));
        std::fs::create_dir(&programs).unwrap();
        let ssh = programs.join("ssh");
        std::fs::write(&ssh, format!("#!/bin/sh\nexit {status}\n")).unwrap();
        std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = programs.to_string_lossy().into_owned();
        let failed = run_in(&world, &[("PATH", &path)], &["--host", "box", "list", "--json"]);
        coded(&failed, code);
    }
}

#[test]
fn what_is_not_there_has_a_code_each() {
    let world = fake_world();
    let fails_with = |arguments: &[&str], code| coded(&run(&world, arguments.iter().copied()), code);
    fails_with(&["show", "1", "--json"], ErrorCode::NoSession);
    fails_with(&["restore", "1", "--json"], ErrorCode::NotInTrash);
    fails_with(
        &["permit", "--base", "--repo", "a/b", "--json"],
        ErrorCode::NoBase,
    );
    start(&world, "1", "work");
    fails_with(&["stop", "1", "--json"], ErrorCode::NotRunning);
    let error = fails_with(&["answer", "1", "allow", "--json"], ErrorCode::NothingPending);
    assert_eq!(error["ref"], format!("{REPO}#1"), "the issue of the command line");
    let unknown = "01900000-0000-7000-8000-000000000005";
    fails_with(&["wait", "1", "--turn", unknown, "--json"], ErrorCode::NoTurn);
    fails_with(&["logs", "1", "--turn", unknown, "--json"], ErrorCode::NoLog);
    fails_with(
        &["permit", "1", "--remove", "bash", "--json"],
        ErrorCode::NotFound,
    );
    let nowhere = [("KUGETSU_OPENCODE", "/nowhere")];
    coded(
        &run_in(&world, &nowhere, &["prune", "--json"]),
        ErrorCode::OpencodeMissing,
    );
    let no_program = [("KUGETSU_OPENCODE", "/bin/true")];
    coded(
        &run_in(&world, &no_program, &["prune", "--json"]),
        ErrorCode::OpencodeUnusable,
    );
}

#[test]
fn what_needs_a_person_and_what_is_wrong_with_the_store_have_a_code_each() {
    let world = fake_world();
    start(&world, "1", "work");
    let fails_with = |arguments: &[&str], code| coded(&run(&world, arguments.iter().copied()), code);
    fails_with(&["destroy", "1", "--json"], ErrorCode::NeedsConfirmation);
    let path = record_path(&world, "1");
    std::fs::write(&path, "{").unwrap();
    let error = fails_with(&["show", "1", "--json"], ErrorCode::RecordBroken);
    assert!(
        !error["message"].as_str().unwrap().contains('\n'),
        "advice is a hint: {error}"
    );
    std::fs::write(&path, "{\"schema\": 9}").unwrap();
    fails_with(&["show", "1", "--json"], ErrorCode::RecordNewer);
    let file = world.root().join("a-file");
    std::fs::write(&file, "").unwrap();
    let home = file.to_string_lossy().into_owned();
    let no_folder = run_in(&world, &[("KUGETSU_HOME", &home)], &["list", "--json"]);
    coded(&no_folder, ErrorCode::StoreUnwritable);
}

#[test]
fn a_code_means_one_thing() {
    let meanings: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.meaning()).collect();
    assert_eq!(meanings.len(), ErrorCode::ALL.len());
}
