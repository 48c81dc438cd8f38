//! Creating, adopting and choosing bases.

use crate::support::kit::{self, fake_session, fake_world, refused, run, session_of, snapshot, start};
use kugetsu_testing::{FakeScript, Opencode, Stdin, World};
use serde_json::Value;

#[test]
fn a_base_is_made_once_unless_forced() {
    let world = World::new(Opencode::Fake);
    refused(&world, &["start", "1", "hi"], 66, &["kugetsu init"]);
    refused(
        &world,
        &["continue", "1", "hi", "--or-start"],
        66,
        &["kugetsu init"],
    );
    refused(&world, &["init", "--adopt", "nonsense"], 64, &["ses_"]);
    refused(
        &world,
        &["init", "--adopt", "ses_0123456789ab"],
        66,
        &["ses_0123456789ab"],
    );
    refused(
        &world,
        &["init", "--dir", "/nowhere/at/all"],
        64,
        &["/nowhere/at/all"],
    );
    let (first, second) = (fake_session(&world), fake_session(&world));
    let made = run(&world, ["init", "--adopt", &first, "--json"]);
    made.expect_status(0);
    assert_eq!(made.json()["schema"], 1);
    assert_eq!(made.json()["session"], first.as_str());
    refused(&world, &["init", "--adopt", &second], 64, &[&first, "--force"]);
    let force = ["init", "--force", "--adopt", &second];
    refused(
        &world,
        &[&force[..], &["--prompt", " \n"]].concat(),
        64,
        &["empty"],
    );
    let elsewhere = ["--dir", "/", "--repo", kit::REPO];
    refused(
        &world,
        &[&force[..], &elsewhere].concat(),
        64,
        &[&second, "--dir"],
    );
    start(&world, "1", "hi");
    let taken = session_of(&world, "1");
    refused(
        &world,
        &["init", "--force", "--adopt", &taken],
        64,
        &[&taken, "kugetsu#1"],
    );
    let forced = run(&world, ["init", "--adopt", &second, "--force", "--json"]);
    forced.expect_status(0);
    assert_eq!(forced.json()["session"], second.as_str());
    let trashed = snapshot(&world)
        .into_iter()
        .filter(|(path, _)| path.starts_with(world.kugetsu_home().join("trash")))
        .any(|(_, bytes)| String::from_utf8_lossy(&bytes).contains(&first));
    assert!(trashed, "the old base's record is in the trash");
    // `destroy` does not delete an adopted base from opencode.
    run(&world, ["destroy", "--base", "-y"]).expect_status(0);
    assert_eq!(world.session(&second).id, second);
}

#[test]
fn a_base_has_its_debug_log() {
    let world = World::new(Opencode::Fake);
    world.fake(&FakeScript {
        serve: kugetsu_testing::ServeMode::Sessions,
        ..FakeScript::default()
    });
    let log = world
        .kugetsu_home()
        .join("sessions")
        .join(kit::REPO)
        .join("base/debug.log");
    let at_debug = || {
        let calls = world.fake_calls();
        let serve = calls.iter().rfind(|call| call.arguments[0] == "serve").unwrap();
        serve
            .arguments
            .ends_with(&["--print-logs", "--log-level", "DEBUG"].map(str::to_owned))
    };
    run(&world, ["init"]).expect_status(0);
    assert!(!at_debug() && !log.exists());
    run(&world, ["destroy", "--base", "-y"]).expect_status(0);
    run(&world, ["init", "--debug"]).expect_status(0);
    assert!(at_debug() && log.exists());
}

#[test]
fn a_base_outside_a_clone_takes_its_repository_from_a_flag() {
    let world = World::new(Opencode::Fake);
    let session = fake_session(&world);
    let folder = world.root().join("no-clone");
    std::fs::create_dir_all(&folder).unwrap();
    let outside = |arguments: &[&str]| {
        let mut command = world.kugetsu(arguments);
        command.current_dir(&folder);
        world.finish(command, Stdin::Null)
    };
    let lost = outside(&["init", "--adopt", &session]);
    lost.expect_status(64);
    assert!(lost.stderr().contains("--repo"), "{lost}");
    outside(&[
        "init",
        "--adopt",
        &session,
        "--repo",
        "gitlab.com/group/sub/project",
    ])
    .expect_status(0);
    let shown = run(&world, ["list", "--json"]).json();
    assert_eq!(shown["bases"][0]["repo"], "gitlab.com/group/sub/project");
    let short = outside(&["init", "--adopt", &session, "--repo", "shoko/other", "--json"]);
    assert_eq!(short.expect_status(0).json()["repo"], "github.com/shoko/other");
    // Outside a clone, a number alone is ambiguous.
    let number = outside(&["start", "#1", "hi"]);
    number.expect_status(64);
}

#[test]
fn the_default_base_serves_other_repositories() {
    let world = World::new(Opencode::Fake);
    let session = fake_session(&world);
    run(&world, ["init", "--adopt", &session, "--default"]).expect_status(0);
    let words = [
        "start",
        "codeberg.org/other/repo#7",
        "hello",
        "--transport",
        "run",
        "--output",
        "json",
    ];
    let output = run(&world, words);
    output.expect_status(0);
    assert!(output.stderr().contains("no base of its own"), "{output}");
    let folder = world.repo().display().to_string();
    assert!(
        output
            .stderr()
            .lines()
            .next()
            .is_some_and(|line| line.ends_with(&folder)),
        "{output}"
    );
    let notes = &output.json()["notes"];
    assert!(
        notes[0]
            .as_str()
            .is_some_and(|note| note.contains("no base of its own")),
        "{notes}"
    );
    let shown = run(&world, ["show", "codeberg.org/other/repo#7", "--json"]).json();
    assert_eq!(shown["base"], kit::REPO, "{shown}");
    assert_eq!(world.sessions().len(), 2);
}

#[test]
fn an_empty_prompt_file_creates_no_base() {
    let world = World::new(Opencode::Fake);
    let file = world.root().join("prompt.md");
    let file = file.to_str().expect("a path in UTF-8");
    let arguments = ["init", "--prompt-file", file];
    refused(&world, &arguments, 64, &["prompt.md", "UTF-8"]);
    for (content, says) in [(&b" \n\n"[..], "empty"), (b"\xff\xfe", "UTF-8")] {
        std::fs::write(file, content).expect("a file in the temporary folder");
        refused(&world, &arguments, 64, &[says]);
    }
    refused(
        &world,
        &["init", "--prompt-file", file, "--prompt", "x"],
        64,
        &["--prompt"],
    );
    assert!(world.fake_calls().is_empty(), "opencode was not asked");
}

#[test]
fn another_base_becomes_the_default_one_on_request() {
    let world = fake_world();
    let base_of = |issue: &str| {
        start(&world, issue, "hello");
        kit::text(&run(&world, ["show", issue, "--json"]).json()["base"])
    };
    let adopt = |repo: &str, more: &[&str]| {
        let session = fake_session(&world);
        let mut words = vec!["init", "--adopt", &session, "--repo", repo];
        words.extend(more);
        run(&world, words).expect_status(0);
    };
    adopt("example.org/a/b", &[]);
    refused(
        &world,
        &["start", "codeberg.org/other/repo#2", "hello"],
        66,
        &["has no base session", "kugetsu init"],
    );
    adopt("example.org/c/d", &["--default"]);
    assert_eq!(base_of("codeberg.org/other/repo#2"), "example.org/c/d");
    // A repository with its own base uses that base.
    assert_eq!(base_of("1"), kit::REPO);
    assert_eq!(base_of("example.org/a/b#1"), "example.org/a/b");
    let index = std::fs::read(world.kugetsu_home().join("index.json")).expect("an index");
    let index: Value = serde_json::from_slice(&index).expect("it is whole");
    assert_eq!(index["base"], "example.org/c/d/base.json", "{index}");
}
