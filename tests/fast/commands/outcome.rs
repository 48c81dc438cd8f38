//! What is told of a turn: changed files, commits, refused tool calls, the prompt.

use std::os::unix::fs::PermissionsExt as _;

use std::path::{Path, PathBuf};

use crate::support::kit::{SOON, fake_world, files_below, record, run, run_in, start, start_in, with_base};
use kugetsu_testing::{FakeScript, Opencode, Output, ServeMode, Signal, Step, World};
use serde_json::{Value, json};

/// Plays a turn in which tools run these commands of a shell.
fn turn(world: &World, verb: &str, commands: &[&str]) -> Output {
    let mut steps: Vec<_> = commands
        .iter()
        .map(|command| Step::Shell((*command).to_owned()))
        .collect();
    steps.push(Step::Answer("done".to_owned()));
    world.fake(&FakeScript {
        serve: ServeMode::Sessions,
        ..FakeScript::steps(steps)
    });
    let output = run(
        world,
        [verb, "1", "change it", "--transport", "run", "--output", "json"],
    );
    output.expect_status(0);
    output
}

fn paths(changes: &Value) -> Vec<&str> {
    let files = changes["files"].as_array().map_or(&[][..], Vec::as_slice);
    files.iter().filter_map(|file| file["path"].as_str()).collect()
}

#[test]
fn a_turn_tells_what_it_changed() {
    let world = fake_world();
    let repo = world.repo();
    let file = |name: &str, content: &[u8]| {
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(repo.join(name), content).unwrap();
    };
    file("old.txt", b"1\n2\n3\n");
    world.git(&repo, ["add", "--all"]);
    world.git(&repo, ["commit", "--quiet", "--message", "Begin"]);
    file("untouched.txt", b"uncommitted before\n");
    file("touched.txt", b"uncommitted before\n");

    let commands = [
        "printf '1\\n2\\n4\\n5\\n' > old.txt; git commit --quiet --all --message 'Change the old file'",
        "mkdir -p a/b; printf 'x\\ny' > 'a/b/new file.txt'; printf '\\0\\0' > binary; echo more >> touched.txt",
    ];
    let output = turn(&world, "start", &commands);
    let changes = output.json()["changes"].clone();
    assert_eq!(
        paths(&changes),
        ["a/b/new file.txt", "binary", "old.txt", "touched.txt"],
        "{output}"
    );
    assert_eq!(
        changes["files"][0],
        json!({"path": "a/b/new file.txt", "added": 2, "removed": 0})
    );
    assert_eq!(
        changes["files"][2],
        json!({"path": "old.txt", "added": 2, "removed": 1})
    );
    assert_eq!(
        (&changes["commit_count"], &changes["file_count"]),
        (&json!(1), &json!(4))
    );
    assert_eq!(changes["commits"][0]["subject"], "Change the old file");
    for line in [
        "1 commit: ",
        " Change the old file",
        "4 files changed, +5 -1:",
        "  a/b/new file.txt (+2 -0)",
    ] {
        assert!(output.stderr().contains(line), "{line}\n{output}");
    }
    assert_eq!(record(&world, "1").unwrap()["last"]["changes"], changes);
    let end = run(&world, ["logs", "1", "--json"]).json_lines().pop().unwrap();
    assert_eq!(end["changes"], changes);

    // The next turn is compared with what the first one left.
    let output = turn(&world, "continue", &["rm binary"]);
    let changes = output.json()["changes"].clone();
    assert_eq!(paths(&changes), ["binary"], "{output}");
    let output = turn(&world, "continue", &[]);
    let changes = output.json()["changes"].clone();
    assert_eq!(changes["file_count"], 0, "{output}");
    assert!(!output.stderr().contains("changed"), "{output}");

    // The whole session, from its beginning.
    let since = run(&world, ["diff", "1", "--json"]).json()["changes"].clone();
    assert_eq!(
        paths(&since),
        ["a/b/new file.txt", "old.txt", "touched.txt", "untouched.txt"]
    );
    let index = std::fs::read(repo.join(".git/index")).unwrap();
    let names = run(&world, ["diff", "1", "--name-only"]);
    names.expect_status(0);
    assert_eq!(
        names.stdout(),
        "a/b/new file.txt\nold.txt\ntouched.txt\nuntouched.txt\n"
    );
    let patch = run(&world, ["diff", "1"]).stdout();
    assert!(
        patch.contains("-3\n+4\n+5\n") && patch.contains("+++ b/a/b/new file.txt"),
        "{patch}"
    );
    assert!(
        run(&world, ["diff", "1", "--stat"])
            .stdout()
            .contains("4 files changed")
    );
    assert_eq!(
        std::fs::read(repo.join(".git/index")).unwrap(),
        index,
        "the clone's index stays"
    );
}

/// The names of the clone's objects.
fn objects(repo: &Path) -> Vec<PathBuf> {
    files_below(&repo.join(".git/objects"))
}

#[test]
fn lines_of_earlier_turns_do_not_count_again() {
    let world = fake_world();
    let repo = world.repo();
    shell(
        &world,
        &repo,
        "printf '1\\n2\\n3\\n' > old.txt; mkdir folder; echo a > folder/a; echo gone > gone.txt; git add --all; \
         git commit --quiet --message Begin; \
         rm gone.txt; mv folder elsewhere; ln -s elsewhere folder; printf '4\\n5\\n' >> old.txt; \
         printf 'a\\nb\\nc\\n' > new.txt; echo kept > kept.txt; head -c 5000000 /dev/zero > big; git init --quiet empty",
    );
    let commands = [
        "echo 6 >> old.txt; echo d >> new.txt; touch elsewhere/a",
        "git add kept.txt; git commit --quiet --message 'Keep it' kept.txt",
    ];
    let output = turn(&world, "start", &commands);
    let changes = output.json()["changes"].clone();
    let expected = json!([
        {"path": "new.txt", "added": 1, "removed": 0},
        {"path": "old.txt", "added": 1, "removed": 0},
    ]);
    assert_eq!(changes["files"], expected, "{output}");
    assert_eq!(changes["commit_count"], 1, "{output}");

    let before = objects(&repo);
    let output = turn(
        &world,
        "continue",
        &["echo 7 >> old.txt; rm new.txt; echo 1 >> big"],
    );
    let changes = output.json()["changes"].clone();
    let expected = json!([
        {"path": "big"},
        {"path": "new.txt", "added": 0, "removed": 4},
        {"path": "old.txt", "added": 1, "removed": 0},
    ]);
    assert_eq!(changes["files"], expected, "{output}");
    assert_eq!(objects(&repo), before, "a comparison writes into the clone");
    let home = files_below(&world.kugetsu_home());
    let left: Vec<_> = home
        .iter()
        .filter(|path| path.iter().any(|name| name == "comparison"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_difference_leaves_the_clone_and_the_temporary_files_as_they_are() {
    let world = fake_world();
    let repo = world.repo();
    let commands = [
        "git init --quiet empty; git init --quiet full; git -C full commit --quiet --allow-empty --message Begin",
        "echo new > new.txt",
    ];
    turn(&world, "start", &commands);
    let before = objects(&repo);
    let names = run(&world, ["diff", "1", "--name-only"]);
    assert_eq!(names.expect_status(0).stdout(), "full\nnew.txt\n", "{names}");
    let changes = run(&world, ["diff", "1", "--json"]).json()["changes"].clone();
    assert_eq!(paths(&changes), ["empty/", "full/", "new.txt"]);
    assert_eq!(objects(&repo), before);

    // Ctrl-C while git prepares.
    let hangs = world.root().join("hangs");
    let script = format!(
        "case $word in add|update-index) : > {}; sleep 600;; esac",
        hangs.display()
    );
    let path = path_with_git(&world, &script);
    for arguments in [&["diff", "1"][..], &["diff", "1", "--json"]] {
        let running = start_in(&world, &[("PATH", &path)], arguments);
        world.wait_until("git hangs", SOON, || hangs.exists());
        running.signal(Signal::Interrupt);
        let output = running.wait(SOON);
        let left: Vec<_> = std::fs::read_dir(world.tmp()).unwrap().flatten().collect();
        let left: Vec<_> = left
            .iter()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("kugetsu-diff"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        output.expect_status(130);
        world.wait_nothing_left(SOON);
        std::fs::remove_file(&hangs).unwrap();
    }
}

fn shell(world: &World, folder: &Path, script: &str) {
    let mut command = world.command("sh");
    let status = command.args(["-ec", script]).current_dir(folder).status();
    assert!(status.unwrap().success(), "{script}");
}

/// The subjects of the commits.
fn subjects(changes: &Value) -> Vec<&str> {
    let commits = changes["commits"].as_array().map_or(&[][..], Vec::as_slice);
    commits
        .iter()
        .filter_map(|commit| commit["subject"].as_str())
        .collect()
}

#[test]
fn commits_of_others_are_not_the_sessions_own() {
    let commit = |file: &str| format!("echo {file} > {file}; git add {file}; git commit -q -m {file}");

    // A rebase onto the branch that the worktree came from, which is then fast-forwarded to the session's commit.
    let world = World::with_worktrees(Opencode::Fake);
    with_base(&world);
    let repo = world.repo();
    turn(&world, "start", &[&commit("own")]);
    shell(&world, &repo, &commit("theirs"));
    let branch = world.git(&repo, ["branch", "--show-current"]).stdout();
    let rebase = format!("git rebase -q {}", branch.trim());
    let output = turn(&world, "continue", &[&rebase, &commit("more")]);
    assert_eq!(subjects(&output.json()["changes"]), ["more", "own"], "{output}");
    for script in ["true", "git merge -q --ff-only kugetsu/1"] {
        shell(&world, &repo, script);
        let names = run(&world, ["diff", "1", "--name-only"]);
        assert_eq!(
            names.expect_status(0).stdout(),
            "more\nown\n",
            "{script}: {names}"
        );
        let changes = run(&world, ["diff", "1", "--json"]).json()["changes"].clone();
        assert_eq!(subjects(&changes), ["more", "own"], "{script}");
        assert_eq!(paths(&changes), ["more", "own"], "{script}");
    }

    // A session on the main branch that pulls what others have pushed, pushes, and pulls again.
    let world = fake_world();
    let repo = world.repo();
    let others = world.root().join("others");
    let publish = "git init -q --bare ../up.git; git remote add up ../up.git; git push -q -u up HEAD:main; \
                   git clone -q -b main ../up.git ../others";
    shell(&world, &repo, publish);
    shell(&world, &others, &format!("{}; git push -q", commit("theirs")));
    let pull = "git pull -q --rebase up main";
    let output = turn(
        &world,
        "start",
        &[&commit("own"), pull, "git push -q up HEAD:main", &commit("more")],
    );
    assert_eq!(subjects(&output.json()["changes"]), ["more", "own"], "{output}");
    shell(
        &world,
        &others,
        &format!("git pull -q; {}; git push -q", commit("new")),
    );
    let output = turn(&world, "continue", &[pull]);
    assert_eq!(subjects(&output.json()["changes"]), ["more"], "{output}");
}

#[test]
fn a_session_in_no_clone_has_no_changes() {
    let world = fake_world();
    std::fs::remove_dir_all(world.repo().join(".git")).unwrap();
    let reference = "github.com/shoko/kugetsu#1";
    let output = run(
        &world,
        [
            "start",
            reference,
            "hello",
            "--transport",
            "run",
            "--output",
            "json",
        ],
    );
    assert_eq!(output.expect_status(0).json()["changes"], Value::Null);
    let refused = run(&world, ["diff", reference]);
    refused.expect_status(66);
    assert!(refused.stderr().contains("no git clone"), "{refused}");
}

/// A `PATH` with a git that runs these commands of a shell for each of its words, and then the real git.
fn path_with_git(world: &World, for_each_word: &str) -> String {
    let folder = world.root().join("other-git");
    let path = std::env::var("PATH").unwrap();
    let script =
        format!("#!/bin/sh\nfor word in \"$@\"; do {for_each_word}; done\nPATH={path} exec git \"$@\"\n");
    std::fs::create_dir(&folder).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(folder.join("git"), script).unwrap();
    std::fs::set_permissions(folder.join("git"), std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{path}", folder.display())
}

#[test]
fn a_git_that_hangs_holds_a_turn_up_only_for_its_limit() {
    // Each command of the second one ends within the limit, but not all of them together.
    for git in [
        "[ \"$word\" = status ] && sleep 600",
        "case $word in status|rev-list|log|diff) sleep 4;; esac",
    ] {
        let world = fake_world();
        let path = path_with_git(&world, git);
        let steps = [
            Step::Shell("git commit --quiet --allow-empty --message Empty".to_owned()),
            Step::Answer("done".to_owned()),
        ];
        world.fake(&FakeScript::steps(steps));
        let output = run_in(
            &world,
            &[("PATH", &path)],
            &[
                "start",
                "github.com/shoko/kugetsu#1",
                "hello",
                "--transport",
                "run",
                "--output",
                "json",
            ],
        );
        output.expect_status(0);
        assert_eq!(output.json()["changes"], Value::Null, "{output}");
        world.wait_nothing_left(SOON);
    }
}

#[test]
fn refused_tool_calls_are_a_warning() {
    let world = fake_world();
    let steps = [
        Step::refused_tool("rm -rf target"),
        Step::Answer("went on".to_owned()),
    ];
    world.fake(&FakeScript::steps(steps));
    let output = run(
        &world,
        ["start", "1", "clean up", "--transport", "run", "--output", "json"],
    );
    let result = output.expect_status(0).json();
    assert_eq!(result["verdict"], "completed");
    let expected = json!({"count": 1, "calls": [{"tool": "bash", "call": "bash: rm -rf target"}]});
    assert_eq!(result["refused"], expected);
    assert_eq!(record(&world, "1").unwrap()["last"]["refused"], expected);
    let warning = "warning: 1 tool call was refused by the session's permissions:\n    bash: rm -rf target";
    assert!(output.stderr().contains(warning), "{output}");
    assert!(
        run(&world, ["show", "1"])
            .stdout()
            .contains("bash: rm -rf target")
    );
}

#[test]
fn the_record_keeps_the_prompt_unless_told_otherwise() {
    let world = fake_world();
    start(&world, "1", "\n  Mend the \u{1b}[31mparser\n\nand more");
    let last = |world: &World| record(world, "1").unwrap()["last"]["prompt"].clone();
    assert_eq!(last(&world), "\n  Mend the \u{1b}[31mparser\n\nand more");
    let shown = run(&world, ["show", "1", "--turns"]).stdout();
    assert_eq!(shown.matches("Mend the \u{1b}[31mparser").count(), 2, "{shown}");
    run(&world, ["continue", "1", "a secret plan", "--no-keep-prompt"]).expect_status(0);
    assert_eq!(last(&world), Value::Null);
    run_in(
        &world,
        &[("KUGETSU_KEEP_PROMPT", "false")],
        &["continue", "1", "another"],
    )
    .expect_status(0);
    assert_eq!(last(&world), Value::Null);
    let long = "é".repeat(20_000);
    run(&world, ["continue", "1", &long]).expect_status(0);
    let kept = last(&world);
    let kept = kept.as_str().unwrap();
    assert!(kept.ends_with("é…") && kept.len() < 17_000, "{}", kept.len());
}
