//! A repository that brings programs for opencode: none of them runs unless the repository is trusted.

use std::path::{Path, PathBuf};

use crate::support::kit::SOON;
use kugetsu_testing::{Opencode, Output, Reply, Stdin, Version, World, files_below, on_both_versions};
use serde_json::json;

/// The folder in which each program of the repository leaves a file when it runs.
fn canaries(world: &World) -> PathBuf {
    world.root().join("canaries")
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// What a folder brings, apart from plugins.
fn bring(world: &World, folder: &Path) {
    let canaries = canaries(world);
    std::fs::create_dir_all(&canaries).unwrap();
    let command = |name: &str| json!(["sh", "-c", format!("touch {}/{name}; exit 1", canaries.display())]);
    let config = json!({
        "$schema": "https://opencode.ai/config.json",
        "mcp": {"evil": {"type": "local", "command": command("mcp")}},
        "lsp": {"evil": {"command": command("lsp"), "extensions": [".zz"]}},
        "formatter": {"evil": {"command": command("formatter"), "extensions": [".zz"]}},
        "instructions": ["evil-instructions.md"],
    });
    write(&folder.join("opencode.json"), &config.to_string());
    let config = json!({"mcp": {"hidden": {"type": "local", "command": command("hidden-mcp")}}});
    write(&folder.join(".opencode/opencode.jsonc"), &config.to_string());
    let tool = format!(
        "import {{ writeFileSync }} from 'fs'\nwriteFileSync('{}/tool', '')\n\
         export default {{ description: 'e', args: {{}}, async execute() {{ return 'x' }} }}\n",
        canaries.display()
    );
    write(&folder.join(".opencode/tool/evil.js"), &tool);
    let agent = "---\ndescription: evil-agent\nmode: subagent\n---\nx\n";
    write(&folder.join(".opencode/agent/evil.md"), agent);
    let skill = |name: &str| format!("---\nname: {name}\ndescription: {name}\n---\nx\n");
    write(
        &folder.join(".opencode/skill/evil/SKILL.md"),
        &skill("evil-skill"),
    );
    write(
        &folder.join(".claude/skills/evil/SKILL.md"),
        &skill("evil-claude"),
    );
    write(
        &folder.join(".agents/skills/evil/SKILL.md"),
        &skill("evil-agents"),
    );
    write(&folder.join("evil-instructions.md"), "evil-text\n");
    write(&folder.join("AGENTS.md"), "harmless-text\n");
    // Measured: opencode reads neither.
    write(&folder.join("bunfig.toml"), "preload = [\"./preload.ts\"]\n");
    write(
        &folder.join("preload.ts"),
        &format!(
            "require('fs').writeFileSync('{}/bunfig', '')\n",
            canaries.display()
        ),
    );
    let config = json!({"mcp": {"env": {"type": "local", "command": command("dotenv")}}});
    write(
        &folder.join(".env"),
        &format!("OPENCODE_CONFIG_CONTENT={config}\n"),
    );
}

fn bring_plugins(world: &World, folder: &Path) {
    for name in ["plugin/p.js", "plugins/q.js"] {
        let canary = canaries(world).join(name.replace('/', "-"));
        let plugin = format!(
            "import {{ writeFileSync }} from 'fs'\nwriteFileSync('{}', '')\nexport const P = async () => ({{}})\n",
            canary.display()
        );
        write(&folder.join(".opencode").join(name), &plugin);
    }
}

fn commit(world: &World, folder: &Path) {
    world.git(folder, ["add", "--all"]);
    world.git(folder, ["commit", "--quiet", "--message", "Bring"]);
}

/// The names of the programs that have run.
fn ran(world: &World) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut names: Vec<_> = files_below(&canaries(world)).into_iter().map(name).collect();
    names.sort();
    names
}

#[track_caller]
fn kugetsu(world: &World, arguments: &[&str]) -> Output {
    let mut command = world.kugetsu(arguments);
    // The world turns off the skills in `.claude`, which people do not.
    command.env_remove("OPENCODE_DISABLE_CLAUDE_CODE");
    let output = world.start(command, Stdin::Null).wait(SOON);
    world.wait_nothing_left(SOON);
    output
}

/// A turn that reads and writes a file for which the repository brings a language server and a formatter.
fn turn(world: &World, arguments: &[&str], folder: &Path) -> Output {
    world.forget_opencode_locks();
    let prompt = format!("look around {}", arguments.join(" "));
    write(&folder.join("a.zz"), "a\n");
    let replies = vec![
        Reply::tool("read", json!({"filePath": folder.join("a.zz")})),
        Reply::tool(
            "write",
            json!({"filePath": folder.join("b.zz"), "content": format!("{prompt}\n")}),
        ),
        Reply::text("done"),
    ];
    world.model.on(prompt.clone(), replies);
    kugetsu(world, &[arguments, &["--output", "json", &prompt]].concat())
}

/// Everything that the model was offered and told since the last call.
fn told(world: &World, since: usize) -> String {
    let requests = world.model.requests();
    requests[since..]
        .iter()
        .map(|request| request.body.to_string())
        .collect()
}

#[track_caller]
fn nothing_was_loaded(world: &World, since: usize, output: &Output) {
    assert_eq!(ran(world), Vec::<String>::new(), "{output}");
    let told = told(world, since);
    for evil in [
        "evil-agent",
        "evil-skill",
        "evil-claude",
        "evil-agents",
        "evil-text",
        "\"name\":\"evil\"",
    ] {
        assert!(!told.contains(evil), "{evil}\n{output}");
    }
    assert!(told.contains("harmless-text"), "AGENTS.md is text\n{output}");
}

on_both_versions! {
    fn nothing_that_a_repository_brings_is_loaded_unless_it_is_trusted(world: &World) {
        let repo = world.repo();
        bring(world, &repo);
        commit(world, &repo);
        let made = kugetsu(world, &["init"]);
        made.expect_status(0);
        for word in ["tool .opencode/tool/evil.js", "opencode.json (formatter, lsp, mcp)", "not trusted", "--trust-repo"] {
            assert!(made.stderr().replace('\n', " ").contains(word), "{word}\n{made}");
        }
        assert_eq!(ran(world), Vec::<String>::new(), "{made}");
        for (issue, transport) in [("#1", "run"), ("#2", "serve")] {
            let since = world.model.requests().len();
            let folder = repo.join(".worktrees/github.com/shoko/kugetsu").join(&issue[1..]);
            // The worktree does not exist yet, so the files are the clone's.
            let output = turn(world, &["start", issue, "--worktree", "--transport", transport], &repo);
            output.expect_status(0);
            nothing_was_loaded(world, since, &output);
            let since = world.model.requests().len();
            let output = turn(world, &["continue", issue, "--transport", transport], &folder);
            output.expect_status(0);
            assert!(folder.join("b.zz").exists(), "{output}");
            nothing_was_loaded(world, since, &output);
        }
        let explained = kugetsu(world, &["permit", "--base", "--explain"]);
        explained.expect_status(0);
        assert!(explained.stderr().contains("not trusted"), "{explained}");
        let checked = kugetsu(world, &["doctor"]);
        assert!(checked.stdout().contains("not trusted"), "{checked}");
        assert_eq!(ran(world), Vec::<String>::new());

        // With plugins, 1.18.33 would run them: it gets no prompt.
        bring_plugins(world, &repo);
        commit(world, &repo);
        let output = turn(world, &["start", "#3", "--no-worktree", "--transport", "serve"], &repo);
        if world.opencode() == Opencode::Real(Version::V1_3_2) {
            output.expect_status(0);
        } else {
            output.expect_status(2);
            assert_eq!(output.json()["error"]["code"], "untrusted-repo", "{output}");
            assert!(output.json().to_string().contains(".opencode/plugin/p.js"), "{output}");
        }
        assert_eq!(ran(world), Vec::<String>::new(), "{output}");

        // The same is loaded once it is trusted, so the test can fail. With a `.opencode`, 1.18.33 waits for npm, which
        // reaches nothing here.
        let old = world.opencode() == Opencode::Real(Version::V1_3_2);
        if !old {
            std::fs::remove_dir_all(repo.join(".opencode")).unwrap();
        }
        kugetsu(world, &["permit", "--base", "--trust-repo"]).expect_status(0);
        let since = world.model.requests().len();
        let output = turn(
            world,
            &["start", "#4", "--no-worktree", "--transport", "serve"],
            &repo,
        );
        output.expect_status(0);
        let ran = ran(world);
        let trusted: &[&str] = if old {
            &["hidden-mcp", "lsp", "mcp", "plugin-p.js", "plugins-q.js", "tool"]
        } else {
            &["mcp"]
        };
        for name in trusted {
            assert!(ran.iter().any(|ran| ran == name), "{name}: {ran:?}\n{output}");
        }
        assert!(told(world, since).contains("evil-text"), "{output}");
    }

    fn a_broken_configuration_is_told_with_its_place(world: &World) {
        world.make_base();
        let config = world.opencode_config_file();
        let good = std::fs::read_to_string(&config).unwrap();
        let command = |arguments: &[&str], place: &str| {
            let output = kugetsu(world, arguments);
            let text = format!("{}{}", output.stdout(), output.stderr());
            let told = text.contains(place) && text.contains("opencode refuses its configuration");
            assert!(told, "{place}\n{output}");
            assert!(!text.contains("sk-secret"), "opencode prints the file\n{output}");
            assert_ne!(output.code(), 0, "{output}");
            assert!(!output.stderr().contains("restart"), "{output}");
        };
        // The user's own file.
        write(&config, "{\n  // sk-secret\n  \"model\" \"scripted/scripted\"\n}\n");
        let place = format!("{}:3:11: not valid JSON (ColonExpected)", config.display());
        for arguments in [
            &["init", "--force"][..],
            &["start", "#1", "--transport", "serve", "hello"],
            &["start", "#1", "--transport", "run", "hello"],
        ] {
            command(arguments, &place);
        }
        write(&config, "{\n  \"mcp\": {\n    \"a\": 7\n  }\n}\n");
        command(&["start", "#1", "--transport", "run", "hello"], &format!("{}:3:5: mcp.a: ", config.display()));
        // A file of the clone, if it is loaded.
        write(&config, &good);
        let file = world.repo().join("opencode.jsonc");
        write(&file, "{\n  \"model\": \"a\n}\n");
        kugetsu(world, &["permit", "--base", "--trust-repo"]).expect_status(0);
        let place = format!("{}:2:12: not valid JSON (unterminated string literal)", file.display());
        for transport in ["serve", "run"] {
            command(&["start", "#1", "--no-worktree", "--transport", transport, "hello"], &place);
        }
    }
}
