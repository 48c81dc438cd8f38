//! Several homes of kugetsu that share one opencode database, as two users of one account have them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use kugetsu_testing::{Output, Running, Stdin, World};

use super::kit::SOON;

/// `kugetsu` with another home.
pub(crate) fn at_home(world: &World, home: &Path, arguments: &[&str]) -> Command {
    let mut command = world.kugetsu(arguments);
    command.env("KUGETSU_HOME", home);
    command
}

pub(crate) fn run_at(world: &World, home: &Path, arguments: &[&str]) -> Output {
    start_at(world, home, arguments).wait(SOON)
}

pub(crate) fn start_at(world: &World, home: &Path, arguments: &[&str]) -> Running {
    world.start(at_home(world, home, arguments), Stdin::Null)
}

/// Two homes that have adopted this session as their base.
pub(crate) fn two_homes(world: &World, base: &str) -> [PathBuf; 2] {
    ["a", "b"].map(|name| {
        let home = world.root().join(format!("home-{name}"));
        run_at(world, &home, &["init", "--adopt", base]).expect_status(0);
        home
    })
}

/// The session in a home's record, if the record names one.
pub(crate) fn session_in(world: &World, home: &Path, issue: &str) -> Option<String> {
    let shown = run_at(world, home, &["show", issue, "--json"]);
    (shown.code() == 0)
        .then(|| shown.json()["session"].as_str().map(str::to_owned))
        .flatten()
}

/// The sessions that hold this prompt.
pub(crate) fn with_prompt(world: &World, prompt: &str) -> BTreeSet<String> {
    let ids = world.sessions().into_iter().map(|row| row.id);
    ids.filter(|id| world.prompts(id).iter().any(|stored| stored == prompt))
        .collect()
}
