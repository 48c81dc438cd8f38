//! What a repository brings for opencode is loaded as long as it is what was trusted.

use std::path::Path;

use crate::support::kit::{fake_prompts, fake_world, record_path, run};
use kugetsu_testing::{Output, World};
use serde_json::{Value, json};

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A turn on an issue, and whether opencode ignored the repository.
fn turn(world: &World, verb: &str, issue: &str) -> (bool, Output) {
    let output = run(world, [verb, issue, "hello", "--transport", "run"]);
    output.expect_status(0);
    let calls = world.fake_calls();
    let call = calls.iter().rfind(|call| call.prompt.is_some()).unwrap();
    (call.ignores_project, output)
}

#[test]
fn trust_ends_when_the_repository_changes() {
    let world = fake_world();
    let tool = world.repo().join(".opencode/tool/t.js");
    let config = world.repo().join("opencode.json");
    write(&tool, "export default {}\n");
    write(&config, "{\"model\": \"a/b\"}");
    let (ignored, output) = turn(&world, "start", "1");
    assert!(ignored);
    assert!(
        output
            .stderr()
            .contains("is not trusted, so it is not loaded: tool .opencode/tool/t.js"),
        "{output}"
    );
    // The words are said once.
    let (ignored, output) = turn(&world, "continue", "1");
    assert!(ignored && !output.stderr().contains("trusted"), "{output}");

    run(&world, ["permit", "1", "--trust-repo"]).expect_status(0);
    run(&world, ["permit", "--base", "--trust-repo"]).expect_status(0);
    for (verb, issue) in [("continue", "1"), ("start", "2")] {
        let (ignored, output) = turn(&world, verb, issue);
        assert!(!ignored && !output.stderr().contains("trusted"), "{output}");
    }
    // What opencode itself adds is no change.
    write(
        &config,
        "{\n  \"$schema\": \"https://opencode.ai/config.json\",\n  \"model\": \"a/b\"\n}\n",
    );
    let package = world.repo().join(".opencode/package.json");
    write(
        &package,
        "{\"dependencies\": {\"@opencode-ai/plugin\": \"1.18.33\"}}",
    );
    write(&world.repo().join(".opencode/node_modules/x/index.js"), "");
    write(&world.repo().join(".opencode/.gitignore"), "node_modules\n");
    assert!(!turn(&world, "continue", "2").0);

    for (path, text) in [
        (tool.clone(), "export default { evil: 1 }\n"),
        (world.repo().join(".opencode/command/new.md"), "x"),
        (config.clone(), "{\"model\": \"a/b\", \"mcp\": {}}"),
        (
            package,
            "{\"dependencies\": {\"@opencode-ai/plugin\": \"1\", \"evil\": \"1\"}}",
        ),
        (world.repo().join(".agents/skills/s/SKILL.md"), "x"),
    ] {
        let before = std::fs::read(&path).ok();
        write(&path, text);
        let (ignored, output) = turn(&world, "continue", "2");
        assert!(ignored, "{}", path.display());
        let said = output.stderr().replace('\n', " ");
        assert!(
            said.contains("has changed since it was trusted")
                && said.contains("permit github.com/shoko/kugetsu#2 --trust-repo"),
            "{output}"
        );
        match before {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        assert!(!turn(&world, "continue", "2").0, "{}", path.display());
    }
    run(&world, ["permit", "2", "--no-trust-repo"]).expect_status(0);
    assert!(turn(&world, "continue", "2").0);
}

#[test]
fn a_record_from_before_trust_loads_everything_and_doctor_says_so() {
    let world = fake_world();
    write(&world.repo().join(".opencode/tool/t.js"), "export default {}\n");
    let path = record_path(&world, "base");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(record["trust"], json!({}));
    record.as_object_mut().unwrap().remove("trust");
    std::fs::write(&path, record.to_string()).unwrap();
    assert!(!turn(&world, "start", "1").0);
    let checked = run(&world, ["doctor"]);
    let text = checked.stdout().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        text.contains("warning") && text.contains("the record is older than trust"),
        "{checked}"
    );
    run(&world, ["permit", "--base", "--no-trust-repo"]).expect_status(0);
    assert!(turn(&world, "start", "2").0);
}

#[test]
fn an_untrusted_repository_starts_no_language_server_and_keeps_its_instructions() {
    let world = fake_world();
    write(&world.repo().join("AGENTS.md"), "text\n");
    turn(&world, "start", "1");
    let config = |world: &World| -> Value {
        let calls = world.fake_calls();
        let call = calls.iter().rfind(|call| call.prompt.is_some()).unwrap();
        serde_json::from_str(call.config.as_deref().unwrap_or("{}")).unwrap()
    };
    let told = config(&world);
    assert_eq!((&told["lsp"], &told["formatter"]), (&json!(false), &json!(false)));
    let agents = world.repo().join("AGENTS.md");
    assert_eq!(told["instructions"][0], json!(agents), "{told}");
    // A link could lead to any file of the user.
    let secret = world.home().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    std::fs::remove_file(&agents).unwrap();
    std::os::unix::fs::symlink(&secret, &agents).unwrap();
    turn(&world, "continue", "1");
    assert!(!config(&world)["instructions"].to_string().contains("AGENTS.md"));
    run(&world, ["permit", "1", "--trust-repo"]).expect_status(0);
    turn(&world, "continue", "1");
    assert_eq!(config(&world)["lsp"], Value::Null);
}

#[test]
fn the_setting_and_the_flags_decide_for_a_new_base() {
    let world = fake_world();
    write(&world.repo().join(".opencode/tool/t.js"), "export default {}\n");
    let session = crate::support::kit::session_of(&world, "base");
    let init = |flags: &[&str]| {
        let output = run(
            &world,
            [&["init", "--force", "--adopt", &session], flags].concat(),
        );
        output.expect_status(0);
        let path = record_path(&world, "base");
        let record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        (
            record["trust"]["digests"].as_array().map_or(0, Vec::len),
            output.stderr(),
        )
    };
    let (trusted, said) = init(&[]);
    assert!(
        trusted == 0 && said.contains("tool .opencode/tool/t.js, which is not trusted"),
        "{said}"
    );
    let (trusted, said) = init(&["--trust-repo"]);
    assert!(trusted == 1 && said.contains("which is trusted"), "{said}");
    run(&world, ["config", "set", "trust_repo", "true"]).expect_status(0);
    assert_eq!(init(&[]).0, 1);
    assert_eq!(init(&["--no-trust-repo"]).0, 0);
}

#[test]
fn a_configuration_that_is_not_json_is_told_before_opencode_starts() {
    let world = fake_world();
    let config = world.repo().join("opencode.json");
    let calls = |world: &World| {
        let calls = world.fake_calls();
        calls.iter().filter(|call| call.prompt.is_some()).count()
    };
    run(&world, ["start", "1", "hello", "--transport", "run"]).expect_status(0);
    write(&config, "{\n  \"model\": \"sk-secret\n}\n");
    run(&world, ["permit", "1", "--trust-repo"]).expect_status(0);
    let before = calls(&world);
    let refused = run(&world, ["continue", "1", "hello", "--transport", "run"]);
    refused.expect_status(69);
    let place = format!("{}:2:12: not valid JSON", config.display());
    assert!(refused.stderr().contains(&place), "{refused}");
    assert!(!refused.stderr().contains("sk-secret"), "{refused}");
    assert_eq!(calls(&world), before, "opencode was not asked");
    write(&config, "{\"model\": \"a/b\"}");
    run(&world, ["permit", "1", "--trust-repo"]).expect_status(0);
    run(&world, ["continue", "1", "hello", "--transport", "run"]).expect_status(0);
}

/// `hook_before_turn` may bring another branch, for example.
#[test]
fn what_a_hook_brings_before_a_turn_is_not_loaded_unless_it_was_trusted() {
    let world = fake_world();
    let trusted = "{\"model\": \"a/b\"}";
    write(&world.repo().join("opencode.json"), trusted);
    run(&world, ["permit", "--base", "--trust-repo"]).expect_status(0);
    assert!(!turn(&world, "start", "1").0);

    let hook = |text: &str| {
        let hook = world.root().join("hook");
        write(&hook, text);
        let set = format!("sh '{}'", hook.display());
        run(&world, ["config", "set", "hook_before_turn", &set]).expect_status(0);
    };
    hook("echo '{\"model\": \"a/b\", \"mcp\": {}}' > opencode.json");
    let (ignored, output) = turn(&world, "continue", "1");
    let said = output.stderr().replace('\n', " ");
    assert!(
        ignored && said.contains("has changed since it was trusted"),
        "{output}"
    );
    // The hook decides in the other direction as well.
    hook(&format!("echo '{trusted}' > opencode.json"));
    assert!(!turn(&world, "continue", "1").0);

    // opencode 1.18.33 runs a plugin in any case, so such a turn is refused.
    hook("mkdir -p .opencode/plugin; echo 'export const evil = 1' > .opencode/plugin/evil.js");
    let prompts = fake_prompts(&world).len();
    let refused = run(&world, ["continue", "1", "hello", "--transport", "run"]);
    refused.expect_status(2);
    assert!(
        refused.stderr().contains("plugin .opencode/plugin/evil.js"),
        "{refused}"
    );
    assert_eq!(fake_prompts(&world).len(), prompts, "the prompt was sent");
}
