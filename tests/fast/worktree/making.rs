//! Where worktrees are created, what they start with, and what an interrupted start leaves behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::kit::{ISSUE, worktree_of};
use kugetsu_testing::Stdin;
use serde_json::Value;

use super::*;

#[test]
fn a_turn_runs_in_a_worktree_of_its_own() {
    let world = world();
    let output = start(&world, &["--worktree", "--output", "json"]);
    let result = output.expect_status(0).json();
    let path = worktree_of(&world, "14");
    let head = world.git(&world.repo(), ["rev-parse", "HEAD"]).stdout();
    assert_eq!(result["directory"], text(&path), "{output}");
    assert_eq!(result["worktree"]["path"], text(&path));
    assert_eq!(result["worktree"]["branch"], "kugetsu/14");
    assert_eq!(result["worktree"]["base_commit"], head.trim());
    assert_eq!(result["worktree"]["repo_dir"], text(&world.repo()));
    assert!(result["worktree"].get("pending").is_none());
    assert_eq!(turn_folders(&world), std::slice::from_ref(&path));
    let on = world.git(&path, ["branch", "--show-current"]).stdout();
    assert_eq!(on.trim(), "kugetsu/14");

    // opencode's row, the listing and the text agree.
    let session = result["session"].as_str().unwrap();
    let rows = world.sessions();
    let row = rows.iter().find(|row| row.id == session).unwrap();
    assert_eq!(row.directory, text(&path));
    assert_eq!(show(&world)["worktree"], result["worktree"]);
    let listed = world.run(["list", "--json"]).json();
    assert_eq!(listed["sessions"][0]["worktree"], result["worktree"]);
    let shown = world.run(["show", ISSUE]).stdout();
    assert!(
        shown.contains(&format!(
            "worktree    {} (branch kugetsu/14 from ",
            path.display()
        )),
        "{shown}"
    );

    // No tracked file changed, and the clone does not show the worktrees.
    assert_eq!(world.git(&world.repo(), ["status", "--porcelain"]).stdout(), "");
    let exclude = fs::read_to_string(world.repo().join(".git/info/exclude")).unwrap();
    assert_eq!(exclude.lines().filter(|line| *line == "/.worktrees/").count(), 1);

    // `continue` runs in the worktree, whether called from the clone or from inside the worktree.
    world.run(["continue", "14", "more"]).expect_status(0);
    let mut inside = world.kugetsu(["continue", "#14", "more"]);
    inside.current_dir(&path);
    world.finish(inside, Stdin::Null).expect_status(0);
    assert_eq!(turn_folders(&world), vec![path; 3]);
}

#[test]
fn without_one_a_session_works_in_the_clone() {
    let world = by_default::world();
    configure(&world, "worktree = true");
    start(&world, &["--no-worktree"]).expect_status(0);
    assert_eq!(turn_folders(&world), [world.repo()]);
    assert_eq!(show(&world)["worktree"], Value::Null);
    // Without a flag, the setting decides.
    world
        .run(["continue", "15", "do it", "--or-start"])
        .expect_status(0);
    let root = world.repo().join(".worktrees/github.com/shoko/kugetsu/15");
    assert_eq!(turn_folders(&world)[1], root);
}

#[test]
fn branch_start_and_root_can_be_chosen() {
    let world = world();
    let first = world.git(&world.repo(), ["rev-parse", "HEAD"]).stdout();
    commit(&world, &world.repo(), "later");
    let root = world.root().join("elsewhere");
    configure(&world, &format!("worktree_root = {:?}", text(&root)));
    let result = start(
        &world,
        &[
            "--worktree",
            "--branch",
            "fix/the-crash",
            "--from",
            "HEAD~1",
            "--output",
            "json",
        ],
    );
    let worktree = &result.expect_status(0).json()["worktree"];
    assert_eq!(worktree["branch"], "fix/the-crash");
    assert_eq!(worktree["base_commit"], first.trim());
    let path = root.join("github.com/shoko/kugetsu/14");
    assert_eq!(worktree["path"], text(&path));
    assert!(!path.join("later").exists());
    // If the default base serves another repository, that base's clone is used, and no two issues share a path.
    world.run(["init", "--force", "--default"]).expect_status(0);
    let other = world.run([
        "start",
        "gitlab.com:8080/a/b#14",
        "do it",
        "--worktree",
        "--output",
        "json",
    ]);
    let other = &other.expect_status(0).json()["worktree"];
    assert_eq!(other["branch"], "kugetsu/a/b/14");
    assert_eq!(other["path"], text(&root.join("gitlab.com@8080/a/b/14")));
}

#[test]
fn a_subfolder_stays_the_subfolder() {
    let world = world();
    let sub = world.repo().join("sub");
    fs::create_dir(&sub).unwrap();
    commit(&world, &world.repo(), "sub/file");
    world.run(["init", "--force", "--dir", "sub"]).expect_status(0);
    let path = started(&world);
    assert_eq!(turn_folders(&world), [path.join("sub")]);
}

#[test]
fn what_is_not_the_issues_own_is_refused() {
    let world = world();
    let refused = |more: &[&str], words: &[&str]| {
        let output = start(&world, more);
        output.expect_status(64);
        for word in words {
            assert!(output.stderr().contains(word), "{word}\n{output}");
        }
        assert_eq!(turn_folders(&world), Vec::<PathBuf>::new());
        world.run(["show", ISSUE]).expect_status(66);
    };
    refused(&["--branch", "x"], &["--worktree"]);
    refused(
        &["--worktree", "--from", "nowhere"],
        &["`nowhere` is not a commit", "--from"],
    );
    refused(&["--worktree", "--from=--all"], &["is not a commit"]);
    refused(&["--worktree", "--branch", "a..b"], &["`a..b`", "--branch"]);
    refused(&["--worktree", "--branch=-d"], &["is not a valid branch name"]);
    refused(
        &["--worktree", "--branch", "main"],
        &["main is checked out in", "--branch"],
    );
    world.git(&world.repo(), ["branch", "kugetsu/14"]);
    refused(&["--worktree"], &["branch kugetsu/14 already", "worktree add"]);
    let path = worktree_of(&world, "14");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("mine"), "").unwrap();
    refused(&["--worktree"], &["in the way", "worktree_root"]);
    assert!(path.join("mine").exists());
    fs::remove_file(path.join("mine")).unwrap();
    world.git(
        &world.repo(),
        ["worktree", "add", "--quiet", text(&path), "-b", "other"],
    );
    refused(&["--worktree"], &["is on the branch other", "--branch other"]);
    // A worktree on the expected branch at the expected path belongs to the issue.
    world.git(&path, ["switch", "--quiet", "kugetsu/14"]);
    commit(&world, &path, "mine");
    let output = start(&world, &["--worktree"]);
    output.expect_status(0);
    assert!(output.stderr().contains("is used"), "{output}");
    assert_eq!(turn_folders(&world), [path]);
    let base = world.git(&world.repo(), ["rev-parse", "HEAD"]).stdout();
    assert_eq!(show(&world)["worktree"]["base_commit"], base.trim());
}

#[test]
fn outside_a_clone_there_is_no_worktree() {
    let world = world();
    let folder = world.root().join("plain");
    fs::create_dir(&folder).unwrap();
    world
        .run([
            "init",
            "--force",
            "--dir",
            text(&folder),
            "--repo",
            "github.com/shoko/kugetsu",
        ])
        .expect_status(0);
    let output = start(&world, &["--worktree"]);
    output.expect_status(64);
    assert!(output.stderr().contains("--no-worktree"), "{output}");
    start(&world, &["--no-worktree"]).expect_status(0);
}

#[test]
fn a_worktree_removed_by_hand_is_made_again_from_its_branch() {
    let world = world();
    let path = started(&world);
    commit(&world, &path, "done");
    fs::remove_dir_all(&path).unwrap();
    let checks = world.run(["doctor", "--json"]).json().to_string();
    assert!(
        checks.contains("is gone; the next continue remakes it"),
        "{checks}"
    );
    let output = world.run(["continue", "14", "more"]);
    output.expect_status(0);
    assert!(
        output.stderr().contains("remade from its branch kugetsu/14"),
        "{output}"
    );
    assert!(path.join("done").exists());
    assert_eq!(turn_folders(&world)[1], path);

    world.git(&world.repo(), ["worktree", "remove", text(&path)]);
    let checks = world.run(["doctor", "--fix", "--json"]).json().to_string();
    assert!(checks.contains("remade from kugetsu/14"), "{checks}");
    assert!(path.join("done").exists());

    // Without its branch, the worktree cannot be recreated, and no empty one takes its place.
    world.git(&world.repo(), ["worktree", "remove", text(&path)]);
    world.git(&world.repo(), ["branch", "-D", "kugetsu/14"]);
    let output = world.run(["continue", "14", "more"]);
    output.expect_status(66);
    assert!(output.stderr().contains("kugetsu/14 are gone"), "{output}");
    assert!(!path.exists());
    assert_eq!(turn_folders(&world).len(), 2);
}

/// A start of the issue that is killed at this point.
fn start_killed_at(world: &World, point: &str) {
    let mut first = world.kugetsu(["start", "14", "do it", "--worktree"]);
    first.env("KUGETSU_CRASH_AT", point);
    world.finish(first, Stdin::Null).expect_status(137);
}

/// The worktree as git makes it for the issue, on its branch.
fn worktree_by_git(world: &World) -> PathBuf {
    let path = worktree_of(world, "14");
    world.git(
        &world.repo(),
        ["worktree", "add", "--quiet", "-b", "kugetsu/14", text(&path)],
    );
    path
}

#[test]
fn a_start_that_was_killed_is_finished_by_the_next() {
    for point in [
        "worktree_intended",
        "worktree_made",
        "worktree_ready",
        "fork_intended",
        "fork_made",
        "fork_marked",
        "fork_known",
        "fork_settled",
    ] {
        let world = world();
        configure(&world, "hook_after_create = \"echo made >> made\"");
        start_killed_at(&world, point);
        world.wait_nothing_left(Duration::from_secs(30));
        start(&world, &["--worktree"]).expect_status(0);
        assert_eq!(turn_folders(&world), [worktree_of(&world, "14")], "{point}");
        assert_eq!(worktrees(&world), 1, "{point}");
        assert_eq!(branches(&world), "kugetsu/14\n", "{point}");
        // A fork without a mark may be anybody's, so that nobody takes it.
        let orphans = usize::from(point == "fork_made");
        assert_eq!(world.sessions().len(), 2 + orphans, "{point}: base and fork");
        assert_eq!(
            fs::read_to_string(worktree_of(&world, "14").join("made")).unwrap(),
            "made\n",
            "{point}"
        );
        let record = show(&world);
        assert!(record["worktree"].get("pending").is_none(), "{point}");
    }
}

#[test]
fn a_branch_that_a_killed_git_left_is_the_issues_own() {
    let world = world();
    start_killed_at(&world, "worktree_intended");
    // git creates the branch before the worktree. A branch that belongs to something else would be refused.
    world.git(&world.repo(), ["branch", "kugetsu/14"]);
    start(&world, &["--worktree"]).expect_status(0);
    assert_eq!(turn_folders(&world), [worktree_of(&world, "14")]);
}

#[test]
fn what_a_killed_git_left_is_made_anew() {
    let world = world();
    start_killed_at(&world, "worktree_intended");
    // The state that git leaves when it is killed during checkout.
    let path = worktree_by_git(&world);
    world.git(
        &world.repo(),
        ["worktree", "lock", "--reason", "initializing", text(&path)],
    );
    fs::remove_file(path.join("README.md")).unwrap();
    fs::remove_file(path.join(".git")).unwrap();
    start(&world, &["--worktree"]).expect_status(0);
    assert!(path.join("README.md").exists());
    assert_eq!(worktrees(&world), 1);
}

#[test]
fn files_that_an_interrupted_git_did_not_remove_are_made_anew() {
    for link in [true, false] {
        let world = world();
        start_killed_at(&world, "worktree_intended");
        // git removes its administrative folder first when a signal ends it, then the files.
        let path = worktree_by_git(&world);
        fs::remove_dir_all(world.repo().join(".git/worktrees")).unwrap();
        if !link {
            fs::remove_file(path.join(".git")).unwrap();
        }
        fs::write(path.join("README.md"), "half").unwrap();
        start(&world, &["--worktree"]).expect_status(0);
        assert_ne!(fs::read_to_string(path.join("README.md")).unwrap(), "half");
        assert_eq!(worktrees(&world), 1);
    }
}

#[test]
fn a_clone_in_the_place_of_an_unfinished_worktree_is_left_alone() {
    let world = world();
    start_killed_at(&world, "worktree_intended");
    let path = worktree_of(&world, "14");
    world.git(&world.repo(), ["clone", "--quiet", ".", text(&path)]);
    start(&world, &["--worktree"]).expect_status(64);
    assert!(path.join(".git").is_dir());

    // Whoever reads a pipe waits for its writer.
    fs::remove_dir_all(path.join(".git")).unwrap();
    let mut pipe = world.command("mkfifo");
    pipe.arg(path.join(".git"));
    world.finish(pipe, Stdin::Null).expect_status(0);
    start(&world, &["--worktree"]).expect_status(64);
    assert!(path.join("README.md").exists());
}

#[test]
fn untracked_configuration_is_brought_along() {
    let world = world();
    let repo = world.repo();
    fs::create_dir_all(repo.join("conf/deep")).unwrap();
    fs::write(repo.join(".env"), "SECRET=1\n").unwrap();
    fs::write(repo.join("conf/deep/a"), "a\n").unwrap();
    fs::write(repo.join("local.json"), "{}\n").unwrap();
    configure(
        &world,
        "worktree_copy = [\".env\", \"conf\", \"README.md\", \"absent\"]\nworktree_link = [\"local.json\"]",
    );
    let path = started(&world);
    assert_eq!(fs::read_to_string(path.join(".env")).unwrap(), "SECRET=1\n");
    assert_eq!(fs::read_to_string(path.join("conf/deep/a")).unwrap(), "a\n");
    assert_eq!(
        fs::read_link(path.join("local.json")).unwrap(),
        repo.join("local.json")
    );
    assert_eq!(fs::read_to_string(path.join("README.md")).unwrap(), "# repo\n");
    assert!(!path.join("absent").exists());
    // Unchanged extras are not work that could be lost; changed ones are.
    fs::write(path.join("conf/deep/a"), "changed\n").unwrap();
    let output = world.run(["destroy", "14", "-y"]);
    output.expect_status(2);
    assert!(
        output.stderr().contains("1 file not committed (conf/deep/a)"),
        "{output}"
    );
    fs::write(path.join("conf/deep/a"), "a\n").unwrap();
    world.run(["destroy", "14", "-y"]).expect_status(0);
    assert!(!path.exists());
    assert!(repo.join("local.json").exists() && repo.join("conf/deep/a").exists());

    for bad in ["/etc/passwd", "../x", ".git/config", "a/../../b"] {
        configure(&world, &format!("worktree_copy = [{bad:?}]"));
        let output = world.run(["list"]);
        output.expect_status(64);
        assert!(output.stderr().contains(bad), "{output}");
    }
}

/// The state that another `git worktree add` leaves for a moment. git 2.47 fails on it with "failed to read
/// .../commondir: Success".
#[test]
fn a_worktree_that_another_git_is_just_making_is_waited_for() {
    let world = world();
    let half = world.repo().join(".git/worktrees/half");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("gitdir"), "/nowhere/.git\n").unwrap();
    fs::write(half.join("commondir"), "").unwrap();
    // A git that counts its failures.
    let bin = world.root().join("counting");
    let failures = world.root().join("failures");
    fs::create_dir(&bin).unwrap();
    let git = String::from_utf8(
        world
            .command("sh")
            .args(["-c", "command -v git"])
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    let script = format!(
        "#!/bin/sh\n{} \"$@\" || {{ status=$?; echo \"$*\" >> {}; exit $status; }}\n",
        git.trim(),
        failures.display()
    );
    fs::write(bin.join("git"), script).unwrap();
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = world.kugetsu(["start", "14", "do it", "--worktree"]);
    command.env(
        "PATH",
        format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()),
    );
    let running = world.start(command, Stdin::Null);
    world.wait_until("git has failed", Duration::from_mins(1), || {
        fs::read_to_string(&failures).is_ok_and(|text| text.contains("worktree list"))
    });
    fs::remove_dir_all(&half).unwrap();
    running.wait(Duration::from_mins(1)).expect_status(0);
    assert_eq!(worktrees(&world), 1);
}

#[test]
fn starts_of_many_issues_at_once_get_a_worktree_each() {
    let world = world();
    let running: Vec<_> = (1..=6)
        .map(|number| world.spawn(["start", &number.to_string(), "do it", "--worktree"]))
        .collect();
    for one in running {
        one.wait(Duration::from_mins(1)).expect_status(0);
    }
    let mut folders = turn_folders(&world);
    folders.sort();
    folders.dedup();
    assert_eq!(folders.len(), 6);
    assert_eq!(worktrees(&world), 6);
}
