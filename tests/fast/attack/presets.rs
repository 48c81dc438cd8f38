//! The preset for the text of strangers.

use crate::support::kit::{fake_world, run, run_in};
use kugetsu_testing::fake::{HOME_VARIABLE, SCRIPT_VARIABLE};
use kugetsu_testing::{FakeScript, Output, Step, World};
use serde_json::Value;

/// Runs a command whose sandbox has what the fake opencode needs.
fn run_sandboxed(world: &World, arguments: &[&str]) -> Output {
    let text = |path: std::path::PathBuf| path.display().to_string();
    let environment = [
        (HOME_VARIABLE, text(world.home())),
        (
            "KUGETSU_SANDBOX_ENV",
            format!("{SCRIPT_VARIABLE}\n{HOME_VARIABLE}"),
        ),
        (
            "KUGETSU_SANDBOX_READ",
            text(world.root().join("fake-opencode.json")),
        ),
        (
            "KUGETSU_SANDBOX_WRITE",
            text(world.home().join(".local/share/opencode")),
        ),
    ];
    let environment = environment
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    run_in(
        world,
        &environment,
        &[arguments, &["--transport", "run"]].concat(),
    )
}

#[test]
fn the_preset_for_strangers_sets_limits_that_may_be_set_otherwise() {
    let world = fake_world();
    run(&world, ["permit", "--base", "--preset", "stranger"]).expect_status(0);
    let step = |cost| [Step::step_start(), Step::step_finish("tool-calls", cost)];
    let steps: Vec<_> = (0..101).flat_map(|_| step(0.001)).collect();
    world.fake(&FakeScript::default().on("dear", step(3.0)).on("long", steps));
    for (arguments, reason) in [
        (&["start", "1", "dear"][..], "budget: 3.0000 USD of at most 2 USD"),
        (&["start", "2", "long"], "budget: 101 steps of at most 100"),
        (
            &["start", "3", "long", "--max-steps", "4"],
            "budget: 5 steps of at most 4",
        ),
        (
            &["start", "4", "dear", "--max-cost", "2.5"],
            "budget: 3.0000 USD of at most 2.5 USD",
        ),
    ] {
        let output = run_sandboxed(&world, &[arguments, &["--output", "json"]].concat());
        let result: Value = output.json();
        assert_eq!(
            (&result["verdict"], &result["reason"]),
            (&"failed".into(), &reason.into()),
            "{output}"
        );
    }
    // A setting of the user's own, even of no limit, decides.
    run(&world, ["config", "set", "max_cost", ""]).expect_status(0);
    let output = run_sandboxed(&world, &["start", "5", "dear", "--output", "json"]);
    assert!(
        !output.json()["reason"].to_string().contains("budget"),
        "{output}"
    );
}

#[test]
fn a_repository_is_never_trusted_for_strangers() {
    let world = fake_world();
    let repo = world.repo();
    std::fs::create_dir_all(repo.join(".opencode/tool")).unwrap();
    std::fs::write(repo.join(".opencode/tool/t.js"), "export default {}\n").unwrap();
    run(&world, ["permit", "--base", "--trust-repo"]).expect_status(0);
    run(&world, ["start", "1", "hello", "--transport", "run"]).expect_status(0);
    run(&world, ["permit", "--base", "--preset", "stranger"]).expect_status(0);
    run_sandboxed(&world, &["start", "2", "hello"]).expect_status(0);
    assert_eq!(
        run(&world, ["show", "2", "--json"]).json()["last"]["sandbox"],
        "bubblewrap"
    );
    // A session from before the preset has no sandbox.
    run(&world, ["permit", "1", "--preset", "stranger"]).expect_status(0);
    run_sandboxed(&world, &["continue", "1", "hello"]).expect_status(64);
    run_sandboxed(&world, &["start", "3", "hello", "--sandbox=off"]).expect_status(64);
    let runs: Vec<_> = world
        .fake_calls()
        .into_iter()
        .filter(|call| call.prompt.as_deref() == Some("hello"))
        .collect();
    assert_eq!(
        runs.iter().map(|call| call.ignores_project).collect::<Vec<_>>(),
        [false, true]
    );
    // The prompt of a base would run outside the sandbox.
    let prompted = ["init", "--force", "--preset", "stranger", "--prompt", "learn"];
    run(&world, prompted).expect_status(64);
    let refused = run(&world, ["permit", "--base", "--trust-repo"]);
    refused.expect_status(64);
    assert!(
        refused.stderr().contains("the preset stranger never loads"),
        "{refused}"
    );
    let permission = runs[1].permission.as_deref().unwrap();
    assert!(permission.starts_with("{\"*\":\"deny\""), "{permission}");
}
