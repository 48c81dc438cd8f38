//! Every shell block of the skill, of the README and of the manual works when typed as it stands, in order, in one new
//! home for each. These tests use the fake opencode, so they only prove kugetsu's part; `real/walks.rs` runs whole terminal
//! sessions on the real one.

use std::os::unix::fs::PermissionsExt as _;

use clap::Parser as _;
use kugetsu_testing::{Block, MANUAL, blocks, document, manual_blocks};
use kugetsu_testing::{FakeScript, Opencode, Output, Stdin, World, kugetsu_binary};

/// A stand-in for ssh: passes the words after the host to a shell as one line.
const SSH: &str = r#"#!/bin/sh
while :; do
    case $1 in
        -o) shift 2 ;;
        --) shift; break ;;
        -*) shift ;;
        *) break ;;
    esac
done
shift
exec sh -c "$*"
"#;

/// A world in which `kugetsu` is on PATH and `ssh` leads back into it.
fn world() -> World {
    let world = World::with_worktrees(Opencode::Fake);
    world.fake(&FakeScript::serving());
    let bin = world.root().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(kugetsu_binary(), bin.join("kugetsu")).unwrap();
    std::fs::write(bin.join("ssh"), SSH).unwrap();
    std::fs::set_permissions(bin.join("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(world.repo().join("prompt.md"), "do what the issue says\n").unwrap();
    world
}

fn shell(world: &World, script: &str) -> Output {
    let mut command = world.command("/bin/sh");
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .args(["-euc", script])
        .env("PATH", format!("{}:{path}", world.root().join("bin").display()))
        // The fake's server creates sessions but runs no turns.
        .env("KUGETSU_TRANSPORT", "run");
    world.finish(command, Stdin::Null)
}

/// Runs every block and returns the output of each.
fn type_blocks(world: &World, blocks: &[Block]) -> Vec<Output> {
    let mut outputs = Vec::new();
    for block in blocks {
        let name = &block.document;
        if block.runs {
            let output = shell(world, &block.text);
            assert!(output.code() == 0, "{name}, line {}:\n{output}", block.line);
            assert!(
                !output.stderr().contains("error"),
                "{name}, line {}:\n{output}",
                block.line
            );
            outputs.push(output);
        } else {
            for line in block.text.lines().filter(|line| line.starts_with("kugetsu ")) {
                let parsed = kugetsu::cli::Cli::try_parse_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{name}, line {}: {line}", block.line);
            }
        }
    }
    world.wait_nothing_left(std::time::Duration::from_mins(1));
    outputs
}

/// Agents read a skill's name and description from its front matter, which stands between two lines of dashes.
#[test]
fn the_skill_begins_with_its_front_matter() {
    let skill = document("skills/kugetsu/SKILL.md");
    let rest = skill
        .strip_prefix("---\nname: kugetsu\ndescription: ")
        .expect("a front matter");
    let (description, body) = rest.split_once("\n---\n").expect("the end of the front matter");
    assert!(
        description.contains("Use it when") && description.len() < 1024,
        "{description}"
    );
    assert!(body.trim_start().starts_with("# "), "{body:.100}");
}

#[test]
fn every_command_of_the_skill_works_as_written() {
    let world = world();
    let outputs = type_blocks(&world, &blocks("skills/kugetsu/SKILL.md", "sh"));
    let all: String = outputs.iter().map(Output::stdout).collect();
    assert!(all.contains("completed\n"), "{all}");

    let arrived = |words: &str| {
        world
            .fake_calls()
            .iter()
            .filter_map(|call| call.prompt.clone())
            .any(|prompt| prompt.contains(words))
    };
    assert!(arrived(
        "- Say `what is true` and nothing else; \"quotes\" and $(dollars) arrive as they are.\n"
    ));
    // The prompt that went through ssh.
    assert!(arrived("Make the build faster. Measure before and after.\n"));

    let sessions = world.run(["list", "--json"]).json();
    let refs: Vec<_> = sessions["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["ref"].as_str().unwrap())
        .collect();
    let expected = [14, 15, 16, 17, 18].map(|number| format!("github.com/shoko/kugetsu#{number}"));
    assert_eq!(refs, expected);
}

/// Each session, as it was typed, with the number of its turns.
fn turns(world: &World) -> Vec<(String, u64)> {
    let sessions = world.run(["list", "--json"]).json();
    let sessions = sessions["sessions"].as_array().unwrap().iter();
    let typed = |one: &serde_json::Value| one["typed"].as_str().unwrap().to_owned();
    sessions
        .map(|one| (typed(one), one["totals"]["turns"].as_u64().unwrap()))
        .collect()
}

#[test]
fn every_command_of_the_readme_works_as_written() {
    let world = world();
    type_blocks(&world, &blocks("README.md", "sh"));
    assert_eq!(turns(&world), [("14".to_owned(), 2)]);
}

#[test]
fn every_command_of_the_manual_works_as_written() {
    let world = world();
    let mut all = manual_blocks("sh");
    // The front page has the first session of another home.
    all.retain(|block| block.document != MANUAL[0]);
    type_blocks(&world, &all);
    let expected = [
        ("github.com/shoko/kugetsu#14", 4),
        ("#15", 1),
        ("16", 1),
        ("17", 1),
        ("18", 1),
        ("github.com/shoko/kugetsu#23", 2),
    ];
    assert_eq!(
        turns(&world),
        expected.map(|(typed, turns)| (typed.to_owned(), turns))
    );
    assert!(world.repo().join("kugetsu-start.1").metadata().unwrap().len() > 1000);
}

#[test]
fn the_object_in_the_manual_has_the_fields_that_a_turn_prints() {
    let world = world();
    shell(&world, "kugetsu init").expect_status(0);
    let mut printed = shell(&world, "kugetsu start 14 --output json 'fix the crash'")
        .expect_status(0)
        .json();
    // This turn committed nothing and changed no file.
    for list in ["commits", "files"] {
        printed["changes"][list] = serde_json::json!([]);
    }
    let shown: serde_json::Value = serde_json::from_str(&manual_blocks("json")[0].text).unwrap();
    let shape = |value: &serde_json::Value| -> Vec<String> {
        let fields = value.as_object().unwrap().iter();
        fields
            .flat_map(|(name, value)| match value.as_object() {
                Some(inner) => inner.keys().map(|key| format!("{name}.{key}")).collect(),
                None => vec![name.clone()],
            })
            .collect()
    };
    assert_eq!(shape(&shown), shape(&printed));
}
