//! A home folder of version 0.1, from before roles and names, is read, continued and rewritten.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::kit::{fake_session, run};
use kugetsu_testing::{FakeScript, Opencode, ServeMode, World};
use serde_json::Value;

const REPO: &str = "sessions/github.com/shoko/kugetsu";

/// Copies the fixture, with its placeholder and its session ids replaced.
fn copy(from: &Path, to: &Path, replace: &dyn Fn(String) -> String) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target, replace);
            continue;
        }
        let bytes = fs::read(entry.path()).unwrap();
        match String::from_utf8(bytes) {
            Ok(text) => fs::write(target, replace(text)).unwrap(),
            Err(bundle) => fs::write(target, bundle.into_bytes()).unwrap(),
        }
    }
}

/// The session of each record that is not in the trash.
fn sessions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            sessions(&entry.path(), found);
        } else if entry.path().extension().is_some_and(|ending| ending == "json") {
            let record: Value = serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap();
            found.extend(record["session"].as_str().map(str::to_owned));
        }
    }
}

fn old_home() -> World {
    let world = World::new(Opencode::Fake);
    world.fake(&FakeScript {
        serve: ServeMode::Sessions,
        ..FakeScript::default()
    });
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/kugetsu-engine/fixtures/home-0.1");
    let mut old = BTreeSet::new();
    sessions(&fixture.join("sessions"), &mut old);
    let ids: Vec<_> = old.into_iter().map(|id| (id, fake_session(&world))).collect();
    let (repo, root) = (world.repo(), world.root().to_owned());
    copy(&fixture, &world.kugetsu_home(), &|text| {
        let text = text
            .replace("@ROOT@/repo", repo.to_str().unwrap())
            .replace("@ROOT@", root.to_str().unwrap());
        ids.iter().fold(text, |text, (old, new)| text.replace(old, new))
    });
    fs::remove_file(world.kugetsu_home().join("README.md")).unwrap();
    world
}

fn record(world: &World, number: u64) -> Value {
    let path = world.kugetsu_home().join(REPO).join(format!("{number}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_old_home_is_read() {
    let world = old_home();
    let listed = run(&world, ["list", "--json"]);
    let listed = listed.expect_status(0).json();
    let states: Vec<_> = listed["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| {
            (
                session["ref"].as_str().unwrap(),
                session["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        states,
        [
            ("github.com/shoko/kugetsu#1", "completed"),
            ("github.com/shoko/kugetsu#2", "blocked"),
            ("github.com/shoko/kugetsu#5", "lost"),
            ("github.com/shoko/kugetsu#6", "lost"),
            ("github.com/shoko/kugetsu#7", "blocked"),
            ("github.com/shoko/kugetsu#8", "blocked"),
            ("gitlab.com/14/tool#9", "completed"),
        ]
    );
    assert_eq!(listed["bases"].as_array().unwrap().len(), 2);
    assert_eq!(listed["broken"], Value::Array(Vec::new()));
    let shown = run(&world, ["show", "1", "--turns", "--json"]).json();
    assert_eq!(shown["turn_list"].as_array().unwrap().len(), 2);
    assert_eq!(shown["totals"]["turns"], 2);
    assert!(
        run(&world, ["show", "2"])
            .expect_status(0)
            .stdout()
            .contains("conflicts in a")
    );
    assert_eq!(run(&world, ["logs", "1"]).expect_status(0).stdout(), "done\n");
    // Its streams are in schema 1, and are shown in the schema that is asked for.
    let stream = |flags: &[&str]| {
        let words = [&["logs", "1", "--json"], flags].concat();
        run(&world, words).expect_status(0).json_lines()
    };
    let last = shown["last"]["turn"].as_str().unwrap();
    let file = world
        .kugetsu_home()
        .join(REPO)
        .join(format!("1/{last}.events.jsonl"));
    let written: Vec<Value> = fs::read_to_string(file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(stream(&["--events-schema", "1"]), written);
    let mut renamed = written;
    for line in &mut renamed {
        line["schema"] = 2.into();
        if let Some(frame) = line["type"].as_str().unwrap().strip_prefix("turn_") {
            line["type"] = format!("step_{frame}").into();
        }
    }
    assert_eq!(stream(&[]), renamed);
    let queried = run(&world, ["query"]).expect_status(0).json();
    assert_eq!(queried["totals"]["turns"], 6);
    let pending = run(&world, ["pending"]).expect_status(0).stdout();
    assert!(
        pending.contains("Which one?") && pending.contains("src/*"),
        "{pending}"
    );
    let settings = run(&world, ["config", "--json"]).expect_status(0).json();
    assert_eq!(settings["settings"]["transport"]["value"], "run");
    assert_eq!(settings["hosts"]["box"]["address"], "ada@box");
}

#[test]
fn an_old_home_is_continued_and_rewritten() {
    let world = old_home();
    run(&world, ["continue", "1", "again"]).expect_status(0);
    assert_eq!(record(&world, 1)["totals"]["turns"], 3);
    run(&world, ["permit", "1", "edit=deny"]).expect_status(0);

    // The next turn delivers a person's answer.
    run(&world, ["continue", "8", "go on"]).expect_status(0);
    assert_eq!(record(&world, 8)["pending"], Value::Null);
    run(&world, ["answer", "7", "allow"]).expect_status(0);
    run(&world, ["continue", "7"]).expect_status(0);

    // The state that a killed supervisor left is repaired.
    run(&world, ["continue", "6", "and now"]).expect_status(0);
    let shown = run(&world, ["show", "6", "--turns", "--json"]).json();
    assert_eq!(shown["turn_list"][0]["verdict"], "lost");
    assert_eq!(shown["turn_list"][1]["verdict"], "completed");
    run(&world, ["start", "5", "begin anew"]).expect_status(0);

    run(&world, ["destroy", "1", "-y"]).expect_status(0);
    run(&world, ["restore", "1"]).expect_status(0);
    // An entry that the old version put into the trash can be restored.
    run(&world, ["restore", "3"]).expect_status(0);
    run(&world, ["continue", "3", "back"]).expect_status(0);
    assert_eq!(record(&world, 3)["totals"]["turns"], 2);

    run(&world, ["doctor", "--fix"]);
    let listed = run(&world, ["list", "--json"]).expect_status(0).json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 8);
    assert_eq!(listed["broken"], Value::Array(Vec::new()));
    let schemas = listed["sessions"].as_array().unwrap().iter();
    assert!(schemas.into_iter().all(|session| session["schema"] == 1));
}
