//! kugetsu's own git runs no program that a repository names, wherever a turn's tool has planted it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::git_attacks::{ATTACKS, Attack, FILES, Ground, HOOKS, HOOKS_PATH, PLAIN, tool};
use crate::support::kit::{REPO, SOON, fake_world, record_path, run_in, session_of, worktree_of};
use crate::support::terminal::Terminal;
use kugetsu_testing::{FakeScript, Opencode, Signal, Stdin, World};
use serde_json::Value;

/// Changes every file.
const CHANGE: &str = "for file in a.*; do echo more >> $file; done; echo new > new.clean";

fn world() -> World {
    let world = World::new(Opencode::Fake);
    world.fake(&FakeScript::serving());
    fs::create_dir_all(world.kugetsu_home()).unwrap();
    fs::write(world.kugetsu_home().join("config.toml"), "transport = \"run\"\n").unwrap();
    world
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A base and a session with a worktree.
fn begin(ground: &Ground<'_>) -> PathBuf {
    ground.run(&["init"]).expect_status(0);
    ground.run(&["start", "14", "hi", "--worktree"]).expect_status(0);
    worktree_of(ground.world, "14")
}

/// Puts commits on the branches of clone and worktree, which change both ends of the same file.
fn part_ways(ground: &Ground<'_>, tree: &Path) {
    for (folder, line, file) in [(tree, "first", "theirs"), (&ground.world.repo(), "last", "ours")] {
        let merged = fs::read_to_string(folder.join("a.merge")).unwrap();
        let changed = merged.replace(line, file);
        fs::write(folder.join("a.merge"), changed).unwrap();
        fs::write(folder.join(file), file).unwrap();
        let commit = format!("{PLAIN} add a.merge {file} && {PLAIN} commit --quiet --message {file}");
        ground.shell(folder, &commit).expect_status(0);
    }
    ground.forget();
}

/// Every command, with everything planted, in a clone that was hostile before its first use.
fn nothing_runs(hooks: &'static Attack) {
    let world = world();
    let attacks = ATTACKS.iter().chain([hooks]).collect();
    let ground = Ground::new(&world, attacks);
    world.fake(&tool(&[("plant", &ground.planting()), ("change", CHANGE)]));
    ground.shell(&world.repo(), &ground.planting());
    ground.forget();

    ground.run(&["init"]).expect_status(0);
    let started = ground.run(&["start", "14", "plant", "--worktree"]);
    started.expect_status(0);
    let says = "only the configuration of the clone has the filter";
    assert!(started.stderr().contains(says), "{started}");
    let tree = worktree_of(&world, "14");
    let read = |file: &str| fs::read_to_string(tree.join(file)).unwrap();
    // The user's own filter ran, although the clone's configuration names it as well.
    assert!(read("a.lfs").contains("worked"), "{}", read("a.lfs"));
    assert!(
        ground
            .shell(&tree, "git cat-file blob HEAD:a.lfs")
            .stdout()
            .contains("stored")
    );

    part_ways(&ground, &tree);
    let rebased = ground.run(&["signal", "14", "rebase", "--json"]);
    assert_eq!(rebased.expect_status(0).json()["result"], "rebased", "{rebased}");
    assert!(read("a.merge").starts_with("theirs\n") && read("a.merge").ends_with("ours\n"));

    let changed = ground.run(&["continue", "14", "change", "--output", "json"]);
    let changes = changed.expect_status(0).json()["changes"].clone();
    assert_eq!(changes["file_count"], FILES.len() as u64 + 1, "{changed}");
    let lfs = changes["files"]
        .as_array()
        .unwrap()
        .iter()
        .find(|file| file["path"] == "a.lfs");
    assert_eq!(
        lfs.unwrap()["added"],
        1,
        "the user's filter was not asked\n{changed}"
    );
    let changed = ground.run(&["start", "15", "change"]);
    changed.expect_status(0);
    for words in [
        &["show", "14"][..],
        &["list"],
        &["query"],
        &["diff", "14"],
        &["diff", "14", "--stat"],
        &["diff", "14", "--json"],
        &["gc"],
        &["doctor"],
        &["doctor", "--fix"],
    ] {
        ground.run(words).expect_status(0);
    }

    ground.run(&["destroy", "14", "-y"]).expect_status(2);
    ground.run(&["destroy", "14", "-y", "--force"]).expect_status(0);
    assert!(!tree.exists());
    ground.run(&["restore", "14"]).expect_status(0);
    for file in FILES {
        assert!(read(file).ends_with("more\n"), "{file}: {}", read(file));
    }
    assert!(read("a.lfs").contains("worked"), "{}", read("a.lfs"));

    ground.run(&["start", "16", "hi", "--worktree"]).expect_status(0);
    let gone = session_of(&world, "16");
    world.sql_write(&format!("DELETE FROM session WHERE id = '{gone}'"));
    ground.run(&["prune", "--force"]).expect_status(0);
    assert!(!worktree_of(&world, "16").exists());

    // The worktree is gone, and `continue` makes it again.
    fs::remove_dir_all(&tree).unwrap();
    ground.run(&["continue", "14", "hi"]).expect_status(0);
    assert!(tree.exists());

    // The clone moves, with the worktree in it.
    let moved = world.root().join("moved");
    fs::rename(world.repo(), &moved).unwrap();
    let output = ground.world.start(
        {
            let mut command = ground.kugetsu(&["move", "--repo", REPO, "--dir", text(&moved)]);
            command.current_dir(&moved);
            command
        },
        Stdin::Null,
    );
    output.wait(SOON).expect_status(0);
    assert_eq!(ground.ran(), Vec::<String>::new());
    fs::rename(&moved, world.repo()).unwrap();

    // All of this would have run.
    ground.shell(
        &world.repo(),
        "git worktree repair .worktrees/github.com/shoko/kugetsu/14",
    );
    ground.shell(&tree, &ground.planting());
    ground.fire(&tree, &tree);
}

#[test]
fn nothing_that_a_repository_names_runs_with_hooks_in_the_clone() {
    nothing_runs(&HOOKS);
}

#[test]
fn nothing_that_a_repository_names_runs_with_a_folder_of_hooks() {
    nothing_runs(&HOOKS_PATH);
}

/// Nothing of the world but a filter is planted, so no other attack hides it.
#[test]
fn the_users_own_filter_has_its_time_and_leaves_nothing() {
    let world = world();
    let ground = Ground::new(&world, Vec::new());
    ground.run(&["init"]).expect_status(0);
    // What the filter leaves holds git's output.
    ground.configure_user("[filter \"lfs\"]\nsmudge = setsid sleep 100000 > /dev/null & cat\nclean = cat\n");
    ground.run(&["start", "14", "hi", "--worktree"]).expect_status(0);
    world.wait_nothing_left(SOON);

    let hangs = world.root().join("hangs");
    ground.configure_user(&format!(
        "[filter \"lfs\"]\nsmudge = touch {}; trap '' TERM; sleep 100000\nclean = cat\n",
        hangs.display()
    ));
    for (issue, signal, status) in [("15", Signal::Terminate, 143), ("16", Signal::Interrupt, 130)] {
        let running = world.start(ground.kugetsu(&["start", issue, "hi", "--worktree"]), Stdin::Null);
        world.wait_until("the filter runs", SOON, || hangs.exists());
        running.signal(signal);
        running.wait(SOON).expect_status(status);
        world.wait_nothing_left(SOON);
        fs::remove_file(&hangs).unwrap();
    }
    ground.configure_user("");
    ground.run(&["start", "15", "hi", "--worktree"]).expect_status(0);
    assert!(worktree_of(&world, "15").join("a.lfs").exists());
}

/// git-lfs runs as a process that git talks to. It runs wherever git needs it, also where the clone names another one.
#[test]
fn a_long_running_filter_of_the_user_works() {
    let world = world();
    let ground = Ground::new(&world, Vec::new());
    let journal = world.root().join("filtered");
    ground.configure_user(&format!(
        "[filter \"lfs\"]\nprocess = '{}' git-filter '{}'\nrequired = true\n",
        kugetsu_testing::fake_binary().display(),
        journal.display()
    ));
    let plant = format!(
        "git config filter.lfs.process '{} process'",
        ground.evil().display()
    );
    ground.shell(&world.repo(), &plant).expect_status(0);
    let commands = || {
        let text = fs::read_to_string(&journal).unwrap_or_default();
        let _ = fs::remove_file(&journal);
        text
    };
    ground.run(&["init"]).expect_status(0);
    ground.run(&["start", "14", "hi", "--worktree"]).expect_status(0);
    let tree = worktree_of(&world, "14");
    let read = || fs::read_to_string(tree.join("a.lfs")).unwrap();
    assert!(read().contains("worked"), "{}", read());
    assert!(commands().contains("smudge"));

    // The other branch changes the file.
    fs::write(
        world.repo().join("a.lfs"),
        read().replace("first", "ours, worked"),
    )
    .unwrap();
    let users = "git -c filter.lfs.process=\"$(git config --global filter.lfs.process)\"";
    let commit = format!("{users} add a.lfs && {users} commit --quiet --message ours");
    ground.shell(&world.repo(), &commit).expect_status(0);
    let stored = ground
        .shell(&world.repo(), "git cat-file blob HEAD:a.lfs")
        .stdout();
    assert!(stored.starts_with("ours, stored"), "{stored}");
    commands();
    let rebased = ground.run(&["signal", "14", "rebase", "--json"]);
    assert_eq!(rebased.expect_status(0).json()["result"], "rebased", "{rebased}");
    assert!(read().starts_with("ours, worked"), "{}", read());
    assert!(commands().contains("smudge"));

    // The work is saved as git stores it, and comes back as it was.
    fs::write(tree.join("a.lfs"), read() + "more, worked\n").unwrap();
    let before = read();
    ground
        .run(&["destroy", "14", "--yes", "--force"])
        .expect_status(0);
    assert!(commands().contains("clean"));
    ground.run(&["restore", "14"]).expect_status(0);
    assert_eq!(read(), before);
    assert!(commands().contains("smudge"));
    world.wait_nothing_left(SOON);
    ground.shell(&tree, "touch a.lfs; git diff");
    assert_eq!(ground.ran(), ["process"], "plain git runs the one of the clone");
}

/// A hook that takes long, and leaves a process that holds git's output.
#[test]
fn a_slow_hook_of_the_clone_holds_nothing_up() {
    let world = world();
    let ground = Ground::new(&world, Vec::new());
    ground.run(&["init"]).expect_status(0);
    let begun = world.root().join("begun");
    let hook = format!(
        "#!/bin/sh\ntouch '{}'\ntrap '' TERM\nsetsid sleep 100000 &\nsleep 100000\n",
        begun.display()
    );
    for name in ["post-checkout", "reference-transaction"] {
        let path = world.repo().join(".git/hooks").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &hook).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    ground.run(&["start", "14", "hi", "--worktree"]).expect_status(0);
    world.wait_nothing_left(SOON);
    // A filter of the user may run, and ends with the command. No hook runs while git ends.
    let hangs = world.root().join("hangs");
    ground.configure_user(&format!(
        "[filter \"lfs\"]\nsmudge = touch '{}'; setsid sleep 100000 & trap '' TERM; sleep 100000\nclean = cat\n",
        hangs.display()
    ));
    let running = world.start(ground.kugetsu(&["start", "15", "hi", "--worktree"]), Stdin::Null);
    world.wait_until("the filter runs", SOON, || hangs.exists());
    running.signal(Signal::Terminate);
    running.wait(SOON).expect_status(143);
    world.wait_nothing_left(SOON);
    assert!(!begun.exists(), "a hook ran");
    let mut plain = world.command("git");
    plain.args(["branch", "other"]);
    let plain = world.start(plain, Stdin::Null);
    world.wait_until("the hook runs", SOON, || begun.exists());
    plain.kill9();
}

#[test]
fn the_pager_of_a_clone_shows_no_difference() {
    let world = world();
    let ground = Ground::new(&world, Vec::new());
    world.fake(&tool(&[("change", CHANGE)]));
    let tree = begin(&ground);
    ground.run(&["continue", "14", "change"]).expect_status(0);
    let evil = ground.evil();
    ground.shell(
        &tree,
        &format!(
            "git config core.pager '{0} pager'; git config pager.diff '{0} pager'",
            evil.display()
        ),
    );
    let shown = |shell: &str| {
        let terminal = Terminal::start(&world, shell);
        world.wait_until("it ends", SOON, || terminal.ended().is_some());
        terminal.ended().unwrap()
    };
    let kugetsu = kugetsu_testing::kugetsu_binary();
    assert_eq!(
        shown(&format!("env PAGER=cat {} diff 14", kugetsu.display())),
        "0"
    );
    assert_eq!(ground.ran(), Vec::<String>::new());
    shown(&format!("git -C {} diff", tree.display()));
    assert_eq!(ground.ran(), ["pager"]);
}

/// `.git` in the worktree names a repository of the attacker.
#[test]
fn a_worktree_that_was_given_another_repository_runs_nothing() {
    let world = world();
    let ground = Ground::new(&world, Vec::new());
    let elsewhere = world.root().join("elsewhere");
    let plant = format!(
        "git init --quiet --bare {0} && git -C {0} config core.bare false
         git -C {0} config core.worktree \"$PWD\"
         git -C {0} config filter.evil-clean.clean '{1} clean pass'
         echo 'gitdir: {0}' > .git; git add --all; echo more >> a.clean",
        elsewhere.display(),
        ground.evil().display()
    );
    world.fake(&tool(&[("plant", &plant)]));
    let tree = begin(&ground);
    ground.turn(&["continue", "14", "plant"]).expect_status(0);
    ground.forget();
    for words in [
        &["continue", "14", "hi"][..],
        &["show", "14"],
        &["diff", "14"],
        &["signal", "14", "rebase"],
        &["doctor", "--fix"],
        &["destroy", "14", "-y"],
        &["destroy", "14", "-y", "--force"],
    ] {
        ground.run(words);
    }
    if tree.exists() {
        ground.shell(&tree, "git hash-object a.clean");
        assert_eq!(ground.ran(), ["clean"]);
    }
}

/// A bare repository in a folder is one as well for git, with a configuration of its own.
#[test]
fn a_bare_repository_in_the_folder_runs_nothing() {
    let world = world();
    let ground = Ground::new(&world, Vec::new());
    let folder = world.repo().join("below");
    let plant = format!(
        "git init --quiet --bare below && cd below && git config core.bare false && git config core.worktree .
         echo '* filter=x' > info/attributes; echo hi > file; git add file && git commit --quiet --message file
         git config filter.x.clean '{} clean pass'; echo ho > file",
        ground.evil().display()
    );
    ground.shell(&world.repo(), &plant).expect_status(0);
    ground
        .run(&[
            "init",
            "--dir",
            text(&folder),
            "--repo",
            "github.com/shoko/kugetsu",
        ])
        .expect_status(0);
    ground
        .run(&["start", "14", "hi", "--no-worktree"])
        .expect_status(0);
    ground.run(&["continue", "14", "hi"]).expect_status(0);
    ground.run(&["start", "15", "hi", "--worktree"]);
    ground.run(&["doctor", "--fix"]);
    ground.shell(&folder, "git diff --exit-code");
    assert_eq!(ground.ran(), ["clean"]);
}

/// The files of a commit go into the worktree, and not into the folder that its configuration names.
#[test]
fn a_rebase_writes_into_the_worktree_alone() {
    let world = world();
    let ground = Ground::new(&world, Vec::new());
    let victim = world.root().join("victim");
    fs::create_dir(&victim).unwrap();
    let tree = begin(&ground);
    part_ways(&ground, &tree);
    let copy = format!(
        "cp -r a.* README.md notes.txt theirs .gitattributes {0}",
        victim.display()
    );
    ground.shell(&tree, &copy).expect_status(0);
    let plant = format!(
        "git config extensions.worktreeConfig true; git config --worktree core.worktree {}",
        victim.display()
    );
    ground.shell(&tree, &plant).expect_status(0);
    ground.run(&["signal", "14", "rebase"]).expect_status(0);
    assert!(tree.join("ours").exists());
    assert!(!victim.join("ours").exists());
    ground.shell(&tree, "git checkout --quiet --force --detach main");
    assert!(victim.join("ours").exists(), "plain git writes there");
}

/// A submodule has a configuration of its own.
#[test]
fn a_submodule_runs_nothing() {
    let world = world();
    let ground = Ground::new(&world, Vec::new());
    let plant = format!(
        "git init --quiet sub && cd sub && echo '* filter=x' > .gitattributes && echo hi > file && git add --all
         git commit --quiet --message sub && cd .. && git add sub && git commit --quiet --message sub
         cd sub && git config filter.x.clean '{} clean pass' && git config core.fsmonitor '{0} clean'
         touch -d '1 hour ago' file; cd ..
         git config submodule.recurse true; git config diff.submodule diff; git config status.submoduleSummary true
         git config -f .gitmodules submodule.sub.path sub; git config submodule.sub.update '!{0} update'",
        ground.evil().display()
    );
    world.fake(&tool(&[("plant", &plant), ("change", "echo more >> sub/file")]));
    begin(&ground);
    ground.turn(&["continue", "14", "plant"]).expect_status(0);
    ground.forget();
    ground.run(&["continue", "14", "change"]).expect_status(0);
    ground.run(&["diff", "14"]).expect_status(0);
    ground.run(&["signal", "14", "rebase"]);
    let refused = ground.run(&["destroy", "14", "-y"]);
    assert!(refused.expect_status(2).stderr().contains("sub"), "{refused}");
    let refused = ground.run(&["destroy", "14", "-y", "--force"]);
    assert!(
        refused
            .expect_status(64)
            .stderr()
            .contains("a submodule with changes"),
        "{refused}"
    );
    ground.shell(&worktree_of(&world, "14"), "git status");
    assert_eq!(ground.ran(), ["clean"]);
}

/// git fetches an object that a partial clone lacks, with the program that its configuration names.
#[test]
fn a_missing_object_is_fetched_with_no_program_of_the_clone() {
    let world = world();
    let ground = Ground::new(&world, Vec::new());
    ground.run(&["init"]).expect_status(0);
    let repo = world.repo();
    let missing = "1234567890123456789012345678901234567890";
    let commit = format!(
        "tree=$(printf '100644 blob {missing}\\tlazy\\n' | git mktree --missing)
         git update-ref refs/heads/lazy $(git commit-tree -m lazy -p HEAD $tree)
         git config remote.evil.promisor true; git config remote.evil.url ssh://127.0.0.1:9/x"
    );
    ground.shell(&repo, &commit).expect_status(0);
    for (issue, key) in [("14", "core.sshCommand"), ("15", "remote.evil.uploadpack")] {
        let plant = format!(
            "git config {key} '{} lazy'; git config remote.evil.url '{}'",
            ground.evil().display(),
            if issue == "14" {
                "ssh://127.0.0.1:9/x"
            } else {
                text(&repo)
            }
        );
        ground.shell(&repo, &plant).expect_status(0);
        ground
            .run(&["start", issue, "hi", "--worktree", "--from", "lazy"])
            .expect_status(1);
        ground.shell(&repo, &format!("git cat-file blob {missing}"));
        assert_eq!(ground.ran(), ["lazy"], "{key}");
        ground.forget();
    }
}

#[test]
fn a_name_is_never_an_option_of_git() {
    let world = world();
    let ground = Ground::new(&world, Vec::new());
    let tree = begin(&ground);
    let written = world.root().join("written");
    let option = format!("--output={}", written.display());
    for words in [
        vec!["--branch", "--upload-pack=evil"],
        vec!["--branch", "-"],
        vec!["--from", &option],
    ] {
        let begin = ["start", "15", "hi", "--worktree"];
        let words: Vec<_> = begin.into_iter().chain(words).collect();
        let refused = ground.run(&words);
        assert!([2, 64].contains(&refused.code()), "{refused}");
    }
    ground
        .run(&["--host", "-oProxyCommand=touch written", "list"])
        .expect_status(64);
    // A remote that is called like an option.
    ground.shell(
        &world.repo(),
        "git config --rename-section remote.origin remote.--push",
    );
    ground.run(&["start", "15", "hi"]).expect_status(0);

    // A record that a tool has changed.
    let path = record_path(&world, "14");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["worktree"]["base_commit"] = option.clone().into();
    fs::write(&path, record.to_string()).unwrap();
    let refused = ground.run(&["diff", "14"]);
    assert!(
        refused.expect_status(1).stderr().contains("is not there"),
        "{refused}"
    );
    ground.run(&["diff", "14", "--json"]).expect_status(1);
    ground.run(&["signal", "14", "rebase"]).expect_status(0);
    fs::remove_dir_all(&tree).unwrap();
    ground.shell(&world.repo(), "git worktree prune; git branch -D kugetsu/14");
    record["worktree"]["branch"] = "--force".into();
    fs::write(&path, record.to_string()).unwrap();
    let again = ground.run(&["continue", "14", "hi"]);
    assert_ne!(again.code(), 0, "{again}");
    ground.run(&["destroy", "14", "-y", "--force"]);
    assert!(!written.exists());
}

#[test]
fn a_git_that_is_too_old_to_be_kept_from_programs_is_told() {
    let world = fake_world();
    let base = session_of(&world, "base");
    let folder = world.root().join("old-git");
    let path = std::env::var("PATH").unwrap();
    fs::create_dir(&folder).unwrap();
    let words = ["init", "--force", "--adopt", &base];
    for (version, is_old) in [
        ("2.30.2", true),
        ("2.31.0", false),
        ("1.9.1", true),
        ("3.0.0", false),
    ] {
        fs::write(
            folder.join("git"),
            format!(
                "#!/bin/sh\nfor word in \"$@\"; do [ \"$word\" = --version ] && exec echo git version {version}; done\n\
                 PATH='{path}' exec git \"$@\"\n"
            ),
        )
        .unwrap();
        fs::set_permissions(folder.join("git"), PermissionsExt::from_mode(0o755)).unwrap();
        let variables = [("PATH", format!("{}:{path}", folder.display()))];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        for words in [&words[..], &["doctor"]] {
            let said = run_in(&world, &variables, words);
            let told = (said.stdout() + &said.stderr()).contains("runs programs that a repository names");
            assert_eq!(told, is_old, "{version}: {said}");
        }
    }
}
