//! Sessions other than an issue's own: roles of an issue, and sessions without an issue.

use std::fs;

use crate::support::kit::{fake_world, refused, run};
use kugetsu_testing::{FakeScript, Opencode, Stdin, World};
use serde_json::Value;

const REPO: &str = "github.com/shoko/kugetsu";

fn refs(value: &Value) -> Vec<String> {
    let sessions = value["sessions"].as_array().unwrap().iter();
    sessions
        .map(|session| session["ref"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn roles_and_named_sessions_are_sessions_of_their_own() {
    let world = fake_world();
    let all = ["14", "14/review", "14/1.2", "~nightly"];
    for address in all {
        let started = run(
            &world,
            [
                "start",
                address,
                "hello",
                "--transport",
                "run",
                "--output",
                "json",
            ],
        );
        started.expect_status(0);
        let printed = started.json()["ref"].as_str().unwrap().to_owned();
        assert!(
            printed.ends_with(address) && printed.starts_with(REPO),
            "{printed}"
        );
    }
    let folder = world.kugetsu_home().join("sessions").join(REPO);
    for file in [
        "14.json",
        "14/turns.jsonl",
        "14/at/review.json",
        "14/at/review/turns.jsonl",
        "14/at/1.2.json",
        "~nightly.json",
        "~nightly@/turns.jsonl",
    ] {
        assert!(folder.join(file).is_file(), "{file}");
    }
    let listed = run(&world, ["list", "--json"]);
    listed.expect_status(0);
    let expected: Vec<_> = ["#14", "#14/1.2", "#14/review", "~nightly"]
        .map(|rest| format!("{REPO}{rest}"))
        .to_vec();
    assert_eq!(refs(&listed.json()), expected);
    assert_eq!(
        run(&world, ["doctor", "--json"]).expect_status(0).json()["exit_status"],
        0
    );

    for address in all {
        run(&world, ["continue", address, "more", "--transport", "run"]).expect_status(0);
        let shown = run(&world, ["show", address, "--json"]);
        assert_eq!(shown.expect_status(0).json()["totals"]["turns"], 2, "{shown}");
        run(&world, ["logs", address]).expect_status(0);
    }
    let sessions: std::collections::BTreeSet<_> = all
        .iter()
        .map(|address| run(&world, ["show", address, "--json"]).json()["session"].to_string())
        .collect();
    assert_eq!(sessions.len(), all.len(), "each has a session of its own");
}

#[test]
fn an_issue_is_destroyed_and_restored_without_its_roles() {
    let world = fake_world();
    for address in ["14", "14/review", "~nightly"] {
        run(&world, ["start", address, "hello", "--transport", "run"]).expect_status(0);
    }
    let gone = |address: &str| {
        refused(&world, &["show", address], 66, &["no session"]);
    };
    let there = |address: &str| {
        let shown = run(&world, ["show", address, "--turns", "--json"]);
        assert_eq!(
            shown.expect_status(0).json()["turn_list"]
                .as_array()
                .unwrap()
                .len(),
            1,
            "{shown}"
        );
    };
    run(&world, ["destroy", "14", "-y"]).expect_status(0);
    gone("14");
    there("14/review");
    run(&world, ["destroy", "14/review", "-y"]).expect_status(0);
    gone("14/review");
    run(&world, ["restore", "14"]).expect_status(0);
    there("14");
    gone("14/review");
    run(&world, ["restore", "14/review"]).expect_status(0);
    run(&world, ["destroy", "~nightly", "-y"]).expect_status(0);
    gone("~nightly");
    run(&world, ["restore", "~nightly"]).expect_status(0);
    for address in ["14", "14/review", "~nightly"] {
        there(address);
    }
    assert_eq!(
        run(&world, ["doctor", "--json"]).expect_status(0).json()["exit_status"],
        0
    );
}

#[test]
fn each_session_has_a_worktree_and_a_branch_of_its_own() {
    let world = World::with_worktrees(Opencode::Fake);
    world.fake(&FakeScript::serving());
    let seen = world.root().join("seen");
    fs::create_dir_all(world.kugetsu_home()).unwrap();
    let hook = format!("echo $KUGETSU_REF $KUGETSU_BRANCH >> {}", seen.display());
    let settings = format!("transport = \"run\"\nworktree = true\nhook_before_turn = {hook:?}\n");
    fs::write(world.kugetsu_home().join("config.toml"), settings).unwrap();
    run(&world, ["init"]).expect_status(0);
    let all = [
        ("14", "#14", "14", "kugetsu/14"),
        ("14/review", "#14/review", "14@review", "kugetsu/14-review"),
        ("14/1.2", "#14/1.2", "14@1.2", "kugetsu/14-1.2"),
        ("~nightly", "~nightly", "~nightly@", "kugetsu/@nightly"),
        ("~14", "~14", "~14@", "kugetsu/@14"),
    ];
    let root = world.repo().join(".worktrees").join(REPO);
    for (address, _, folder, branch) in all {
        run(&world, ["start", address, "hello"]).expect_status(0);
        let worktree = &run(&world, ["show", address, "--json"]).json()["worktree"];
        assert_eq!(worktree["path"], root.join(folder).to_str().unwrap());
        assert_eq!(worktree["branch"], branch);
        assert!(root.join(folder).join(".git").is_file(), "{folder}");
    }
    let expected: Vec<_> = all
        .iter()
        .map(|(_, rest, _, branch)| format!("{REPO}{rest} {branch}\n"))
        .collect();
    let expected = expected.concat();
    assert_eq!(fs::read_to_string(&seen).unwrap(), expected);

    // Only the issue's session is destroyed and restored.
    run(&world, ["destroy", "14", "-y"]).expect_status(0);
    assert!(!root.join("14").exists());
    for (_, _, folder, _) in &all[1..] {
        assert!(root.join(folder).join(".git").is_file(), "{folder}");
    }
    run(&world, ["destroy", "14/review", "-y"]).expect_status(0);
    assert!(!root.join("14@review").exists());
    for address in ["14/review", "14"] {
        run(&world, ["restore", address]).expect_status(0);
        run(&world, ["continue", address, "more"]).expect_status(0);
    }
}

#[test]
fn roles_and_names_are_filtered_queried_pruned_and_answered_for() {
    let world = fake_world();
    for address in ["14/review", "~nightly"] {
        run(&world, ["start", address, "hello", "--transport", "run"]).expect_status(0);
        // Short forms, full forms and other cases name the same session.
        let full = run(&world, ["show", address, "--json"]).json()["ref"]
            .as_str()
            .unwrap()
            .to_owned();
        for other in [full.clone(), full.to_uppercase()] {
            assert_eq!(run(&world, ["show", &other, "--json"]).json()["ref"], full);
        }
        run(&world, ["permit", address, "edit=ask"]).expect_status(0);
        run(&world, ["attach", address, "--print"]).expect_status(0);
        run(&world, ["wait", address]).expect_status(0);
        refused(&world, &["stop", address], 66, &["no running turn"]);
        refused(&world, &["start", address, "again"], 64, &["continue"]);
    }
    // The issue itself has no session.
    refused(&world, &["show", "14"], 66, &["no session"]);
    let of_repo = run(&world, ["list", "--repo", REPO, "--json"]);
    assert_eq!(refs(&of_repo.json()).len(), 2);
    let of_other = run(&world, ["list", "--repo", "github.com/shoko/other", "--json"]);
    assert_eq!(refs(&of_other.json()).len(), 0);
    let query = run(&world, ["query"]);
    query.expect_status(0);
    for address in ["#14/review", "~nightly"] {
        assert!(
            query.stdout().contains(&format!("{REPO}{address}")) || query.json()["totals"]["turns"] == 2,
            "{query}"
        );
    }

    // opencode has lost both sessions, and the records go to the trash.
    for address in ["14/review", "~nightly"] {
        let session = run(&world, ["show", address, "--json"]).json()["session"]
            .as_str()
            .unwrap()
            .to_owned();
        world
            .finish(
                world.opencode_command(["session", "delete", &session]),
                Stdin::Null,
            )
            .expect_status(0);
    }
    for address in ["#14/review", "~nightly"] {
        let error = &run(&world, ["continue", address, "more", "--output", "json"]).json()["error"];
        assert_eq!(error["code"], "session-gone", "{error}");
        assert_eq!(error["ref"], format!("{REPO}{address}"), "{error}");
        assert!(
            error["hint"].as_str().unwrap().contains("kugetsu prune"),
            "{error}"
        );
    }
    let index = world.kugetsu_home().join("index.json");
    let index = || serde_json::from_slice::<Value>(&fs::read(&index).unwrap()).unwrap();
    let names: Vec<_> = index()["sessions"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, [format!("{REPO}#14/review"), format!("{REPO}~nightly")]);
    let pruned = run(&world, ["prune", "--force"]);
    pruned.expect_status(0);
    assert_eq!(refs(&run(&world, ["list", "--json"]).json()).len(), 0, "{pruned}");
    assert!(index()["sessions"].is_null());
}

#[test]
fn an_error_about_the_base_names_its_repository() {
    let world = fake_world();
    let base = fs::read(world.kugetsu_home().join("sessions").join(REPO).join("base.json")).unwrap();
    let base: Value = serde_json::from_slice(&base).unwrap();
    let delete = world.opencode_command(["session", "delete", base["session"].as_str().unwrap()]);
    world.finish(delete, Stdin::Null).expect_status(0);
    let error = &run(&world, ["start", "14", "hello", "--output", "json"]).json()["error"];
    assert_eq!(error["code"], "session-gone", "{error}");
    assert_eq!(error["ref"], REPO, "{error}");
    assert!(
        error["message"].as_str().unwrap().starts_with("the base of "),
        "{error}"
    );
    assert!(
        error["hint"].as_str().unwrap().contains("kugetsu init --force"),
        "{error}"
    );
}

#[test]
fn what_is_not_an_address_is_refused() {
    let world = fake_world();
    for address in ["14/..", "14/-x", "14/a/b", "~", "~a/b", "14/a.json"] {
        refused(&world, &["start", address, "hello"], 64, &[address]);
    }
}
