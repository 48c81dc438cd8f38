//! Regenerates `sessions-example/`: the real kugetsu's files after two issues on the real opencode.

use std::path::{Path, PathBuf};

use kugetsu_testing::{ForgeServer, Reply, ScriptedIssue, Version, workspace_root};

use crate::opencode;
use crate::step::Failure;

const VERSION: Version = Version::V1_18_33;
/// The placeholder in the example for the sessions' folder.
const DIRECTORY: &str = "/home/ada/kugetsu";
const CONFIG: &str = "\
# Every setting is optional. `kugetsu config` lists them all, with their values and where they come from.
timeout = \"45m\"
stall_timeout = \"5m\"
preset = \"headless\"
rules = [\"bash:git push *=deny\"]
";

pub(crate) fn run() -> Result<(), Failure> {
    let world = opencode::new_machine(VERSION, std::time::Duration::from_millis(40))?;
    world.model.on("badkey", vec![Reply::status(401, "invalid key")]);
    let forge = ForgeServer::start();
    forge.github(
        "shoko/kugetsu",
        14,
        &ScriptedIssue::new("The index is read before it is checked", "It crashes.", &[]),
    );
    let config = world.kugetsu_home().join("config.toml");
    let forges = format!("\n[forges.\"github.com\"]\napi_url = \"{}\"\n", forge.url());
    write(&config, &format!("{CONFIG}{forges}"))?;
    let issue = "github.com/shoko/kugetsu#14";
    let other = "https://github.com/shoko/kugetsu/issues/15";
    for (status, arguments) in [
        (0, &["init", "--json", "--dir", "."][..]),
        (0, &["start", "--json", issue, "fix the crash", "--with-issue"]),
        (0, &["continue", "--json", issue, "now add a test"]),
        (1, &["start", "--json", other, "badkey"]),
    ] {
        world.run(arguments).expect_status(status);
    }
    write(&config, CONFIG)?;
    let example = workspace_root().join("sessions-example");
    let _ = std::fs::remove_dir_all(&example);
    let repo = world.repo().display().to_string();
    let mut streams = Vec::new();
    for file in files(&world.kugetsu_home())? {
        let name = file.strip_prefix(world.kugetsu_home()).unwrap_or(&file);
        let shown = name.to_string_lossy();
        if shown.ends_with(".events.jsonl") {
            // Turn ids sort by time, so the first stream is the one with a tool call.
            streams.push(name.to_owned());
        } else if !shown.starts_with("run/") && keep(&shown) {
            copy(&file, &example.join(name), &repo)?;
        }
    }
    streams.sort();
    if let Some(first) = streams.first() {
        copy(&world.kugetsu_home().join(first), &example.join(first), &repo)?;
    }
    println!("{}", example.display());
    Ok(())
}

/// Whether a file is meant for people to read: settings, index, records, turns.
fn keep(name: &str) -> bool {
    ["config.toml", ".json", "turns.jsonl"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)
        .map_err(Failure::because(folder.display()))?
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path, repo: &str) -> Result<(), Failure> {
    let text = std::fs::read_to_string(from).map_err(Failure::because(from.display()))?;
    write(to, &text.replace(repo, DIRECTORY))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(Failure::because(folder.display()))?;
    std::fs::write(path, text).map_err(Failure::because(path.display()))
}
