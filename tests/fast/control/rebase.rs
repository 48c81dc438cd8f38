//! `signal rebase`, between turns.

use std::path::PathBuf;

use crate::support::kit::{SOON, run_in, scripted_world};
use kugetsu_testing::{FakeScript, ServeMode, World};
use serde_json::{Value, json};

use super::*;

#[test]
fn a_rebase_moves_the_worktree_between_turns_or_leaves_it_alone() {
    let (world, tree) = world_with_worktree();
    let commit = |folder: &std::path::Path, file: &str, text: &str| commit(&world, folder, file, text);
    let rebase = ["signal", "14", "rebase", "--json"];
    assert_eq!(world.run(rebase).expect_status(0).json()["result"], "up_to_date");
    commit(&tree, "theirs", "a");
    let head = commit(&world.repo(), "ours", "a");
    assert_eq!(world.run(rebase).expect_status(0).json()["result"], "rebased");
    assert!(tree.join("ours").exists() && tree.join("theirs").exists());
    assert_eq!(record_of(&world)["worktree"]["base_commit"], head.as_str());

    let before = commit(&tree, "both", "a");
    commit(&world.repo(), "both", "b");
    let blocked = world.run(rebase);
    assert_eq!(
        blocked.expect_status(2).json()["conflicts"],
        json!(["both"]),
        "{blocked}"
    );
    assert_eq!(world.git(&tree, ["rev-parse", "HEAD"]).stdout().trim(), before);
    assert_eq!(world.git(&tree, ["status", "--porcelain"]).stdout(), "");
    let json = world.run(["show", "14", "--json"]).expect_status(0).json();
    assert_eq!(json["state"], "blocked", "{json}");
    let shown = world.run(["show", "14"]).expect_status(0).stdout();
    assert!(
        shown.contains("onto main is blocked: conflicts in both"),
        "{shown}"
    );
    let query = world.run(["query"]).expect_status(0).json();
    assert_eq!(query["sessions"]["blocked"], 1, "{query}");
    let action = &query["actions"][0];
    assert!(
        action["why"].as_str().unwrap().contains("conflicts in both"),
        "{query}"
    );
    assert!(
        action["action"].as_str().unwrap().contains("rebase onto main"),
        "{query}"
    );
    std::fs::write(tree.join("both"), "c").unwrap();
    world.run(rebase).expect_status(64);
    world.git(&tree, ["checkout", "both"]).expect_status(0);
    // A rebase is refused while a turn runs.
    let turn = world.spawn(["continue", "14", "hang", "--transport", "run"]);
    world.wait_until("it runs", SOON, || state(&world) == "running");
    world.run(rebase).expect_status(75);
    world.run(["stop", "14"]).expect_status(0);
    turn.wait(SOON).expect_status(143);
    // The next rebase finds out what the turn changed.
    assert_eq!(world.run(["query"]).expect_status(0).json()["actions"], json!([]));
}

/// A world whose issue has a session in a worktree.
fn world_with_worktree() -> (World, PathBuf) {
    let world = scripted_world(&FakeScript {
        serve: ServeMode::Sessions,
        ..hanging()
    });
    world
        .run(["start", "14", "hi", "--transport", "run", "--worktree"])
        .expect_status(0);
    let tree = PathBuf::from(record_of(&world)["worktree"]["path"].as_str().unwrap());
    (world, tree)
}

/// Makes a commit in a folder.
fn commit(world: &World, folder: &std::path::Path, file: &str, text: &str) -> String {
    std::fs::write(folder.join(file), text).unwrap();
    world.git(folder, ["add", file]).expect_status(0);
    world.git(folder, ["commit", "-m", file]).expect_status(0);
    head(world, folder)
}

fn head(world: &World, folder: &std::path::Path) -> String {
    world
        .git(folder, ["rev-parse", "HEAD"])
        .stdout()
        .trim()
        .to_owned()
}

#[test]
fn a_rebase_leaves_what_somebody_is_in_the_middle_of() {
    let (world, tree) = world_with_worktree();
    commit(&world, &tree, "first", "a");
    commit(&world, &tree, "second", "a");
    commit(&world, &world.repo(), "ours", "a");
    let refused = |says: &str, hint: &str| {
        let before = (head(&world, &tree), world.git(&tree, ["status"]).stdout());
        let output = world.run(["signal", "14", "rebase"]);
        let reported = output.expect_status(64).stderr();
        assert!(reported.contains(says) && reported.contains(hint), "{output}");
        let after = (head(&world, &tree), world.git(&tree, ["status"]).stdout());
        assert_eq!(after, before, "{output}");
    };
    // An agent stopped at `edit`: the tree is clean, and `rebase --abort` would discard its progress.
    let edit = "sequence.editor=sed -i 1s/^pick/edit/";
    world
        .git(&tree, ["-c", edit, "rebase", "-i", "HEAD~2"])
        .expect_status(0);
    refused("a rebase is in progress", "git rebase --abort");
    world.git(&tree, ["rebase", "--continue"]).expect_status(0);
    // A merge without changes also leaves a clean tree.
    let merge = ["merge", "--no-commit", "-s", "ours", "main"];
    world.git(&tree, merge).expect_status(0);
    refused("a merge is in progress", "git merge --abort");
    world.git(&tree, ["merge", "--abort"]).expect_status(0);

    world.git(&tree, ["checkout", "--detach"]).expect_status(0);
    refused("on no branch instead of kugetsu/14", "git switch kugetsu/14");
    world.git(&tree, ["checkout", "-b", "other"]).expect_status(0);
    refused(
        "on the branch other instead of kugetsu/14",
        "git switch kugetsu/14",
    );
    world.git(&tree, ["checkout", "kugetsu/14"]).expect_status(0);

    // If both the rebase and `rebase --abort` fail, the error reports both. The user's own filter fails.
    let attributes = world.repo().join(".git/info/attributes");
    std::fs::create_dir_all(attributes.parent().unwrap()).unwrap();
    std::fs::write(attributes, "first filter=fails\n").unwrap();
    let filter = [
        ("GIT_CONFIG_COUNT", "3"),
        ("GIT_CONFIG_KEY_0", "filter.fails.smudge"),
        ("GIT_CONFIG_VALUE_0", "false"),
        ("GIT_CONFIG_KEY_1", "filter.fails.required"),
        ("GIT_CONFIG_VALUE_1", "true"),
        // git looks at the content of a file that is as old as its index.
        ("GIT_CONFIG_KEY_2", "filter.fails.clean"),
        ("GIT_CONFIG_VALUE_2", "cat"),
    ];
    let output = run_in(&world, &filter, &["signal", "14", "rebase"]);
    let reported = output.expect_status(1).stderr();
    assert!(
        reported.matches("external filter").count() >= 2 && reported.contains("rebase --abort"),
        "{output}"
    );
}

#[test]
fn a_rebase_goes_onto_the_branch_that_the_worktree_began_at() {
    let world = scripted_world(&FakeScript {
        serve: ServeMode::Sessions,
        ..hanging()
    });
    let repo = world.repo();
    let begin = |issue: &str, more: &[&str]| {
        let mut words = vec!["start", issue, "hi", "--transport", "run", "--worktree"];
        words.extend(more);
        world.run(words).expect_status(0);
        world.run(["show", issue, "--json"]).json()["worktree"].clone()
    };
    let rebase = |issue: &str| world.run(["signal", issue, "rebase", "--json"]);
    world.git(&repo, ["branch", "release"]).expect_status(0);
    let start = head(&world, &repo);
    assert_eq!(begin("14", &[])["base_branch"], "main");
    assert_eq!(begin("15", &["--from", "release"])["base_branch"], "release");
    assert_eq!(begin("16", &["--from", &start])["base_branch"], Value::Null);

    world.git(&repo, ["checkout", "release"]).expect_status(0);
    let release = commit(&world, &repo, "fix", "a");
    world.git(&repo, ["checkout", "main"]).expect_status(0);
    let main = commit(&world, &repo, "feature", "a");
    world
        .git(&repo, ["checkout", "-b", "elsewhere", &start])
        .expect_status(0);
    let elsewhere = commit(&world, &repo, "draft", "a");
    for (issue, branch, commit) in [
        ("14", "main", &main),
        ("15", "release", &release),
        ("16", "elsewhere", &elsewhere),
    ] {
        let reported = rebase(issue).expect_status(0).json();
        assert_eq!(
            (&reported["onto"], &reported["result"]),
            (&json!(branch), &json!("rebased")),
            "{issue}"
        );
        let worktree = world.run(["show", issue, "--json"]).json()["worktree"].clone();
        assert_eq!(worktree["base_commit"], commit.as_str(), "{worktree}");
        assert_eq!(
            head(&world, std::path::Path::new(worktree["path"].as_str().unwrap())),
            *commit
        );
    }
    world.git(&repo, ["branch", "-D", "release"]).expect_status(0);
    let gone = rebase("15");
    assert!(
        gone.expect_status(64).stderr().contains("base branch release"),
        "{gone}"
    );
}

#[test]
fn a_rebase_without_a_worktree_is_refused() {
    let world = scripted_world(&FakeScript::default());
    world.run(["signal", "14", "rebase"]).expect_status(66);
    world
        .run(["start", "14", "hi", "--transport", "run"])
        .expect_status(0);
    let refused = world.run(["signal", "14", "rebase"]);
    assert!(
        refused.expect_status(64).stderr().contains("worktree"),
        "{refused}"
    );
}
