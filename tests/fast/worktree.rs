//! Worktrees and hooks, on real git. opencode is scripted: its part is in `real/worktree.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kugetsu_testing::{FakeScript, Opencode, Output, ServeMode, Stdin, World};
use serde_json::Value;

const REF: &str = "github.com/shoko/kugetsu#14";

/// A world with a base, whose opencode forks through `serve` and answers through `run`.
fn world() -> World {
    let world = World::new(Opencode::Fake);
    world.fake(&FakeScript {
        serve: ServeMode::Sessions,
        ..FakeScript::default()
    });
    fs::create_dir_all(world.kugetsu_home()).unwrap();
    configure(&world, "");
    world.run(["init"]).expect_status(0);
    world
}

fn configure(world: &World, settings: &str) {
    let text = format!("transport = \"run\"\n{settings}\n");
    fs::write(world.kugetsu_home().join("config.toml"), text).unwrap();
}

fn start(world: &World, more: &[&str]) -> Output {
    world.run([&["start", "14", "do it"], more].concat())
}

fn started(world: &World) -> PathBuf {
    start(world, &["--worktree"]).expect_status(0);
    expected(world)
}

fn expected(world: &World) -> PathBuf {
    world.repo().join(".worktrees/github.com/shoko/kugetsu/14")
}

fn show(world: &World) -> Value {
    world.run(["show", REF, "--json"]).json()
}

/// `run`s of the fake: the folders that turns ran in.
fn turn_folders(world: &World) -> Vec<PathBuf> {
    let calls = world.fake_calls();
    let runs = calls.into_iter().filter(|call| call.arguments[0] == "run");
    runs.map(|call| call.directory).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn commit(world: &World, folder: &Path, file: &str) {
    fs::write(folder.join(file), "work\n").unwrap();
    world.git(folder, ["add", "--all"]);
    world.git(folder, ["commit", "--quiet", "--message", file]);
}

fn branches(world: &World) -> String {
    world
        .git(
            &world.repo(),
            ["branch", "--list", "kugetsu/*", "--format=%(refname:short)"],
        )
        .stdout()
}

fn worktrees(world: &World) -> usize {
    let listed = world.git(&world.repo(), ["worktree", "list"]).stdout();
    listed.lines().count() - 1
}

#[test]
fn a_turn_runs_in_a_worktree_of_its_own() {
    let world = world();
    let output = start(&world, &["--worktree", "--output", "json"]);
    let result = output.expect_status(0).json();
    let path = expected(&world);
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

    // opencode's own row, the listing and the text say the same.
    let session = result["session"].as_str().unwrap();
    let rows = world.sessions();
    let row = rows.iter().find(|row| row.id == session).unwrap();
    assert_eq!(row.directory, text(&path));
    assert_eq!(show(&world)["worktree"], result["worktree"]);
    let listed = world.run(["list", "--json"]).json();
    assert_eq!(listed["sessions"][0]["worktree"], result["worktree"]);
    let shown = world.run(["show", REF]).stdout();
    assert!(
        shown.contains(&format!(
            "worktree    {} (branch kugetsu/14 from ",
            path.display()
        )),
        "{shown}"
    );

    // Nothing that git tracks was touched, and the clone does not show the worktrees.
    assert_eq!(world.git(&world.repo(), ["status", "--porcelain"]).stdout(), "");
    let exclude = fs::read_to_string(world.repo().join(".git/info/exclude")).unwrap();
    assert_eq!(exclude.lines().filter(|line| *line == "/.worktrees/").count(), 1);

    // From the clone and from inside the worktree, `continue` runs there.
    world.run(["continue", "14", "more"]).expect_status(0);
    let mut inside = world.kugetsu(["continue", "#14", "more"]);
    inside.current_dir(&path);
    world.finish(inside, Stdin::Null).expect_status(0);
    assert_eq!(turn_folders(&world), vec![path; 3]);
}

#[test]
fn without_one_a_session_works_in_the_clone() {
    let world = world();
    configure(&world, "worktree = true");
    start(&world, &["--no-worktree"]).expect_status(0);
    assert_eq!(turn_folders(&world), [world.repo()]);
    assert_eq!(show(&world)["worktree"], Value::Null);
    // The setting decides where nothing is said.
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
    // Where the default base serves another repository, its clone does, and no number is taken twice.
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
        world.run(["show", REF]).expect_status(66);
    };
    refused(&["--branch", "x"], &["--worktree"]);
    refused(
        &["--worktree", "--from", "nowhere"],
        &["`nowhere` names no commit", "--from"],
    );
    refused(&["--worktree", "--from=--all"], &["names no commit"]);
    refused(&["--worktree", "--branch", "a..b"], &["`a..b`", "--branch"]);
    refused(&["--worktree", "--branch=-d"], &["cannot be the name"]);
    refused(
        &["--worktree", "--branch", "main"],
        &["main is checked out in", "--branch"],
    );
    world.git(&world.repo(), ["branch", "kugetsu/14"]);
    refused(&["--worktree"], &["branch kugetsu/14 already", "worktree add"]);
    let path = expected(&world);
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
    // On the expected branch at the expected path it is the issue's own.
    world.git(&path, ["switch", "--quiet", "kugetsu/14"]);
    commit(&world, &path, "mine");
    let output = start(&world, &["--worktree"]);
    output.expect_status(0);
    assert!(output.stderr().contains("taken over"), "{output}");
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
        checks.contains("is gone; the next continue makes it again"),
        "{checks}"
    );
    let output = world.run(["continue", "14", "more"]);
    output.expect_status(0);
    assert!(
        output.stderr().contains("made again from its branch kugetsu/14"),
        "{output}"
    );
    assert!(path.join("done").exists());
    assert_eq!(turn_folders(&world)[1], path);

    world.git(&world.repo(), ["worktree", "remove", text(&path)]);
    let checks = world.run(["doctor", "--fix", "--json"]).json().to_string();
    assert!(checks.contains("made again from kugetsu/14"), "{checks}");
    assert!(path.join("done").exists());

    // Without its branch, nothing is left to make it from, and no empty one takes its place.
    world.git(&world.repo(), ["worktree", "remove", text(&path)]);
    world.git(&world.repo(), ["branch", "-D", "kugetsu/14"]);
    let output = world.run(["continue", "14", "more"]);
    output.expect_status(66);
    assert!(output.stderr().contains("kugetsu/14 are gone"), "{output}");
    assert!(!path.exists());
    assert_eq!(turn_folders(&world).len(), 2);
}

#[test]
fn a_start_that_was_killed_is_finished_by_the_next() {
    for point in [
        "worktree_intended",
        "worktree_made",
        "worktree_ready",
        "fork_intended",
        "fork_made",
        "fork_known",
        "fork_settled",
    ] {
        let world = world();
        configure(&world, "hook_after_create = \"echo made >> made\"");
        let mut first = world.kugetsu(["start", "14", "do it", "--worktree"]);
        first.env("KUGETSU_CRASH_AT", point);
        world.finish(first, Stdin::Null).expect_status(137);
        world.wait_nothing_left(Duration::from_secs(30));
        start(&world, &["--worktree"]).expect_status(0);
        assert_eq!(turn_folders(&world), [expected(&world)], "{point}");
        assert_eq!(worktrees(&world), 1, "{point}");
        assert_eq!(branches(&world), "kugetsu/14\n", "{point}");
        assert_eq!(world.sessions().len(), 2, "{point}: base and fork");
        assert_eq!(
            fs::read_to_string(expected(&world).join("made")).unwrap(),
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
    let mut first = world.kugetsu(["start", "14", "do it", "--worktree"]);
    first.env("KUGETSU_CRASH_AT", "worktree_intended");
    world.finish(first, Stdin::Null).expect_status(137);
    // git makes the branch before the worktree. Nobody else's would be taken.
    world.git(&world.repo(), ["branch", "kugetsu/14"]);
    start(&world, &["--worktree"]).expect_status(0);
    assert_eq!(turn_folders(&world), [expected(&world)]);
}

#[test]
fn what_a_killed_git_left_is_made_anew() {
    let world = world();
    let mut first = world.kugetsu(["start", "14", "do it", "--worktree"]);
    first.env("KUGETSU_CRASH_AT", "worktree_intended");
    world.finish(first, Stdin::Null).expect_status(137);
    // As git leaves it when it is killed while it checks files out.
    let path = expected(&world);
    world.git(
        &world.repo(),
        ["worktree", "add", "--quiet", "-b", "kugetsu/14", text(&path)],
    );
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
    // They are no work that could be lost; once changed, they are.
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

#[test]
fn hooks_run_around_a_turn() {
    let world = world();
    let log = world.root().join("hooks");
    let say = |moment: &str| {
        let line = format!(
            "echo \"{moment} $PWD $KUGETSU_REF $KUGETSU_WORKTREE_PATH $KUGETSU_BRANCH $KUGETSU_SESSION $KUGETSU_TURN_ID\" >> {}",
            text(&log)
        );
        format!("hook_{moment} = {line:?}\n")
    };
    let all = ["after_create", "before_turn", "after_turn", "before_remove"]
        .map(say)
        .concat();
    configure(&world, &all);
    let result = start(&world, &["--worktree", "--output", "json"])
        .expect_status(0)
        .json();
    world.run(["continue", "14", "more"]).expect_status(0);
    world.run(["destroy", "14", "-y"]).expect_status(0);
    let path = expected(&world);
    let lines: Vec<Vec<String>> = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect();
    let moments: Vec<_> = lines.iter().map(|line| line[0].as_str()).collect();
    assert_eq!(
        moments,
        [
            "after_create",
            "before_turn",
            "after_turn",
            "before_turn",
            "after_turn",
            "before_remove"
        ]
    );
    for line in &lines {
        assert_eq!(
            line[1..5],
            [text(&path), REF, text(&path), "kugetsu/14"],
            "{line:?}"
        );
    }
    assert_eq!(lines[2][5], result["session"].as_str().unwrap());
    assert_eq!(lines[2][6], result["turn"].as_str().unwrap());
}

#[test]
fn a_hook_that_fails_stops_what_it_guards() {
    let world = world();
    let log = world
        .kugetsu_home()
        .join("sessions/github.com/shoko/kugetsu/14/hooks.log");
    configure(&world, "hook_after_create = \"echo no compiler; exit 3\"");
    let output = start(&world, &["--worktree"]);
    output.expect_status(1);
    for word in [
        "hook_after_create",
        "exit status 3",
        "nothing was sent",
        text(&log),
    ] {
        assert!(output.stderr().contains(word), "{word}\n{output}");
    }
    assert!(fs::read_to_string(&log).unwrap().contains("no compiler"));
    // It is run again, since it has not ended well yet.
    configure(
        &world,
        "hook_after_create = \"touch made\"\nhook_before_turn = \"exit 4\"",
    );
    let output = start(&world, &["--worktree"]);
    output.expect_status(1);
    assert!(output.stderr().contains("hook_before_turn"), "{output}");
    assert!(expected(&world).join("made").exists());
    assert_eq!(turn_folders(&world), Vec::<PathBuf>::new());
    assert_eq!(world.sessions().len(), 1, "the base alone");

    configure(
        &world,
        "hook_after_turn = \"exit 5\"\nhook_before_remove = \"exit 6\"",
    );
    let output = start(&world, &["--worktree"]);
    output.expect_status(0);
    assert!(
        output.stderr().contains("hook_after_turn failed (exit status 5)"),
        "{output}"
    );
    fs::remove_file(expected(&world).join("made")).unwrap();
    let output = world.run(["destroy", "14", "-y"]);
    output.expect_status(1);
    assert!(output.stderr().contains("nothing was removed"), "{output}");
    assert!(expected(&world).exists());
    world.run(["continue", "14", "more"]).expect_status(0);
    world.run(["destroy", "14", "-y", "--force"]).expect_status(0);
    assert!(!expected(&world).exists());
}

#[test]
fn a_hook_has_its_time_and_leaves_nothing() {
    let world = world();
    configure(
        &world,
        "hook_timeout = \"1s\"\ngrace = \"1s\"\nhook_before_turn = \"setsid sleep 500 & trap '' TERM; sleep 500\"",
    );
    let output = start(&world, &[]);
    output.expect_status(1);
    assert!(output.stderr().contains("did not end within 1s"), "{output}");
    world.wait_nothing_left(Duration::from_secs(30));
}

#[test]
fn an_interrupt_ends_a_hook() {
    let world = world();
    configure(&world, "hook_before_turn = \"touch began; sleep 500\"");
    let running = world.spawn(["start", "14", "do it"]);
    let began = world.repo().join("began");
    world.wait_until("the hook runs", Duration::from_secs(30), || began.exists());
    running.signal(kugetsu_testing::Signal::Interrupt);
    running.wait(Duration::from_secs(30)).expect_status(130);
    world.wait_nothing_left(Duration::from_secs(30));

    // After the turn as well: what was done stays done.
    configure(&world, "hook_after_turn = \"touch after; sleep 500\"");
    let running = world.spawn(["start", "14", "do it"]);
    let after = world.repo().join("after");
    world.wait_until("the hook runs", Duration::from_secs(30), || after.exists());
    running.signal(kugetsu_testing::Signal::Interrupt);
    let output = running.wait(Duration::from_secs(30));
    output.expect_status(0);
    assert!(
        output.stderr().contains("hook_after_turn was interrupted"),
        "{output}"
    );
    world.wait_nothing_left(Duration::from_secs(30));
    let shown = world.run(["show", "14", "--json"]).json();
    assert_eq!(shown["last"]["verdict"], "completed", "{shown}");
}

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
        world.run(["show", REF]).expect_status(0);
    };
    fs::write(path.join("new file"), "work\n").unwrap();
    refused("1 file not committed (new file)");
    commit(&world, &path, "committed");
    refused("1 commit not pushed");
    fs::write(path.join("README.md"), "changed\n").unwrap();
    refused("1 file not committed (README.md) and 1 commit not pushed");
    world.git(&path, ["checkout", "README.md"]);
    // A head that has left the branch counts as well.
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
    fs::remove_file(path.join("opencode.json")).unwrap();
}

fn assert_mess(world: &World, path: &Path) {
    assert!(path.join("committed").exists());
    assert_eq!(fs::read_to_string(path.join("README.md")).unwrap(), "changed\n");
    assert_eq!(fs::read_to_string(path.join("new")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(path.join("staged")).unwrap(), "staged\n");
    assert!(!path.join("opencode.json").exists());
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
        let there = world.run(["show", REF]).code() == 0;
        assert_eq!(there, point.starts_with("worktree"), "{point}");
        if there {
            world.run(["continue", "14", "more"]).expect_status(0);
        } else {
            world.run(["doctor", "--fix"]);
            world.run(["restore", "14"]).expect_status(0);
        }
        assert_mess(&world, &path);
    }
    // Said again, it finishes, and what was kept the first time is not lost.
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
fn a_repository_inside_cannot_be_kept_and_so_is_not_removed() {
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
    assert_eq!(output.expect_status(0).json()["pruned"][0]["ref"], REF);
    assert!(!path.exists());
    assert_eq!(branches(&world), "");
}

/// What another `git worktree add` leaves for a moment: git 2.47 dies of it with "failed to read .../commondir: Success".
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
