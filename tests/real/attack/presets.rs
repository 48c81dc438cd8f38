//! What a preset refuses, on the real opencode.

use std::path::Path;

use crate::support::kit::SOON;
use kugetsu_testing::{Output, Reply, Stdin, World, on_both_versions};
use serde_json::{Value, json};

/// A tool of the user's own, which no preset names.
fn add_tool(world: &World) {
    let folder = world.opencode_config_file().parent().unwrap().join("tool");
    std::fs::create_dir_all(&folder).unwrap();
    let ran = world.root().join("tool-ran");
    let tool = format!(
        "import {{ writeFileSync }} from 'fs'\nexport default {{ description: 'u', args: {{}}, \
         async execute() {{ writeFileSync('{}', ''); return 'x' }} }}\n",
        ran.display()
    );
    std::fs::write(folder.join("unknown.js"), tool).unwrap();
}

/// A turn in which the model calls each of these tools once, whether they are offered or not.
fn turn(world: &World, issue: &str, tools: &[(&str, Value)]) -> Output {
    world.forget_opencode_locks();
    let prompt = format!("use your tools {issue}");
    let calls = tools
        .iter()
        .map(|(name, arguments)| Reply::tool(*name, arguments.clone()));
    world.model.on(
        prompt.clone(),
        calls.chain([Reply::text("done")]).collect::<Vec<_>>(),
    );
    let mut command = world.kugetsu([
        "start",
        issue,
        "--no-worktree",
        "--transport",
        "serve",
        "--output",
        "json",
        &prompt,
    ]);
    // With it, both versions have all tools that reach the network.
    command.env("OPENCODE_ENABLE_EXA", "1");
    let output = world.start(command, Stdin::Null).wait(SOON);
    output.expect_status(0);
    world.wait_nothing_left(SOON);
    output
}

fn offered(world: &World, issue: &str) -> Vec<String> {
    let mut names = world.model.turn_requests_with(&format!("use your tools {issue}"))[0].tool_names();
    names.sort();
    names
}

fn result(world: &World, issue: &str, call: usize) -> String {
    let requests = world.model.turn_requests_with(&format!("use your tools {issue}"));
    requests.last().unwrap().tool_results()[call].clone()
}

fn preset(world: &World, name: &str) {
    let output = world
        .start(world.kugetsu(["permit", "--base", "--preset", name]), Stdin::Null)
        .wait(SOON);
    output.expect_status(0);
}

/// The calls that no careful preset allows.
fn hostile(world: &World) -> Vec<(&'static str, Value)> {
    let url = format!("{}/models?web", world.model.base_url());
    vec![
        ("webfetch", json!({"url": url, "format": "text"})),
        ("websearch", json!({"query": "x"})),
        ("codesearch", json!({"query": "x", "tokensNum": 1000})),
        ("skill", json!({"name": "x"})),
        (
            "task",
            json!({"description": "x", "prompt": "x", "subagent_type": "general"}),
        ),
        ("unknown", json!({})),
        ("read", json!({"filePath": "/etc/hostname"})),
    ]
}

#[track_caller]
fn all_refused(world: &World, issue: &str, offered: &[String], calls: &[(&str, Value)]) {
    for (at, (name, _)) in calls.iter().enumerate() {
        let result = result(world, issue, at);
        if *name == "read" {
            assert!(
                result.contains("rule") && result.contains("external_directory"),
                "{result}"
            );
            continue;
        }
        assert!(!offered.contains(&(*name).to_owned()), "{name} is offered");
        let refused = ["unavailable tool", "rule which prevents", "invalid"];
        assert!(
            refused.iter().any(|word| result.contains(word)),
            "{name}: {result}"
        );
    }
    assert!(!world.root().join("tool-ran").exists());
}

fn read(path: &Path) -> (&'static str, Value) {
    ("read", json!({"filePath": path}))
}

on_both_versions! {
    fn each_preset_allows_its_list_and_nothing_else(world: &World) {
        world.make_base();
        add_tool(world);
        let readme = world.repo().join("README.md");

        preset(world, "read-only");
        let mut calls = hostile(world);
        let mut writes = vec![
            ("bash", json!({"command": "touch made", "description": "x"})),
            ("write", json!({"filePath": world.repo().join("made"), "content": "x"})),
        ];
        writes.append(&mut calls);
        let mut calls = writes;
        let hostile = calls.len();
        calls.push(read(&readme));
        turn(world, "#1", &calls);
        let names = offered(world, "#1");
        all_refused(world, "#1", &names, &calls[..hostile]);
        assert!(result(world, "#1", hostile).contains("# repo"), "{names:?}");
        for name in ["glob", "grep", "read"] {
            assert!(names.contains(&name.to_owned()), "{name}: {names:?}");
        }
        assert!(!world.repo().join("made").exists());

        preset(world, "stranger");
        let mut calls = self::hostile(world);
        calls.push(("question", json!({"questions": []})));
        let hostile = calls.len();
        calls.push(read(&readme));
        calls.push(("bash", json!({"command": "touch made", "description": "x"})));
        calls.push(("write", json!({"filePath": world.repo().join("written"), "content": "x"})));
        turn(world, "#2", &calls);
        let names = offered(world, "#2");
        all_refused(world, "#2", &names, &calls[..hostile]);
        assert!(result(world, "#2", hostile).contains("# repo"), "{names:?}");
        assert!(world.repo().join("made").exists() && world.repo().join("written").exists());

        // The tools are there otherwise, so that the test can fail.
        preset(world, "headless");
        turn(world, "#3", &[("unknown", json!({}))]);
        let names = offered(world, "#3");
        for name in ["webfetch", "websearch", "task", "unknown", "skill"] {
            assert!(names.contains(&name.to_owned()), "{name}: {names:?}");
        }
        assert!(world.root().join("tool-ran").exists());
    }
}
