//! Work that exists only in a worktree is not lost with it.

use std::fs;
use std::path::Path;

use crate::support::kit::ISSUE;
use kugetsu_testing::{Stdin, World};

use super::*;

#[test]
fn work_that_is_nowhere_else_is_not_destroyed() {
    let world = world();
    let path = started(&world);
    let refused = |words: &str| {
        let output = world.run(["destroy", "14", "-y"]);
        output.expect_status(2);
        assert!(output.stderr().contains(words), "{output}");
        assert!(output.stderr().contains("--force"), "{output}");
        assert!(path.exists());
        world.run(["show", ISSUE]).expect_status(0);
    };
    fs::write(path.join("new file"), "work\n").unwrap();
    refused("1 file not committed (new file)");
    commit(&world, &path, "committed");
    refused("1 commit not pushed");
    fs::write(path.join("README.md"), "changed\n").unwrap();
    refused("1 file not committed (README.md) and 1 commit not pushed");
    world.git(&path, ["checkout", "README.md"]);
    // Commits on a detached head count too.
    world.git(&path, ["switch", "--quiet", "--detach"]);
    commit(&world, &path, "detached");
    refused("2 commits not pushed");
    world.git(&path, ["switch", "--quiet", "-C", "kugetsu/14"]);

    world.bare_remote();
    world.git(&path, ["push", "--quiet", "origin", "kugetsu/14"]);
    world.run(["destroy", "14", "-y"]).expect_status(0);
    assert!(!world.repo().join(".worktrees").exists());
    assert_eq!(branches(&world), "");
    // The commits are kept even so.
    world.run(["restore", "14"]).expect_status(0);
    assert!(path.join("detached").exists());
    assert_eq!(
        world.git(&path, ["branch", "--show-current"]).stdout(),
        "kugetsu/14\n"
    );
    world.run(["continue", "14", "more"]).expect_status(0);
    assert_eq!(turn_folders(&world)[1], path);
}

#[test]
fn what_is_merged_into_the_clones_branch_is_safe() {
    let world = world();
    let path = started(&world);
    commit(&world, &path, "done");
    world.git(&world.repo(), ["merge", "--quiet", "kugetsu/14"]);
    world.run(["destroy", "14", "-y"]).expect_status(0);
    assert_eq!(branches(&world), "");
}

fn make_a_mess(world: &World, path: &Path) {
    commit(world, path, "committed");
    fs::write(path.join("README.md"), "changed\n").unwrap();
    fs::write(path.join("new"), "new\n").unwrap();
    fs::write(path.join("staged"), "staged\n").unwrap();
    world.git(path, ["add", "staged"]);
    fs::write(path.join("added and gone"), "").unwrap();
    world.git(path, ["add", "added and gone"]);
    fs::remove_file(path.join("added and gone")).unwrap();
    fs::remove_file(path.join("notes.txt")).unwrap();
}

fn assert_mess(world: &World, path: &Path) {
    assert!(path.join("committed").exists());
    assert_eq!(fs::read_to_string(path.join("README.md")).unwrap(), "changed\n");
    assert_eq!(fs::read_to_string(path.join("new")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(path.join("staged")).unwrap(), "staged\n");
    assert!(!path.join("notes.txt").exists());
    let log = world.git(path, ["log", "--format=%s"]).stdout();
    assert_eq!(log, "committed\nBegin repo\n");
    assert_eq!(
        world.git(path, ["branch", "--show-current"]).stdout(),
        "kugetsu/14\n"
    );
    let refs = world
        .git(&world.repo(), ["for-each-ref", "refs/kugetsu"])
        .stdout();
    assert_eq!(refs, "", "nothing stays but the branch");
}

#[test]
fn forced_the_work_goes_to_the_trash_and_comes_back() {
    let world = world();
    let path = started(&world);
    make_a_mess(&world, &path);
    let output = world.run(["destroy", "14", "-y", "--force", "--json"]);
    let removed = output.expect_status(0).json();
    assert_eq!(removed["worktree"]["branch_deleted"], true, "{output}");
    assert_eq!(removed["worktree"]["saved_commits"], true);
    assert_eq!(removed["worktree"]["saved_changes"], true);
    assert!(!path.exists());
    assert_eq!(branches(&world), "");
    world.git(&world.repo(), ["reflog", "expire", "--expire=now", "--all"]);
    world.git(&world.repo(), ["gc", "--quiet", "--prune=now"]);
    world.run(["restore", "14"]).expect_status(0);
    assert_mess(&world, &path);
    world.run(["continue", "14", "more"]).expect_status(0);
    assert_mess(&world, &path);
}

#[test]
fn a_destroy_that_was_killed_loses_no_work() {
    for point in [
        "worktree_saved",
        "worktree_removed",
        "trash_record_moved",
        "destroy_trashed",
    ] {
        let world = world();
        let path = started(&world);
        make_a_mess(&world, &path);
        let mut destroy = world.kugetsu(["destroy", "14", "-y", "--force"]);
        destroy.env("KUGETSU_CRASH_AT", point);
        world.finish(destroy, Stdin::Null).expect_status(137);
        let there = world.run(["show", ISSUE]).code() == 0;
        assert_eq!(there, point.starts_with("worktree"), "{point}");
        if there {
            world.run(["continue", "14", "more"]).expect_status(0);
        } else {
            world.run(["doctor", "--fix"]);
            world.run(["restore", "14"]).expect_status(0);
        }
        assert_mess(&world, &path);
    }
    // Repeating the command finishes the job without losing what the first run saved.
    let world = world();
    let path = started(&world);
    make_a_mess(&world, &path);
    let mut destroy = world.kugetsu(["destroy", "14", "-y", "--force"]);
    destroy.env("KUGETSU_CRASH_AT", "worktree_removed");
    world.finish(destroy, Stdin::Null).expect_status(137);
    world.run(["destroy", "14", "-y", "--force"]).expect_status(0);
    world.run(["restore", "14"]).expect_status(0);
    assert_mess(&world, &path);
}

#[test]
fn a_nested_repository_cannot_be_saved_and_so_is_not_removed() {
    let world = world();
    let path = started(&world);
    let inside = path.join("inside");
    fs::create_dir(&inside).unwrap();
    world.git(&inside, ["init", "--quiet"]);
    commit(&world, &inside, "file");
    let output = world.run(["destroy", "14", "-y", "--force"]);
    output.expect_status(64);
    assert!(output.stderr().contains("inside"), "{output}");
    assert!(inside.join("file").exists());
    world.run(["continue", "14", "more"]).expect_status(0);
}

#[test]
fn prune_keeps_work_as_destroy_does() {
    let world = world();
    let path = started(&world);
    make_a_mess(&world, &path);
    let session = show(&world)["session"].as_str().unwrap().to_owned();
    let delete = world.opencode_command(["session", "delete", &session]);
    world.finish(delete, Stdin::Null).expect_status(0);
    world.run(["prune"]).expect_status(0);
    assert!(path.exists());
    let output = world.run(["prune", "--force", "--json"]);
    assert_eq!(output.expect_status(0).json()["pruned"][0]["ref"], ISSUE);
    assert!(!path.exists());
    assert_eq!(branches(&world), "");
}

/// git cannot remove a path that is longer than the system takes.
#[test]
fn a_worktree_with_very_deep_folders_is_destroyed_whole() {
    let world = world();
    let worktree = started(&world);
    let (deep, next) = (worktree.join("deep"), worktree.join("next"));
    std::fs::create_dir(&deep).unwrap();
    std::fs::write(deep.join("file"), "x").unwrap();
    for _ in 0..2500 {
        std::fs::create_dir(&next).unwrap();
        std::fs::rename(&deep, next.join("deep")).unwrap();
        std::fs::rename(&next, &deep).unwrap();
    }
    world.run(["destroy", "14", "-y", "--force"]).expect_status(0);
    assert!(!worktree.exists());
    assert!(
        !world
            .git(&world.repo(), ["worktree", "list"])
            .stdout()
            .contains(".worktrees")
    );
}
