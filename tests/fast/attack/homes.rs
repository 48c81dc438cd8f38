//! Two homes with one opencode database fork one base at the same moment, with the same words. A fork belongs to one
//! home, whatever is killed when.

use std::collections::BTreeSet;

use crate::support::homes::{at_home, run_at, session_in, start_at, two_homes, with_prompt};
use crate::support::kit::{SOON, fake_session};
use kugetsu_testing::{FakeScript, Opencode, Stdin, World};

/// A world whose two homes share the session that both have as their base.
fn world() -> (World, [std::path::PathBuf; 2]) {
    let world = World::new(Opencode::Fake);
    let base = fake_session(&world);
    world.fake(&FakeScript::serving());
    let homes = two_homes(&world, &base);
    (world, homes)
}

#[test]
fn two_homes_never_record_one_fork() {
    let (world, homes) = world();
    for round in 1..=20 {
        let issue = round.to_string();
        let prompt = format!("the same words {round}");
        let started = homes
            .each_ref()
            .map(|home| start_at(&world, home, &["start", &issue, &prompt, "--transport", "run"]));
        for turn in started {
            turn.wait(SOON).expect_status(0);
        }
        let sessions: BTreeSet<_> = homes
            .iter()
            .map(|home| session_in(&world, home, &issue).expect("a session"))
            .collect();
        assert_eq!(sessions.len(), 2, "round {round}");
        assert_eq!(
            with_prompt(&world, &prompt),
            sessions,
            "round {round}: no orphan has the prompt"
        );
    }
}

#[test]
fn a_fork_of_another_home_is_never_adopted() {
    let (world, [a, b]) = world();
    let points = [
        "fork_intended",
        "fork_made",
        "fork_marked",
        "fork_known",
        "fork_settled",
        "turn_ended",
    ];
    // With a worktree, `run` forks ahead of the prompt, as `serve` does.
    for (at, (point, worktree)) in points
        .into_iter()
        .flat_map(|point| [(point, false), (point, true)])
        .enumerate()
    {
        let issue = (at + 1).to_string();
        let prompt = format!("the same words {at}");
        let mut arguments = vec!["start", issue.as_str(), prompt.as_str(), "--transport", "run"];
        if worktree {
            arguments.push("--worktree");
        }
        let mut killed = at_home(&world, &a, &arguments);
        killed.env("KUGETSU_CRASH_AT", point);
        let killed = world.start(killed, Stdin::Null);
        // The other home works in a folder of its own, and forks the same base.
        let mut in_b = vec!["start", issue.as_str(), prompt.as_str(), "--transport", "run"];
        if worktree {
            in_b.push("--no-worktree");
        }
        let other = start_at(&world, &b, &in_b);
        killed.wait(SOON);
        other.wait(SOON).expect_status(0);
        let of_b = session_in(&world, &b, &issue).expect("a session");

        let again = run_at(&world, &a, &arguments);
        let of_a = session_in(&world, &a, &issue).unwrap_or_else(|| panic!("{point} {worktree}\n{again}"));
        assert_ne!(of_a, of_b, "{point} {worktree}");
        let holders = with_prompt(&world, &prompt);
        assert_eq!(
            holders,
            BTreeSet::from([of_a, of_b]),
            "{point} {worktree}\n{again}"
        );
    }
    world.wait_nothing_left(SOON);
}

#[test]
fn a_person_keeps_a_fork_of_their_own() {
    let (world, [a, _]) = world();
    // The home is killed before opencode has made its fork, and a person forks the base meanwhile.
    let mut killed = at_home(
        &world,
        &a,
        &["start", "1", "hello", "--transport", "run", "--worktree"],
    );
    killed.env("KUGETSU_CRASH_AT", "fork_intended");
    world.start(killed, Stdin::Null).wait(SOON);
    let base = session_in(&world, &a, "base");
    let base = base.unwrap_or_else(|| world.sessions()[0].id.clone());
    world.sql_write(&format!(
        "INSERT INTO session (id, project_id, slug, title, version, time_created, time_updated, directory) \
         SELECT 'ses_persons', project_id, slug, title || ' (fork #1)', version, unixepoch() * 1000 + 1000, \
         unixepoch() * 1000 + 1000, directory FROM session WHERE id = '{base}'"
    ));
    run_at(&world, &a, &["start", "1", "hello", "--transport", "run"]).expect_status(0);
    assert_ne!(session_in(&world, &a, "1").expect("a session"), "ses_persons");
    assert_eq!(world.session("ses_persons").permission, None);
}
