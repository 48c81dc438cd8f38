//! Where a new session works if nobody says it.

use kugetsu_testing::{FakeScript, Opencode, ServeMode, Signal, Stdin, Step};

use super::*;
use crate::support::kit::{SOON, session_of};

/// A world with a base and the settings of a new machine, but for the transport.
pub(super) fn world() -> World {
    let world = World::with_worktrees(Opencode::Fake);
    world.fake(&serving(&[Step::Answer("done".to_owned())]));
    fs::create_dir_all(world.kugetsu_home()).unwrap();
    configure(&world, "");
    world.run(["init"]).expect_status(0);
    world
}

fn serving(steps: &[Step]) -> FakeScript {
    FakeScript {
        serve: ServeMode::Sessions,
        ..FakeScript::steps(steps)
    }
}

/// Starts a session in a folder, and returns the result and what was said on stderr.
fn start_in(world: &World, folder: &Path, arguments: &[&str]) -> (Value, String) {
    let mut command = world.kugetsu(["start", "--output", "json"]);
    command.args(arguments).arg("do it").current_dir(folder);
    let output = world.finish(command, Stdin::Null);
    (output.expect_status(0).json(), output.stderr())
}

#[test]
fn a_session_has_a_worktree_where_there_is_a_clone() {
    let world = world();
    let repo = world.repo();
    fs::write(repo.join("README.md"), "changed").unwrap();
    fs::write(repo.join("new.txt"), "new").unwrap();
    let (result, stderr) = start_in(&world, &repo, &["14"]);
    assert_eq!(result["directory"], text(&worktree_of(&world, "14")));
    let note = format!(
        "the worktree does not have the uncommitted changes of {}: README.md, new.txt\n",
        text(&repo)
    );
    assert!(stderr.contains(&note), "{stderr}");
    assert!(
        result["notes"][0].as_str().unwrap().contains("new.txt"),
        "{result}"
    );

    let (result, _) = start_in(&world, &repo, &["15", "--no-worktree"]);
    assert_eq!(
        (&result["worktree"], &result["directory"]),
        (&Value::Null, &text(&repo).into())
    );
    configure(&world, "worktree = false");
    let (result, _) = start_in(&world, &repo, &["16"]);
    assert_eq!(result["worktree"], Value::Null);
    configure(&world, "worktree = \"auto\"");
    let (result, _) = start_in(&world, &repo, &["17"]);
    assert_eq!(result["directory"], text(&worktree_of(&world, "17")));
    configure(&world, "worktree = \"perhaps\"");
    let refused = start(&world, &[]);
    refused.expect_status(64);
    assert!(
        refused.stderr().contains("expected one of auto, true, false"),
        "{refused}"
    );
}

#[test]
fn a_session_shares_a_folder_that_can_have_no_worktree() {
    let world = world();
    let bare_folder = world.root().join("no-clone");
    let no_commit = world.root().join("no-commit");
    fs::create_dir(&bare_folder).unwrap();
    fs::create_dir(&no_commit).unwrap();
    world.git(&no_commit, ["init", "--quiet"]);
    for (repo, folder) in [("github.com/a/b", &bare_folder), ("github.com/a/c", &no_commit)] {
        let words = ["init", "--repo", repo, "--dir", text(folder)];
        world.run(words).expect_status(0);
        let (result, _) = start_in(&world, folder, &[&format!("{repo}#1")]);
        assert_eq!(
            (&result["worktree"], &result["directory"]),
            (&Value::Null, &text(folder).into())
        );
        // Who asks for a worktree is told why there is none.
        let refused = world.run(["start", &format!("{repo}#2"), "do it", "--worktree"]);
        refused.expect_status(64);
    }
}

#[test]
fn inside_a_worktree_of_the_clone_the_session_works_there() {
    let world = world();
    let mine = world.root().join("mine");
    world.git(&world.repo(), ["worktree", "add", "--quiet", text(&mine)]);
    fs::create_dir(mine.join("below")).unwrap();
    let (result, stderr) = start_in(&world, &mine.join("below"), &["14"]);
    assert_eq!(
        (&result["worktree"], &result["directory"]),
        (&Value::Null, &text(&mine).into())
    );
    assert!(
        stderr.contains(&format!("the session works in this worktree, {}", text(&mine))),
        "{stderr}"
    );
    assert_eq!(turn_folders(&world), std::slice::from_ref(&mine));
    // The next turn is there too, wherever it is typed.
    world.run(["continue", "14", "more"]).expect_status(0);
    assert_eq!(turn_folders(&world), [mine.clone(), mine.clone()]);

    let (result, _) = start_in(&world, &mine, &["15", "--worktree"]);
    assert_eq!(result["directory"], text(&worktree_of(&world, "15")));
    // The worktree of another session is no place for this one.
    let (result, _) = start_in(&world, &worktree_of(&world, "15"), &["16"]);
    assert_eq!(result["directory"], text(&worktree_of(&world, "16")));
    // Another clone of the repository is not a worktree of the base's clone.
    let other = world.root().join("other");
    world.git(
        world.root(),
        ["clone", "--quiet", text(&world.repo()), text(&other)],
    );
    let (result, _) = start_in(&world, &other, &["github.com/shoko/kugetsu#17"]);
    assert_eq!(result["directory"], text(&worktree_of(&world, "17")));
}

#[test]
fn a_session_works_in_no_other_sessions_worktree_wherever_that_is() {
    let world = world();
    let (real, link) = (world.root().join("real"), world.root().join("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let below = |issue: &str| real.join("github.com/shoko/kugetsu").join(issue);
    configure(&world, &format!("worktree_root = {:?}", text(&link)));
    let (result, _) = start_in(&world, &world.repo(), &["14"]);
    assert_eq!(result["directory"], text(&below("14")));
    let (result, _) = start_in(&world, &below("14"), &["15"]);
    assert_eq!(result["directory"], text(&below("15")));
    // A person may have worktrees in the same broad folder.
    let mine = real.join("mine");
    world.git(&world.repo(), ["worktree", "add", "--quiet", text(&mine)]);
    let (result, _) = start_in(&world, &mine, &["18"]);
    assert_eq!(result["directory"], text(&mine));
    // Worktrees from before `worktree_root` changed are those of their sessions.
    configure(&world, "");
    let (result, _) = start_in(&world, &below("14"), &["16"]);
    assert_eq!(result["directory"], text(&worktree_of(&world, "16")));
    // One in the folder for worktrees is a session's, even if the record is gone.
    let stray = world.repo().join(".worktrees/stray");
    world.git(&world.repo(), ["worktree", "add", "--quiet", text(&stray)]);
    let (result, _) = start_in(&world, &stray, &["17"]);
    assert_eq!(result["directory"], text(&worktree_of(&world, "17")));
}

#[test]
fn turns_in_one_working_tree_meet_until_the_last_hook_has_ended() {
    let world = world();
    let pkg = world.repo().join("pkg");
    fs::create_dir(&pkg).unwrap();
    let (hooked, go_on) = (world.root().join("hooked"), world.root().join("go-on"));
    configure(
        &world,
        &format!(
            "hook_after_turn = \"\"\"[ $KUGETSU_REF = {ISSUE} ] || exit 0; touch {}; while [ ! -e {} ]; do sleep 0.02; done\"\"\"",
            text(&hooked),
            text(&go_on)
        ),
    );
    world
        .run(["init", "--repo", "github.com/acme/pkg", "--dir", text(&pkg)])
        .expect_status(0);
    let first = world.spawn(["start", "14", "do it", "--no-worktree"]);
    world.wait_until("the hook runs", SOON, || hooked.exists());
    let second = |issue: &str| {
        let words = ["start", issue, "do it", "--no-worktree"];
        world.run(words).expect_status(0).stderr()
    };
    let note = format!(
        "a turn of {ISSUE} works in the same folder, {};",
        text(&world.repo())
    );
    for issue in ["15", "github.com/acme/pkg#1"] {
        let stderr = second(issue);
        assert!(stderr.contains(&note), "{issue}: {stderr}");
    }
    fs::write(go_on, "").unwrap();
    first.wait(SOON).expect_status(0);
    assert!(!second("github.com/acme/pkg#2").contains("same folder"));

    // The prompt of a base is a turn as well.
    let base = world.run(["init", "--force", "--json"]).json()["session"].clone();
    let base = base.as_str().unwrap();
    world.fake(&FakeScript {
        serve: ServeMode::Silent,
        ..FakeScript::steps(&[Step::Answer("done".to_owned())])
    });
    let mut prompted = world.kugetsu(["init", "--force", "--adopt", base, "--prompt", "read it"]);
    prompted.env("KUGETSU_READY_TIMEOUT", "10m");
    let prompted = world.start(prompted, Stdin::Null);
    let is_serving = || {
        let processes = world.processes();
        processes
            .iter()
            .any(|process| process.command.contains("opencode serve"))
    };
    world.wait_until("the turn of the base waits for its server", SOON, is_serving);
    let met = world.run(["start", "16", "do it", "--no-worktree", "--transport", "run"]);
    let note = "a turn of github.com/shoko/kugetsu works in the same folder";
    assert!(met.expect_status(0).stderr().contains(note), "{met}");
    prompted.signal(Signal::Interrupt);
    prompted.wait(SOON).expect_status(130);
}

#[test]
fn a_turn_that_shares_its_folder_with_another_says_so_before_it_begins() {
    let world = world();
    let (here, go_on) = (world.root().join("here"), world.root().join("go-on"));
    world.fake(&serving(&[
        Step::Meet(here.clone(), go_on.clone()),
        Step::Answer("done".to_owned()),
    ]));
    let first = world.spawn(["start", "14", "do it", "--no-worktree"]);
    world.wait_until("the first turn runs", SOON, || here.exists());
    world.fake(&serving(&[Step::Answer("done".to_owned())]));
    let second = world.run(["start", "15", "do it", "--no-worktree"]);
    second.expect_status(0);
    let note = format!(
        "kugetsu: a turn of {ISSUE} works in the same folder, {}; a worktree keeps sessions apart (start --worktree)\n",
        text(&world.repo())
    );
    assert!(second.stderr().starts_with(&note), "{second}");
    assert_eq!(second.stderr().matches("same folder").count(), 1, "{second}");
    let logged = world.run(["logs", "15", "--json"]).json_lines();
    assert_eq!(
        (&logged[1]["type"], &logged[1]["level"]),
        (&"notice".into(), &"note".into())
    );
    // A session with a worktree of its own is not concerned.
    assert!(
        !world
            .run(["start", "16", "do it"])
            .stderr()
            .contains("same folder")
    );
    fs::write(go_on, "").unwrap();
    first.wait(SOON).expect_status(0);
    assert!(
        !world
            .run(["continue", "15", "more"])
            .stderr()
            .contains("same folder")
    );
}

#[test]
fn a_base_whose_prompt_fails_beside_another_turn_says_both() {
    let world = world();
    let (here, go_on) = (world.root().join("here"), world.root().join("go-on"));
    world.fake(&serving(&[
        Step::Meet(here.clone(), go_on.clone()),
        Step::Answer("done".to_owned()),
    ]));
    let first = world.spawn(["start", "14", "do it", "--no-worktree"]);
    world.wait_until("the first turn runs", SOON, || here.exists());
    let base = session_of(&world, "base");
    // The fake's server runs no turns.
    let words = [
        "init", "--force", "--adopt", &base, "--prompt", "read it", "--json",
    ];
    let mut failed = world.kugetsu(words);
    failed.env("KUGETSU_MAX_RESTARTS", "0");
    let failed = world.finish(failed, Stdin::Null);
    let error = failed.expect_status(1).json()["error"].clone();
    let note = format!("a turn of {ISSUE} works in the same folder");
    assert!(
        error["notes"][0]
            .as_str()
            .is_some_and(|told| told.contains(&note)),
        "{failed}"
    );
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("the base's prompt ended as failed: ") && !message.contains("same folder"),
        "{failed}"
    );
    assert_eq!(failed.stderr().matches("same folder").count(), 1, "{failed}");
    fs::write(go_on, "").unwrap();
    first.wait(SOON).expect_status(0);
}
