//! A missing or misbehaving opencode, and an unreadable database.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::kit::{self, SOON, record, run, run_in, session_of, snapshot, start_in, state_of};
use kugetsu_testing::{FakeScript, Opencode, Signal, Stdin, Step, World};

use super::*;

#[test]
fn a_locked_database_is_waited_for() {
    let world = world();
    run(&world, ["start", "2", "hello", "--transport", "run"]).expect_status(0);
    run(&world, ["destroy", "2", "-y"]).expect_status(0);
    let lock = world.lock_database();
    let locked = Instant::now();
    let waiting = world.spawn(["continue", "1", "patience", "--transport", "run"]);
    world.wait_until("the turn has waited for 3 s", SOON, || {
        let live = record(&world, "1").is_some_and(|record| record["live"].is_object());
        live && locked.elapsed() >= Duration::from_secs(3)
    });
    drop(lock);
    waiting.wait(SOON).expect_status(0);
    assert!(locked.elapsed() >= Duration::from_secs(3));

    let lock = world.lock_database();
    for command in [
        &["continue", "1", "too long", "--transport", "run"][..],
        &["permit", "1", "bash:rm=deny"],
    ] {
        let refused = run_in(&world, &[("KUGETSU_DATABASE_TIMEOUT", "200ms")], command);
        expect_error(&refused, 75, &["locked", "200 ms"]);
    }
    let before = snapshot(&world);
    for command in [
        &["init", "--force"][..],
        &["destroy", "1", "-y"],
        &["restore", "2"],
        &["permit", "1", "--explain"],
    ] {
        let refused = run_in(&world, &[("KUGETSU_DATABASE_TIMEOUT", "200ms")], command);
        expect_error(&refused, 75, &["locked", "200 ms"]);
        assert_eq!(snapshot(&world), before, "{command:?}");
    }
    drop(lock);
    assert_eq!(state_of(&world, "1"), "completed");
    assert!(record(&world, "1").unwrap().get("live").is_none());
    run(&world, ["continue", "1", "again", "--transport", "run"]).expect_status(0);
    let prompts = kit::prompts_of(&world, &session_of(&world, "1"));
    assert_eq!(prompts, ["the base", "hello", "patience", "again"]);
    let rules = world
        .session(&session_of(&world, "1"))
        .permission
        .unwrap_or_default();
    assert!(
        rules.contains("\"rm\""),
        "what was permitted is applied by the next turn: {rules}"
    );
}

#[test]
fn who_waits_for_a_locked_database_may_stop() {
    let world = world();
    let lock = world.lock_database();
    for (verb, issue) in [("continue", "1"), ("start", "2")] {
        let patience = [("KUGETSU_DATABASE_TIMEOUT", "1h")];
        let waiting = start_in(
            &world,
            &patience,
            &[verb, issue, "patience", "--transport", "run"],
        );
        world.wait_until("it has the lease", SOON, || kit::has_lease(&world, issue));
        waiting.signal(Signal::Interrupt);
        waiting.wait(SOON).expect_status(130);
    }
    drop(lock);
    assert_eq!(state_of(&world, "1"), "completed");
    run(&world, ["show", "2"]).expect_status(66);
    for (verb, issue) in [("continue", "1"), ("start", "2")] {
        run(&world, [verb, issue, "again", "--transport", "run"]).expect_status(0);
    }
}

#[test]
fn a_database_that_stays_locked_is_given_up() {
    let world = world();
    run(&world, ["start", "2", "hello", "--transport", "run"]).expect_status(0);
    let sessions = ["1", "2"].map(|issue| session_of(&world, issue));
    let prompts = || {
        sessions
            .each_ref()
            .map(|session| kit::prompts_of(&world, session))
    };
    let before = prompts();
    let lock = world.lock_database();
    // Concurrent, because each waits for its default time.
    let turn = world.spawn(["continue", "1", "too long", "--transport", "run"]);
    let permit = world.spawn(["permit", "2", "bash:rm=deny"]);
    for waiting in [turn, permit] {
        expect_error(&waiting.wait(SOON), 75, &["locked", "10000 ms"]);
    }
    drop(lock);
    assert_eq!(prompts(), before, "the prompt was not sent");
    for issue in ["1", "2"] {
        assert_eq!(state_of(&world, issue), "completed", "{issue}");
        run(&world, ["continue", issue, "again", "--transport", "run"]).expect_status(0);
    }
    let after = prompts();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.len(), before.len() + 1);
        assert!(
            after.starts_with(before) && after.ends_with(&["again".to_owned()]),
            "{after:?}"
        );
    }
    let rules = world.session(&sessions[1]).permission.unwrap_or_default();
    assert!(
        rules.contains("\"rm\""),
        "what was permitted is applied by the next turn: {rules}"
    );
    world.wait_nothing_left(SOON);
}

#[test]
fn an_opencode_that_cannot_be_used_is_named() {
    let world = world();
    let before = snapshot(&world);
    let file = world.root().join("odd-opencode");
    let write = |content: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let with = |program: &Path, arguments: &[&str]| {
        run_in(
            &world,
            &[("KUGETSU_OPENCODE", program.to_str().unwrap())],
            arguments,
        )
    };
    let nowhere = Path::new("/nowhere/opencode");
    for command in [
        &["start", "2", "hi"][..],
        &["continue", "1", "hi"],
        &["prune"],
        &["destroy", "1", "-y"],
        &["permit", "1", "--explain"],
    ] {
        expect_error(&with(nowhere, command), 69, &["/nowhere/opencode"]);
    }
    with(nowhere, &["doctor"]).expect_status(69);
    for (content, mode, words) in [
        ("#!/bin/sh\necho hello\n", 0o755, "is this opencode?"),
        ("#!/bin/sh\nexit 3\n", 0o755, "is this opencode?"),
        (
            "#!/bin/sh\n[ \"$1\" = --version ] && echo 0.9.1 || echo /tmp/x\n",
            0o755,
            "too old",
        ),
        (
            "#!/bin/sh\n[ \"$1\" = --version ] && echo 2.0.0 || echo /tmp/x\n",
            0o755,
            "too new",
        ),
        ("nothing", 0o644, "odd-opencode"),
        ("\u{7f}ELF nonsense", 0o755, "odd-opencode"),
    ] {
        write(content, mode);
        expect_error(
            &with(&file, &["continue", "1", "hi"]),
            69,
            &[words, "odd-opencode"],
        );
    }
    let mut command = world.kugetsu(["continue", "github.com/shoko/kugetsu#1", "hi"]);
    command.env_remove("KUGETSU_OPENCODE").env("PATH", world.root());
    let missing = world.finish(command, Stdin::Null);
    expect_error(&missing, 69, &["npm install -g opencode-ai", "KUGETSU_OPENCODE"]);
    for command in [&["list"][..], &["show", "1"], &["logs", "1"], &["config"]] {
        with(nowhere, command).expect_status(0);
    }
    assert_eq!(snapshot(&world), before);
}

#[test]
fn an_unreadable_database_proves_nothing_about_its_sessions() {
    let world = world();
    let database = world.opencode_db();
    let folder = database.parent().unwrap().to_owned();
    let saved = world.root().join("saved");
    let before = snapshot(&world);
    let good = |name: &str| folder.join(name);
    world.sql_write("PRAGMA wal_checkpoint(TRUNCATE)");
    for fault in ["missing", "folder", "garbage", "cut", "empty", "column", "table"] {
        for name in ["opencode.db-wal", "opencode.db-shm"] {
            let _ = std::fs::remove_file(good(name));
        }
        std::fs::copy(&database, &saved).unwrap();
        match fault {
            "missing" => std::fs::remove_file(&database).unwrap(),
            "folder" => {
                std::fs::remove_file(&database).unwrap();
                std::fs::create_dir(&database).unwrap();
            }
            "garbage" => std::fs::write(&database, "no database at all, but text ".repeat(500)).unwrap(),
            "cut" => std::fs::write(&database, &std::fs::read(&saved).unwrap()[..5000]).unwrap(),
            "empty" => std::fs::write(&database, "").unwrap(),
            "column" => world.sql_write("ALTER TABLE session RENAME COLUMN permission TO permissions"),
            _ => world.sql_write("PRAGMA foreign_keys = OFF; ALTER TABLE session RENAME TO sessions"),
        }
        for command in [
            &["prune"][..],
            &["prune", "--force"],
            &["continue", "1", "hi", "--transport", "run"],
            &["start", "2", "hi", "--transport", "run"],
            &["destroy", "1", "-y"],
        ] {
            let output = run(&world, command.iter().copied());
            expect_error(&output, 69, &["opencode.db"]);
        }
        for command in [&["doctor"][..], &["doctor", "--fix"]] {
            let output = run(&world, command.iter().copied());
            output.expect_status(69);
            assert!(output.stdout().contains("opencode.db"), "{fault}\n{output}");
            assert!(!output.stdout().contains("no longer has"), "{fault}\n{output}");
        }
        assert_eq!(snapshot(&world), before, "{fault}");
        let _ = std::fs::remove_dir(&database);
        for name in ["opencode.db", "opencode.db-wal", "opencode.db-shm"] {
            let _ = std::fs::remove_file(good(name));
        }
        std::fs::copy(&saved, &database).unwrap();
        assert!(
            run(&world, ["prune"]).stdout().contains("nothing to prune"),
            "{fault}"
        );
    }
    run(&world, ["continue", "1", "all is well", "--transport", "run"]).expect_status(0);
}

#[test]
fn a_verdict_that_the_database_cannot_confirm_has_a_warning() {
    let world = world();
    let database = world.opencode_db();
    let away = database.with_extension("away");
    let lose = format!("mv {} {}", database.display(), away.display());
    world.fake(&FakeScript::steps([
        Step::Answer("done".to_owned()),
        Step::Shell(lose),
    ]));
    let turn = run(&world, ["continue", "1", "hi", "--transport", "run"]);
    std::fs::rename(&away, &database).unwrap();
    turn.expect_status(0);
    assert_eq!(turn.stdout().trim(), "done");
    let warning = "the messages that opencode stored could not be read";
    assert!(turn.stderr().contains(warning), "{turn}");
    let shown = run(&world, ["show", "1", "--json"]).json();
    let warnings = shown["last"]["warnings"].to_string();
    assert!(warnings.contains(warning), "{shown}");
    world.fake(&FakeScript::steps([Step::Answer("again".to_owned())]));
    let turn = run(&world, ["continue", "1", "hi", "--transport", "run"]);
    turn.expect_status(0);
    assert!(!turn.stderr().contains(warning), "{turn}");
}

#[test]
fn an_exclusively_locked_database_is_not_empty() {
    let world = world();
    let before = snapshot(&world);
    // An exclusive lock shuts out readers too.
    let alone = rusqlite::Connection::open(world.opencode_db()).unwrap();
    alone
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")
        .unwrap();
    for (command, status) in [
        (&["prune"][..], 69),
        (&["prune", "--force"], 69),
        (&["destroy", "1", "-y"], 75),
    ] {
        expect_error(&run(&world, command.iter().copied()), status, &["locked"]);
    }
    let found = start_in(&world, &[], &["doctor", "--fix"]).wait(SOON);
    found.expect_status(69);
    assert!(found.stdout().contains("locked"), "{found}");
    assert_eq!(snapshot(&world), before);
    drop(alone);
    run(&world, ["continue", "1", "hi", "--transport", "run"]).expect_status(0);
}

#[test]
fn an_opencode_without_the_needed_columns_is_refused() {
    let world = World::new(Opencode::Fake);
    world.fake(&FakeScript {
        missing_columns: vec!["permission".into()],
        ..FakeScript::default()
    });
    let session = kit::fake_session(&world);
    expect_error(
        &run(&world, ["init", "--adopt", &session]),
        69,
        &["session.permission", "too old or too new"],
    );
    run(&world, ["doctor"]).expect_status(69);
}
