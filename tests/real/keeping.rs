//! What outlives a turn on the real opencode: a clone that moves, an upgrade of opencode, the logs of a chatty tool.

use std::path::Path;

use crate::support::kit::{REPO, SOON, record, run, session_of, text};
use kugetsu_testing::{Opencode, Output, Reply, Stdin, Version, World, on_both_versions};

/// A command whose current folder is not the clone.
#[track_caller]
fn elsewhere(world: &World, arguments: &[&str]) -> Output {
    let mut command = world.kugetsu(arguments);
    command.current_dir(world.root());
    world.start(command, Stdin::Null).wait(SOON)
}

on_both_versions! {
    fn sessions_work_where_their_clone_is_now(world: &World) {
        for prompt in ["begin", "begin beside"] {
            world.model.on(prompt, vec![Reply::bash("pwd > begun.txt"), Reply::text("begun")]);
        }
        run(world, ["init"]).expect_status(0);
        run(world, ["start", "1", "begin"]).expect_status(0);
        run(world, ["start", "2", "--worktree", "begin beside"]).expect_status(0);
        let clone = world.root().join("moved clone");
        std::fs::rename(world.repo(), &clone).unwrap();
        let clone = clone.canonicalize().unwrap();
        let [one, two, three] = [1, 2, 3].map(|issue| format!("{REPO}#{issue}"));
        elsewhere(world, &["continue", &one, "go on"]).expect_status(66);
        elsewhere(world, &["move", "--repo", REPO, "--dir", clone.to_str().unwrap()]).expect_status(0);

        let worktree = clone.join(".worktrees").join(REPO).join("2");
        let cases = [
            ("continue", &one, "run", &clone),
            ("continue", &two, "serve", &worktree),
            ("start", &three, "serve", &clone),
        ];
        for (verb, reference, transport, folder) in cases {
            let prompt = format!("write of {reference} by {transport}");
            world.model.on(&prompt, vec![Reply::bash("pwd -P > here.txt"), Reply::text("written")]);
            let output = elsewhere(world, &[verb, reference, "--transport", transport, &prompt]);
            output.expect_status(0);
            assert!(output.stdout().contains("written"), "{output}");
            let file = folder.join("here.txt");
            let written = std::fs::read_to_string(&file).unwrap();
            assert_eq!(Path::new(written.trim()), folder, "{prompt}");
            std::fs::remove_file(file).unwrap();
        }
        for (issue, folder) in [("1", &clone), ("2", &worktree)] {
            let row = world.session(&session_of(world, issue));
            assert_eq!(Path::new(&row.directory), folder);
            assert_eq!(text(&record(world, issue).unwrap()["directory"]), row.directory);
        }
        assert!(!world.repo().exists(), "nothing makes the old folder again");
        elsewhere(world, &["destroy", &two, "-y", "--force"]).expect_status(0);
        world.wait_nothing_left(SOON);
    }

    fn a_chatty_tool_leaves_small_logs(world: &World) {
        let chatty = "i=0; while [ $i -lt 1500 ]; do i=$((i + 1)); echo line $i of a chatty tool; sleep 0.002; done";
        world.model.on("be chatty", vec![Reply::bash(chatty), Reply::text("done")]);
        run(world, ["init"]).expect_status(0);
        run(world, ["start", "1", "--transport", "serve", "be chatty"]).expect_status(0);
        let stream = run(world, ["logs", "1", "--json"]).json_lines();
        let updates = stream.iter().filter(|line| line["type"] == "tool_execution_update").count();
        assert!(updates < 5, "{updates} updates");
        let raw = run(world, ["logs", "1", "--raw"]).stdout();
        assert!(raw.contains("line 1500 of a chatty tool"));
        let size = run(world, ["show", "1", "--json"]).json()["size_bytes"].as_u64().unwrap();
        println!("{} bytes of events, {size} bytes on the disk", raw.len());
        assert!(size < 1_000_000, "{size} bytes for {} of events", raw.len());
    }
}

#[test]
fn a_session_goes_on_after_an_upgrade_of_opencode() {
    let world = World::new(Opencode::Real(Version::V1_3_2));
    world.model.on("begin", vec![Reply::text("begun")]);
    run(&world, ["init"]).expect_status(0);
    run(&world, ["start", "1", "begin"]).expect_status(0);
    let newer = |arguments: &[&str]| {
        let mut command = world.kugetsu(arguments);
        command.env("KUGETSU_OPENCODE", Version::V1_18_33.binary());
        world.start(command, Stdin::Null).wait(SOON)
    };
    let found = newer(&["doctor"]);
    found.expect_status(0);
    assert!(found.stdout().contains("1.18.33"), "{found}");
    world.model.on(
        "go on",
        vec![Reply::bash("echo upgraded > note.txt"), Reply::text("gone on")],
    );
    newer(&["continue", "1", "go on"]).expect_status(0);
    assert!(world.repo().join("note.txt").exists());
    world.model.on("as well", vec![Reply::text("as well")]);
    newer(&["start", "2", "as well"]).expect_status(0);
    let asked = world.model.turn_requests_with("go on");
    assert!(asked[0].user_texts().iter().any(|text| text.trim() == "begin"));
}
