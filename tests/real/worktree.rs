//! A session with a worktree works in it on the real opencode: both versions, both transports, and the tools too.

use std::path::Path;

use crate::support::kit::{ISSUE, SOON, worktree_of};
use kugetsu_testing::{Output, Reply, Stdin, World, on_both_versions};

fn run(world: &World, arguments: &[&str]) -> Output {
    let output = world.start(world.kugetsu(arguments), Stdin::Null).wait(SOON);
    output.expect_status(0);
    world.wait_nothing_left(SOON);
    output
}

/// A turn whose tool writes its working directory into a new file of this name. The repository's own template tells the
/// model its branch, and the tool finds the session in its environment.
fn turn(world: &World, arguments: &[&str], file: &str) {
    let calls = world.model.turn_requests().len();
    let prompt = format!("write {file}");
    let tool = Reply::bash(format!(
        "pwd | tee {file}; git add {file}; git commit --quiet --message 'Add {file}'; \
         echo \"$KUGETSU_REF $KUGETSU_BRANCH\" > {file}.env"
    ));
    world.model.on(prompt.clone(), vec![tool, Reply::text("written")]);
    let output = run(world, &[arguments, &["--output", "json", &prompt]].concat());
    let result = output.json();
    let path = worktree_of(world, "14");
    assert_eq!(result["verdict"], "completed", "{output}");
    assert_eq!(result["directory"], path.to_str().unwrap(), "{output}");
    let there = std::fs::read_to_string(path.join(file)).unwrap_or_else(|error| panic!("{error}\n{output}"));
    assert_eq!(Path::new(there.trim()), path, "{output}");
    assert!(!world.repo().join(file).exists(), "{output}");
    let named = std::fs::read_to_string(path.join(format!("{file}.env"))).unwrap();
    assert_eq!(named, format!("{ISSUE} kugetsu/14\n"), "{output}");
    let told = world.model.turn_requests()[calls].system_text();
    assert!(
        told.contains("The branch of this repository's template: kugetsu/14\n"),
        "{told}"
    );
    assert!(
        !told.contains("unattended"),
        "the built-in text is replaced: {told}"
    );
    let changes = &result["changes"];
    let paths: Vec<_> = changes["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| &file["path"])
        .collect();
    assert_eq!(paths, [file, &format!("{file}.env")], "{output}");
    assert_eq!(
        changes["commits"][0]["subject"],
        format!("Add {file}"),
        "{output}"
    );
    // The model received the same directory.
    let results = world.model.turn_requests()[calls..]
        .last()
        .map(kugetsu_testing::Request::tool_results);
    let results = results.expect("the tool's answer went to the model");
    assert!(
        results.iter().any(|text| text.trim() == there.trim()),
        "{results:?}\n{output}"
    );
    // opencode's row names it too.
    let session = result["session"].as_str().unwrap();
    let rows = world.sessions();
    let row = rows
        .iter()
        .find(|row| row.id == session)
        .expect("the session is there");
    assert_eq!(row.directory, path.to_str().unwrap());
}

/// A base, in a repository with a template of its own.
fn prepare(world: &World) {
    world.make_base();
    let template = "context = \"The branch of this repository's template: {branch}\"\n";
    std::fs::write(world.repo().join(".kugetsu.toml"), template).unwrap();
    world.git(&world.repo(), ["add", "--all"]);
    world.git(
        &world.repo(),
        ["commit", "--quiet", "--message", "Add a template"],
    );
}

on_both_versions! {
    fn started_through_serve_and_continued_through_run(world: &World) {
        prepare(world);
        turn(world, &["start", "14", "--worktree", "--transport", "serve"], "one");
        turn(world, &["continue", "14", "--transport", "run"], "two");
        assert_eq!(world.sessions().len(), 2, "the base and one fork");
        assert_eq!(world.git(&world.repo(), ["status", "--porcelain"]).stdout(), "");
    }

    fn started_through_run_and_continued_through_serve(world: &World) {
        prepare(world);
        turn(world, &["start", "14", "--worktree", "--transport", "run"], "one");
        // The worktree is removed and restored, both in opencode and in git.
        let session = world.run(["show", ISSUE, "--json"]).json()["session"].clone();
        world.run(["destroy", "14", "-y"]).expect_status(2);
        run(world, &["destroy", "14", "-y", "--force"]);
        assert!(!worktree_of(world, "14").exists());
        assert!(world.sessions().iter().all(|row| row.id != session));
        run(world, &["restore", "14"]);
        assert!(worktree_of(world, "14").join("one").exists());
        turn(world, &["continue", "14", "--transport", "serve"], "two");
        assert_eq!(world.run(["show", ISSUE, "--json"]).json()["session"], session);
    }
}
