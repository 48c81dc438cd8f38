//! `kill -9` of kugetsu at every crash point: no partial file, no lease that stays held, at most one session for an
//! issue, and no session in opencode that the next command does not know.
//!
//! The fake opencode is fast enough to try every point; `real/crash.rs` tries some on the real one.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::support::kit::{
    SOON, fake_session, fake_world, files_below, known_sessions, no_partial_file, opencode_sessions,
    prompts_of, record, record_path, run, run_in, session_of, start, state_of, text,
};
use kugetsu_testing::{Opencode, Output, QUICK, World};
use serde_json::{Value, json};

/// Runs a command to its end to learn which points it passes, and how often. Then runs the command once for each pass
/// of each point and kills it there; with [`QUICK`], only for the first pass. `prepare` and `check` receive the number of
/// the attempt, so that each attempt has an issue of its own.
#[track_caller]
fn at_every_point(
    world: &World,
    mut prepare: impl FnMut(&str),
    command: impl Fn(&str) -> Vec<String>,
    mut check: impl FnMut(&str, &str),
) -> Vec<String> {
    let log = world.root().join("points");
    prepare("1");
    crash(world, &format!("log:{}", log.display()), &command("1")).expect_status(0);
    let log = std::fs::read_to_string(&log).expect("the points that were passed");
    let mut passes = BTreeMap::new();
    let mut killed_at = Vec::new();
    let mut number = 1;
    for point in log.lines() {
        let pass = passes.entry(point).and_modify(|pass| *pass += 1).or_insert(1);
        if *pass > 1 && std::env::var_os(QUICK).is_some() {
            continue;
        }
        number += 1;
        let (issue, at) = (number.to_string(), format!("{point}:{pass}"));
        prepare(&issue);
        let output = crash(world, &at, &command(&issue));
        if output.signal().is_none() {
            // The number of status writes depends on how long the turn takes, and some folders are created only once.
            output.expect_status(0);
            continue;
        }
        assert_eq!(output.signal(), Some(9), "{at}\n{output}");
        // The guard ends opencode without help from another command.
        world.wait_nothing_left(SOON);
        no_partial_file(world);
        check(&issue, &at);
        no_partial_file(world);
        killed_at.push(at);
    }
    killed_at
}

#[track_caller]
fn crash(world: &World, at: &str, command: &[String]) -> Output {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    run_in(world, &[("KUGETSU_CRASH_AT", at)], &words)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Every session in opencode is in a record, live or in the trash.
#[track_caller]
fn all_known(world: &World, at: &str) {
    let (known, there) = (known_sessions(world), opencode_sessions(world));
    let unknown: Vec<_> = there.difference(&known).collect();
    assert!(unknown.is_empty(), "no record knows {unknown:?} after {at}");
}

#[track_caller]
fn passed(killed_at: &[String], points: &[&str]) {
    for point in points {
        let found = killed_at.iter().any(|at| at.split(':').next() == Some(point));
        assert!(found, "{point} was never passed; killed at {killed_at:?}");
    }
}

#[test]
fn start_can_be_killed_anywhere() {
    let world = fake_world();
    let killed_at = at_every_point(
        &world,
        |_| {},
        |issue| words(&["start", issue, "the first message", "--transport", "run"]),
        |issue, at| {
            let left = record(&world, issue);
            match &left {
                None => drop(run(&world, ["show", issue]).expect_status(66)),
                Some(record) if record.get("live").is_some() => {
                    assert_eq!(state_of(&world, issue), "lost", "{at}");
                }
                Some(record) => assert_eq!(record["last"]["verdict"], "completed", "{at}"),
            }
            // A retry succeeds: either by a new start, or by the error that the session already exists.
            let again = run(
                &world,
                ["start", issue, "the first message", "--transport", "run"],
            );
            if again.code() == 64 {
                assert!(
                    again
                        .stderr()
                        .contains(&format!("kugetsu continue github.com/shoko/kugetsu#{issue}")),
                    "{at}\n{again}"
                );
                run(
                    &world,
                    ["continue", issue, "the second message", "--transport", "run"],
                )
                .expect_status(0);
            } else {
                again.expect_status(0);
            }
            all_known(&world, at);
            // The base and one session per issue.
            let records = known_sessions(&world).len();
            assert_eq!(opencode_sessions(&world).len(), records, "{at}");
            let prompts = prompts_of(&world, &session_of(&world, issue));
            let first = prompts
                .iter()
                .filter(|prompt| *prompt == "the first message")
                .count();
            assert_eq!(first, 1, "{at}: {prompts:?}");
            assert_eq!(state_of(&world, issue), "completed", "{at}");
        },
    );
    passed(
        &killed_at,
        &[
            "folder_made",
            "temp_created",
            "temp_half_written",
            "temp_written",
            "temp_synced",
            "renamed",
            "folder_synced",
            "append_opened",
            "append_half_written",
            "append_written",
            "lease_locked",
            "lease_written",
            "record_saved",
            "index_locked",
            "index_saved",
            "turn_leased",
            "fork_intended",
            "fork_known",
            "fork_settled",
            "turn_ended",
            "turn_logged",
        ],
    );
}

#[test]
fn continue_can_be_killed_anywhere() {
    let world = fake_world();
    let killed_at = at_every_point(
        &world,
        |issue| {
            run(
                &world,
                ["start", issue, "the first message", "--transport", "run"],
            )
            .expect_status(0);
        },
        |issue| words(&["continue", issue, "the second message", "--transport", "run"]),
        |issue, at| {
            let before = record(&world, issue).expect("the record stays");
            let live = before.get("live").is_some();
            let state = state_of(&world, issue);
            assert_eq!(state, if live { "lost" } else { "completed" }, "{at}");
            let again = run(
                &world,
                ["continue", issue, "the third message", "--transport", "run"],
            );
            again.expect_status(0);
            let after = record(&world, issue).expect("the record stays");
            assert_eq!(after["session"], before["session"], "{at}");
            assert!(after.get("live").is_none(), "{at}: {after}");
            all_known(&world, at);
            let turns = run(&world, ["show", issue, "--turns", "--json"]).json();
            let turns = turns["turn_list"].as_array().expect("a list").len();
            assert_eq!(
                after["totals"]["turns"], turns,
                "each turn counts once, {at}: {after}"
            );
            let prompts = prompts_of(&world, &session_of(&world, issue));
            assert_eq!(
                prompts.last().map(String::as_str),
                Some("the third message"),
                "{at}"
            );
        },
    );
    passed(
        &killed_at,
        &["turn_live", "turn_ended", "turn_logged", "record_saved"],
    );
}

#[test]
fn destroy_can_be_killed_anywhere() {
    let world = fake_world();
    let killed_at = at_every_point(
        &world,
        |issue| {
            run(&world, ["start", issue, "keep this", "--transport", "run"]).expect_status(0);
        },
        |issue| words(&["destroy", issue, "-y"]),
        |issue, at| {
            if record(&world, issue).is_some() {
                run(&world, ["destroy", issue, "-y"]).expect_status(0);
            }
            run(&world, ["show", issue]).expect_status(66);
            run(&world, ["restore", issue]).expect_status(0);
            all_known(&world, at);
            let prompts = prompts_of(&world, &session_of(&world, issue));
            assert!(prompts.contains(&"keep this".to_owned()), "{at}: {prompts:?}");
            run(&world, ["continue", issue, "go on", "--transport", "run"]).expect_status(0);
            all_known(&world, at);
        },
    );
    passed(
        &killed_at,
        &[
            "trash_entry_written",
            "trash_record_moved",
            "trash_folder_moved",
            "destroy_deleted",
            "destroy_trashed",
            "moved",
        ],
    );
}

#[test]
fn restore_can_be_killed_anywhere() {
    let world = fake_world();
    let killed_at = at_every_point(
        &world,
        |issue| {
            run(&world, ["start", issue, "keep this", "--transport", "run"]).expect_status(0);
            run(&world, ["destroy", issue, "-y"]).expect_status(0);
        },
        |issue| words(&["restore", issue]),
        |issue, at| {
            if record(&world, issue).is_none() {
                run(&world, ["restore", issue]).expect_status(0);
            }
            assert_eq!(state_of(&world, issue), "completed", "{at}");
            all_known(&world, at);
            let turns = run(&world, ["show", issue, "--turns", "--json"]).json();
            assert_eq!(
                turns["turn_list"].as_array().map(Vec::len),
                Some(1),
                "{at}: {turns}"
            );
            run(&world, ["continue", issue, "go on", "--transport", "run"]).expect_status(0);
            let prompts = prompts_of(&world, &session_of(&world, issue));
            assert!(prompts.contains(&"keep this".to_owned()), "{at}: {prompts:?}");
        },
    );
    passed(&killed_at, &["restore_folder_moved", "restore_record_moved"]);
}

#[test]
fn move_can_be_killed_anywhere() {
    let world = fake_world();
    let old = text(&json!(world.repo().canonicalize().unwrap()));
    let new = world.clone_repo("moved", "https://github.com/shoko/kugetsu.git");
    let new = text(&json!(new.canonicalize().unwrap()));
    let directory = |issue: &str| text(&record(&world, issue).expect("the record stays")["directory"]);
    let killed_at = at_every_point(
        &world,
        |issue| {
            run(&world, ["start", issue, "work", "--transport", "run"]).expect_status(0);
        },
        |issue| words(&["move", issue, "--dir", &new]),
        |issue, at| {
            assert!([&old, &new].contains(&&directory(issue)), "{at}");
            run(&world, ["move", issue, "--dir", &new]).expect_status(0);
            assert_eq!(directory(issue), new, "{at}");
            assert_eq!(world.session(&session_of(&world, issue)).directory, new, "{at}");
            run(&world, ["continue", issue, "go on", "--transport", "run"]).expect_status(0);
        },
    );
    passed(&killed_at, &["lease_locked", "temp_half_written", "record_saved"]);
}

#[test]
fn init_can_be_killed_anywhere() {
    let world = World::new(Opencode::Fake);
    let session = fake_session(&world);
    let repo = |number: &str| format!("example.org/owner/repo{number}");
    let killed_at = at_every_point(
        &world,
        |_| {},
        |number| words(&["init", "--adopt", &session, "--repo", &repo(number)]),
        |number, at| {
            let again = run(&world, ["init", "--adopt", &session, "--repo", &repo(number)]);
            // The work was done before the kill, or is done now.
            assert!([0, 64].contains(&again.code()), "{at}\n{again}");
            let issue = format!("{}#1", repo(number));
            run(&world, ["start", &issue, "hello", "--transport", "run"]).expect_status(0);
            all_known(&world, at);
        },
    );
    passed(&killed_at, &["base_made", "record_saved", "index_saved"]);
}

#[test]
fn permit_can_be_killed_anywhere() {
    let world = fake_world();
    start(&world, "1", "hello");
    let rule = |number: &str| format!("bash:rule {number} *=deny");
    let killed_at = at_every_point(
        &world,
        |_| {},
        |number| words(&["permit", "1", &rule(number)]),
        |number, at| {
            let wanted = |rules: &Value| rules.to_string().contains(&format!("rule {number} *"));
            let shown = run(&world, ["permit", "1", "--json"]);
            shown.expect_status(0);
            // The next turn writes the record's policy into opencode; a permission that the record lacks can be added
            // again.
            if !wanted(&shown.json()["effective"]) {
                run(&world, ["permit", "1", &rule(number)]).expect_status(0);
            }
            run(&world, ["continue", "1", "go on", "--transport", "run"]).expect_status(0);
            let effective = run(&world, ["permit", "1", "--json"]).json()["effective"].clone();
            let stored = world.session(&session_of(&world, "1")).permission.expect("rules");
            let stored: Value = serde_json::from_str(&stored).expect("rules are JSON");
            assert_eq!(stored, effective, "{at}");
            assert!(wanted(&stored), "{at}: {stored}");
            all_known(&world, at);
        },
    );
    passed(
        &killed_at,
        &["lease_locked", "temp_half_written", "renamed", "record_saved"],
    );
}

#[test]
fn prune_can_be_killed_anywhere() {
    let world = fake_world();
    let killed_at = at_every_point(
        &world,
        |issue| {
            start(&world, issue, "hello");
            let session = session_of(&world, issue);
            world.sql_write(&format!("DELETE FROM session WHERE id = '{session}'"));
        },
        |_| words(&["prune", "--force"]),
        |issue, at| {
            let there = record(&world, issue).is_some();
            let again = run(&world, ["prune", "--force", "--json"]);
            again.expect_status(0);
            let pruned = again.json()["pruned"].as_array().map(Vec::len);
            assert_eq!(pruned, Some(usize::from(there)), "{at}\n{again}");
            assert!(record(&world, issue).is_none(), "{at}");
            // The next command that writes the issue finishes a partial entry, and the issue's turns are still in the
            // trash.
            start(&world, issue, "anew");
            let shown = run(&world, ["show", issue, "--turns", "--json"]).json();
            assert_eq!(
                shown["turn_list"].as_array().map(Vec::len),
                Some(1),
                "{at}: {shown}"
            );
            let kept = files_below(&world.kugetsu_home().join("trash"))
                .into_iter()
                .filter(|path| path.ends_with("turns.jsonl"))
                .count();
            assert_eq!(kept.to_string(), issue, "{at}: the turns of every pruned record");
            all_known(&world, at);
        },
    );
    passed(
        &killed_at,
        &[
            "lease_locked",
            "trash_entry_written",
            "trash_record_moved",
            "trash_folder_moved",
            "index_saved",
        ],
    );
}

#[test]
fn doctor_can_be_killed_anywhere() {
    let world = fake_world();
    start(&world, "1000", "hello");
    let home = world.kugetsu_home();
    let stale = home.join("sessions/.tmp-1-2-3");
    let broken = record_path(&world, "999");
    let killed_at = at_every_point(
        &world,
        |issue| {
            if record(&world, "1000").is_none() {
                run(&world, ["restore", "1000"]).expect_status(0);
            }
            // The damage: a partial entry in the trash, an unfinished turn, a temporary file, a broken record, no
            // index.
            for (at, command) in [
                ("trash_record_moved", words(&["destroy", "1000", "-y"])),
                (
                    "turn_ended",
                    words(&["start", issue, "the first message", "--transport", "run"]),
                ),
            ] {
                assert_eq!(crash(&world, at, &command).signal(), Some(9), "{at}");
            }
            let old = SystemTime::now() - Duration::from_mins(10);
            std::fs::File::create(&stale)
                .and_then(|file| file.set_modified(old))
                .expect("a temporary file");
            std::fs::write(&broken, "[]").expect("a broken record");
            std::fs::remove_file(home.join("index.json")).expect("an index");
        },
        |_| words(&["doctor", "--fix"]),
        |issue, at| {
            run(&world, ["doctor", "--fix"]).expect_status(0);
            assert!(!stale.exists() && !broken.exists(), "{at}");
            // A temporary file of an earlier kill is removed only when it is a minute old, which may be at any moment.
            world.wait_until("doctor finds nothing", SOON, || {
                run(&world, ["doctor", "--fix"]).code() == 0 && run(&world, ["doctor"]).code() == 0
            });
            let record = record(&world, issue).expect("a record");
            assert_eq!(record["last"]["verdict"], "lost", "{at}: {record}");
            assert_eq!(record["totals"]["turns"], 1, "{at}: it is counted once");
            all_known(&world, at);
        },
    );
    passed(
        &killed_at,
        &[
            "turn_logged",
            "moved",
            "trash_folder_moved",
            "index_saved",
            "record_saved",
        ],
    );
}

/// Adds to a record a permission request with a person's answer.
fn answered(world: &World, issue: &str) {
    let mut left = record(world, issue).expect("a record");
    left["pending"] = json!([{
        "request": "per_1", "turn": "01900000-0000-7000-8000-000000000009", "asked": "2026-11-20T00:00:00Z",
        "kind": "permission", "detail": {"permission": "bash", "patterns": ["make *"]}, "answer": "allow",
    }]);
    std::fs::write(record_path(world, issue), left.to_string()).expect("a record");
}

#[test]
fn an_answer_is_delivered_once_whenever_the_turn_that_delivers_it_is_killed() {
    let world = fake_world();
    // Before the prompt was sent, after it was sent, and between the turn's line and its record.
    for (number, point) in (1..).zip(["turn_live", "turn_ended", "turn_logged"]) {
        let issue = number.to_string();
        start(&world, &issue, "hello");
        answered(&world, &issue);
        let next = words(&["continue", &issue, "--transport", "run"]);
        assert_eq!(crash(&world, point, &next).signal(), Some(9), "{point}");
        world.wait_nothing_left(SOON);
        run(&world, ["continue", &issue, "go on", "--transport", "run"]).expect_status(0);
        let prompts = prompts_of(&world, &session_of(&world, &issue));
        let answers = prompts
            .iter()
            .filter(|prompt| prompt.contains("You may use bash on make *"));
        assert_eq!(answers.count(), 1, "{point}: {prompts:?}");
        let calls = world.fake_calls();
        let prompt = prompts.last().expect("a prompt");
        let call = calls
            .iter()
            .rfind(|call| call.prompt.as_ref() == Some(prompt))
            .expect("a call");
        let granted = call
            .permission
            .as_ref()
            .is_some_and(|rules| rules.contains("make *"));
        assert_eq!(granted, point == "turn_live", "{point}: {call:?}");
        let record = record(&world, &issue).expect("a record");
        assert!(record.get("pending").is_none(), "{point}: {record}");
    }
}

#[test]
fn doctor_adopts_what_a_crash_left() {
    let world = fake_world();
    let points = ["fork_intended", "temp_created:3", "fork_known", "turn_ended"];
    for (number, point) in (1..).zip(points) {
        let issue = number.to_string();
        let start = words(&["start", &issue, "the first message", "--transport", "run"]);
        assert_eq!(crash(&world, point, &start).signal(), Some(9), "{point}");
        world.wait_nothing_left(SOON);
        assert_eq!(state_of(&world, &issue), "lost", "{point}");
        let found = run(&world, ["doctor", "--json"]);
        found.expect_status(1);
        assert!(found.stdout().contains("fixable"), "{point}\n{found}");
        run(&world, ["doctor", "--fix"]).expect_status(0);
        run(&world, ["doctor"]).expect_status(0);
        let record = record(&world, &issue).expect("a record");
        assert!(
            record.get("live").is_none() && record.get("fork").is_none(),
            "{point}: {record}"
        );
        assert_eq!(record["last"]["verdict"], "lost", "{point}: {record}");
        all_known(&world, point);
        run(
            &world,
            ["continue", &issue, "go on", "--or-start", "--transport", "run"],
        )
        .expect_status(0);
        all_known(&world, point);
    }
}
