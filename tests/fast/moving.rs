//! Clones that move, and what the trash can bring back. That a tool runs in the new folder is for `real/keeping.rs`.

use std::path::Path;

use crate::support::kit::{
    SOON, hold_lease, record, refused, run, run_in, scripted_world, serving_world, session_of, start, text,
};
use kugetsu_testing::{FakeScript, Stdin, Step, World};
use serde_json::json;

/// A command whose current folder is not the clone.
#[track_caller]
fn elsewhere(world: &World, arguments: &[&str]) -> kugetsu_testing::Output {
    let mut command = world.kugetsu(arguments);
    command.current_dir(world.root()).env("KUGETSU_TRANSPORT", "run");
    world.finish(command, Stdin::Null)
}

fn directory_of(world: &World, issue: &str) -> String {
    text(&record(world, issue).unwrap()["directory"])
}

const REPO: &str = "github.com/shoko/kugetsu";

/// Moves the clone of the world. Returns its new folder.
fn move_clone(world: &World) -> String {
    let new = world.root().join("moved").join("clone");
    std::fs::create_dir_all(new.parent().unwrap()).unwrap();
    std::fs::rename(world.repo(), &new).unwrap();
    new.canonicalize().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn sessions_follow_a_clone_that_moved() {
    let world = serving_world();
    run(&world, ["init"]).expect_status(0);
    for (issue, more) in [
        ("1", "--no-worktree"),
        ("2", "--worktree"),
        ("3", "--no-worktree"),
    ] {
        run(&world, ["start", issue, more, "--transport", "run", "work"]).expect_status(0);
    }
    let trees = world.root().join("trees");
    let outside = [
        ("KUGETSU_WORKTREE_ROOT", trees.to_str().unwrap()),
        ("KUGETSU_TRANSPORT", "run"),
    ];
    run_in(&world, &outside, &["start", "5", "--worktree", "work"]).expect_status(0);
    let outside = trees.join(REPO).join("5");
    let old = world.repo();
    let worktree = old.join(".worktrees").join(REPO).join("2");
    std::fs::write(worktree.join("draft.txt"), "not committed").unwrap();
    let new = move_clone(&world);

    // Each error names the command, and doctor promises nothing.
    let checks = elsewhere(&world, &["doctor", "--json"]).json().to_string();
    let gone = "if the clone has moved: kugetsu move github.com/shoko/kugetsu#2 --dir FOLDER";
    assert!(
        checks.contains(gone) && !checks.contains("the next continue"),
        "{checks}"
    );
    let one = format!("{REPO}#1");
    for (issue, words) in [
        ("1", "move github.com/shoko/kugetsu#1 --dir"),
        ("2", "kugetsu move REF --dir"),
    ] {
        let before = record(&world, issue);
        let lost = elsewhere(&world, &["continue", &format!("{REPO}#{issue}"), "go on"]);
        lost.expect_status(66);
        assert_eq!(record(&world, issue), before);
        assert!(lost.stderr().contains(words), "{lost}");
    }
    // Another clone is refused, also after a `continue` that has looked for the worktree.
    let fresh = world.clone_repo("fresh", "https://github.com/shoko/kugetsu.git");
    let fresh = [
        "move",
        "github.com/shoko/kugetsu#2",
        "--dir",
        fresh.to_str().unwrap(),
    ];
    let lost = elsewhere(&world, &fresh);
    lost.expect_status(64);
    assert!(
        lost.stderr().contains("git fetch origin kugetsu/2:kugetsu/2"),
        "{lost}"
    );
    let lost = elsewhere(&world, &["start", &format!("{REPO}#4"), "begin"]);
    assert!(
        lost.stderr()
            .contains("kugetsu move --repo github.com/shoko/kugetsu"),
        "{lost}"
    );

    // Refused: a session in use, what is not a folder, a clone of something else.
    let other = world.clone_repo("other", "https://github.com/acme/other.git");
    let other = other.to_str().unwrap();
    let before = record(&world, "1");
    let refusals = [
        (vec!["move", &one, "--dir", "/nowhere"], "not a folder"),
        (vec!["move", &one, "--dir", other], "acme/other"),
        (vec!["move", "--repo", REPO, "--dir", other], "acme/other"),
        (vec!["move", "--dir", &new], "REF"),
        (vec!["move", &one, "--repo", REPO, "--dir", &new], "--repo"),
    ];
    for (words, says) in refusals {
        let output = elsewhere(&world, &words);
        output.expect_status(64);
        assert!(output.stderr().contains(says), "{output}");
    }
    let lease = hold_lease(&world, "3", "continue");
    for words in [
        vec!["move", "--repo", REPO, "--dir", &new],
        vec!["move", "github.com/shoko/kugetsu#3", "--dir", &new],
    ] {
        elsewhere(&world, &words).expect_status(75);
    }
    drop(lease);
    assert_eq!(record(&world, "1"), before, "nothing was changed");

    // One session, then all of them; again changes nothing.
    elsewhere(&world, &["move", &one, "--dir", "moved/clone"]).expect_status(0);
    assert_eq!(directory_of(&world, "1"), new);
    let all = elsewhere(&world, &["move", "--repo", REPO, "--dir", &new, "--json"]).json();
    let moved = all["moved"].as_array().unwrap();
    assert_eq!(moved.len(), 4, "{all}");
    assert_eq!((&moved[0]["ref"], &moved[0]["to"]), (&json!(REPO), &json!(new)));
    let records = ["1", "2", "3", "5"].map(|issue| record(&world, issue));
    let again = elsewhere(&world, &["move", "--repo", REPO, "--dir", &new]);
    again.expect_status(0);
    assert!(again.stdout().contains("is in"), "{again}");
    elsewhere(&world, &["move", "github.com/shoko/kugetsu#2", "--dir", &new]).expect_status(0);
    assert_eq!(["1", "2", "3", "5"].map(|issue| record(&world, issue)), records);

    let worktree = Path::new(&new).join(".worktrees").join(REPO).join("2");
    assert_eq!(directory_of(&world, "2"), worktree.to_str().unwrap());
    for (issue, folder) in [("1", &*new), ("2", worktree.to_str().unwrap()), ("3", &new)] {
        assert_eq!(world.session(&session_of(&world, issue)).directory, folder);
        elsewhere(&world, &["continue", &format!("{REPO}#{issue}"), "go on"]).expect_status(0);
        let call = world
            .fake_calls()
            .into_iter()
            .rfind(|call| call.prompt.is_some())
            .unwrap();
        assert_eq!(call.directory.to_str().unwrap(), folder);
    }
    // git knows the worktree again, with its work.
    world.git(&outside, ["status"]);
    let status = world.git(&worktree, ["status", "--porcelain"]).stdout();
    assert!(status.contains("draft.txt"), "{status}");
    let listed = world.git(Path::new(&new), ["worktree", "list"]).stdout();
    assert!(
        listed.contains(worktree.to_str().unwrap()) && !listed.contains("prunable"),
        "{listed}"
    );
    elsewhere(&world, &["start", &format!("{REPO}#4"), "begin"]).expect_status(0);
    // Sessions that were destroyed before the next move come back where the base is then.
    for issue in ["1", "2"] {
        let words = ["destroy", &format!("{REPO}#{issue}"), "-y", "--force"];
        elsewhere(&world, &words).expect_status(0);
    }
    let newer = world.root().join("newer");
    std::fs::rename(&new, &newer).unwrap();
    let newer = newer.canonicalize().unwrap();
    let words = ["move", "--repo", REPO, "--dir", newer.to_str().unwrap()];
    elsewhere(&world, &words).expect_status(0);
    let worktree = newer.join(".worktrees").join(REPO).join("2");
    for (issue, folder) in [("1", &newer), ("2", &worktree)] {
        elsewhere(&world, &["restore", &format!("{REPO}#{issue}")]).expect_status(0);
        assert_eq!(directory_of(&world, issue), folder.to_str().unwrap());
        let row = world.session(&session_of(&world, issue));
        assert_eq!(row.directory, folder.to_str().unwrap());
    }
    assert!(worktree.join("draft.txt").exists());
    elsewhere(&world, &["continue", &format!("{REPO}#2"), "go on"]).expect_status(0);
    world.wait_nothing_left(SOON);
}

/// Adds a session as opencode's own subagents have them: with a parent, and in a directory of its own.
fn add_subagent(world: &World, id: &str, parent: &str, directory: &str) {
    let columns: Vec<_> = world
        .sql("SELECT name FROM pragma_table_info('session')")
        .into_iter()
        .map(|row| text(&row[0]))
        .collect();
    let values: Vec<_> = columns
        .iter()
        .map(|column| match column.as_str() {
            "id" => format!("'{id}'"),
            "parent_id" => format!("'{parent}'"),
            "directory" => format!("'{directory}'"),
            _ => column.clone(),
        })
        .collect();
    world.sql_write(&format!(
        "INSERT INTO session ({}) SELECT {} FROM session WHERE id = '{parent}'",
        columns.join(", "),
        values.join(", ")
    ));
}

#[test]
fn a_move_that_failed_can_be_repeated_and_each_session_keeps_its_path_below_the_clone() {
    let world = serving_world();
    run(&world, ["init"]).expect_status(0);
    let old = world.repo();
    let (inside, outside) = (old.join("mine"), world.root().join("outside"));
    for folder in [&inside, &outside] {
        let folder = folder.to_str().unwrap();
        world.git(&old, ["worktree", "add", "--quiet", folder]);
    }
    for (issue, folder, more) in [
        ("1", &old, Some("--no-worktree")),
        ("2", &inside, None),
        ("3", &outside, None),
        ("4", &old, Some("--worktree")),
    ] {
        let mut command = world.kugetsu(["start", issue, "work"]);
        command
            .args(more)
            .current_dir(folder)
            .env("KUGETSU_TRANSPORT", "run");
        world.finish(command, Stdin::Null).expect_status(0);
    }
    assert_eq!(directory_of(&world, "2"), inside.to_str().unwrap());
    assert_eq!(directory_of(&world, "3"), outside.to_str().unwrap());
    let session = session_of(&world, "1");
    let below = old.join("crates");
    add_subagent(&world, "ses_sub", &session, old.to_str().unwrap());
    add_subagent(&world, "ses_subsub", "ses_sub", below.to_str().unwrap());
    add_subagent(&world, "ses_far", "ses_sub", "/somewhere/else");

    let new = move_clone(&world);
    let repo = Path::new(&new);
    // The last of the sessions cannot be moved.
    let rename = |from: &str, to: &str| {
        world.git(repo, ["update-ref", &format!("refs/heads/{to}"), from]);
        world.git(repo, ["update-ref", "-d", &format!("refs/heads/{from}")]);
    };
    rename("kugetsu/4", "elsewhere");
    let words = ["move", "--repo", REPO, "--dir", &new];
    let failed = elsewhere(&world, &words);
    assert!(failed.stderr().contains("no branch kugetsu/4"), "{failed}");
    rename("elsewhere", "kugetsu/4");

    let moved = elsewhere(&world, &[&words[..], &["--json"]].concat())
        .expect_status(0)
        .json();
    let left = json!([{ "ref": format!("{REPO}#3"), "directory": outside }]);
    assert_eq!(moved["left"], left, "{moved}");
    for (issue, folder) in [
        ("1", repo.to_owned()),
        ("2", repo.join("mine")),
        ("3", outside.clone()),
        ("4", repo.join(".worktrees").join(REPO).join("4")),
    ] {
        assert_eq!(directory_of(&world, issue), folder.to_str().unwrap());
        let row = world.session(&session_of(&world, issue));
        assert_eq!(row.directory, folder.to_str().unwrap(), "{issue}");
    }
    for (id, folder) in [
        ("ses_sub", new.clone()),
        ("ses_subsub", format!("{new}/crates")),
        ("ses_far", "/somewhere/else".to_owned()),
    ] {
        assert_eq!(world.session(id).directory, folder, "{id}");
    }
    // git knows the person's worktree in its new place, too.
    world.git(&repo.join("mine"), ["status"]);
    let again = elsewhere(&world, &words);
    again.expect_status(0);
    let says = format!("{REPO}#3 stays in {}", outside.display());
    assert!(again.stdout().contains(&says), "{again}");
}

#[test]
fn a_base_in_a_subfolder_is_found_from_the_top_of_the_clone() {
    let world = serving_world();
    let sub = world.repo().join("crates");
    std::fs::create_dir(&sub).unwrap();
    std::fs::write(sub.join("file"), "").unwrap();
    world.git(&world.repo(), ["add", "."]);
    world.git(&world.repo(), ["commit", "--quiet", "--message", "Add a folder"]);
    run(&world, ["init", "--dir", sub.to_str().unwrap()]).expect_status(0);
    for (issue, more) in [("1", "--worktree"), ("2", "--no-worktree")] {
        run(&world, ["start", issue, more, "--transport", "run", "work"]).expect_status(0);
    }
    let new = move_clone(&world);
    // The base follows from a session that has moved already as well.
    elsewhere(&world, &["move", &format!("{REPO}#1"), "--dir", &new]).expect_status(0);
    let words = ["move", "--repo", REPO, "--dir", &new, "--json"];
    let moved = elsewhere(&world, &words).expect_status(0).json();
    assert_eq!(moved["moved"][0]["to"], json!(format!("{new}/crates")), "{moved}");
    let worktree = format!("{new}/.worktrees/{REPO}/1/crates");
    assert_eq!(directory_of(&world, "1"), worktree);
    assert_eq!(directory_of(&world, "2"), format!("{new}/crates"));
    elsewhere(&world, &["start", &format!("{REPO}#3"), "begin"]).expect_status(0);
}

#[test]
fn the_trash_says_what_it_can_bring_back() {
    let world = scripted_world(&FakeScript::default().on("hello", [Step::Answer("hi".to_owned())]));
    assert!(run(&world, ["trash", "list"]).stderr().contains("empty"));
    start(&world, "1", "hello");
    start(&world, "2", "hello");
    run(&world, ["destroy", "1", "-y"]).expect_status(0);
    for words in [
        vec!["show", "1"],
        vec!["continue", "1", "more"],
        vec!["logs", "1"],
    ] {
        refused(
            &world,
            &words,
            66,
            &["was destroyed on", "kugetsu restore", "kugetsu start"],
        );
    }
    // opencode lost the other session, so `prune` has no more of it than its record.
    let gone = session_of(&world, "2");
    world
        .finish(world.opencode_command(["session", "delete", &gone]), Stdin::Null)
        .expect_status(0);
    run(&world, ["prune", "--force"]).expect_status(0);
    let output = run(&world, ["show", "2"]);
    output.expect_status(66);
    assert!(!output.stderr().contains("restore"), "{output}");
    let listed = run(&world, ["trash", "list", "--json"]).json();
    let entries = listed["entries"].as_array().unwrap();
    let of = |at: usize| (entries[at]["ref"].clone(), entries[at]["restorable"].clone());
    assert_eq!(of(0), (json!(format!("{REPO}#1")), json!(true)));
    assert_eq!(of(1), (json!(format!("{REPO}#2")), json!(false)));
    assert!(entries[0]["size_bytes"].as_u64().unwrap() > 500);
    let table = run(&world, ["trash", "list"]).stdout();
    assert!(
        table.contains("RESTORE") && table.contains("prune: opencode no longer"),
        "{table}"
    );
    refused(&world, &["restore", "2"], 66, &["no export"]);

    refused(&world, &["trash", "empty"], 2, &["-y"]);
    let kept = run(&world, ["trash", "empty", "-y", "--older", "1h"]);
    assert!(kept.stdout().contains("0 entries"), "{kept}");
    run(&world, ["restore", "1"]).expect_status(0);
    run(&world, ["destroy", "1", "-y"]).expect_status(0);
    let emptied = run(&world, ["trash", "empty", "-y", "--json"]).json();
    assert_eq!(emptied["removed"].as_array().unwrap().len(), 2);
    run(&world, ["trash", "empty", "-y"]).expect_status(0);
    refused(&world, &["restore", "1"], 66, &["trash"]);
    let output = run(&world, ["show", "1"]);
    assert!(!output.stderr().contains("restore"), "{output}");
}

#[test]
fn a_backup_works_on_another_machine_as_the_manual_says() {
    let world = serving_world();
    run(&world, ["init"]).expect_status(0);
    run(&world, ["start", "1", "--transport", "run", "remember this"]).expect_status(0);
    let session = session_of(&world, "1");
    let blocks = kugetsu_testing::blocks("docs/operations.md", "sh");
    let block = |words: &str| {
        let found: Vec<_> = blocks.iter().filter(|block| block.text.contains(words)).collect();
        assert_eq!(found.len(), 1, "{words}");
        found[0].text.clone()
    };
    let path = format!(
        "{}:{}",
        kugetsu_testing::kugetsu_binary().parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let shell = |script: &str, home: &Path, folder: &Path, store: bool| {
        let mut command = world.command("/bin/sh");
        command
            .args(["-euc", script])
            .current_dir(folder)
            .env("PATH", &path)
            .env("HOME", home)
            .env("KUGETSU_TRANSPORT", "run");
        if !store {
            command.env_remove("KUGETSU_HOME");
        }
        let output = world.finish(command, Stdin::Null);
        output.expect_status(0);
        output
    };
    shell(
        &block("kugetsu backup --force"),
        &world.home(),
        &world.repo(),
        true,
    );
    let home = world.root().join("another home");
    std::fs::create_dir(&home).unwrap();
    let archive = "kugetsu.backup";
    std::fs::rename(world.home().join(archive), home.join(archive)).unwrap();
    let clone = world.clone_repo("another clone", "https://github.com/shoko/kugetsu.git");
    // Nothing of the old machine is reachable.
    for folder in [world.kugetsu_home(), world.home(), world.repo()] {
        std::fs::rename(&folder, folder.with_extension("gone")).unwrap();
    }
    shell(&block("kugetsu move --repo"), &home, &clone, false);
    let output = shell("kugetsu continue 1 'and go on'", &home, &clone, false);
    assert!(output.stdout().contains("done"), "{output}");
    let listed = shell("kugetsu show 1 --json", &home, &clone, false).json();
    assert_eq!(
        (&listed["session"], &listed["totals"]["turns"]),
        (&json!(session), &json!(2))
    );
    assert_eq!(listed["directory"], json!(clone.canonicalize().unwrap()));
    world.wait_nothing_left(SOON);
}
