//! `kill -9` of kugetsu at every point where it writes: no half file, no lease that stays held, at most one session for
//! an issue, and none in opencode that the next command does not know.
//!
//! On the fake opencode, which is quick enough to try every point; `real_crash.rs` tries some on the real one.

#[path = "support/kit.rs"]
mod kit;

use kit::{
    SOON, fake_session, fake_world, known_sessions, no_half_file, opencode_sessions, prompts_of, record, run,
    run_in, session_of, state_of,
};
use kugetsu::fsx::CRASH_POINTS;
use kugetsu_testing::{Opencode, Output, World};

/// No command passes a point more often.
const MOST_PASSES: usize = 40;

/// Runs a command once for every pass of every point and kills it there, until it passes the point no more.
/// `prepare` and `check` are told the number of the attempt, so that each has an issue of its own.
#[track_caller]
fn at_every_point(
    world: &World,
    mut prepare: impl FnMut(&str),
    command: impl Fn(&str) -> Vec<String>,
    mut check: impl FnMut(&str, &str),
) -> Vec<String> {
    let mut killed_at = Vec::new();
    let mut number = 0;
    for point in CRASH_POINTS {
        for pass in 1..=MOST_PASSES {
            number += 1;
            let issue = number.to_string();
            prepare(&issue);
            let at = format!("{point}:{pass}");
            let output = crash(world, &at, &command(&issue));
            if output.signal().is_none() {
                output.expect_status(0);
                break;
            }
            assert_eq!(output.signal(), Some(9), "{at}\n{output}");
            // The guard ends opencode; nobody has to come by for that.
            world.wait_nothing_left(SOON);
            no_half_file(world);
            check(&issue, &at);
            no_half_file(world);
            killed_at.push(at);
        }
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
            // Whoever tries again gets it done: by a new start, or by being told that it has begun.
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
            // The base and one session an issue.
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
            // Done before it was killed, or done now.
            assert!([0, 64].contains(&again.code()), "{at}\n{again}");
            let issue = format!("{}#1", repo(number));
            run(&world, ["start", &issue, "hello", "--transport", "run"]).expect_status(0);
            all_known(&world, at);
        },
    );
    passed(&killed_at, &["base_made", "record_saved", "index_saved"]);
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
