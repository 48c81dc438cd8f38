//! Worktrees and hooks on real git, with a scripted opencode. `real/worktree.rs` covers the real opencode.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::kit::{ISSUE, serving_world, worktree_of};
use kugetsu_testing::{Output, World};
use serde_json::Value;

mod by_default;
mod hooks;
mod making;
mod removing;

/// A world with a base, whose opencode forks through `serve` and answers through `run`.
fn world() -> World {
    let world = serving_world();
    fs::create_dir_all(world.kugetsu_home()).unwrap();
    configure(&world, "");
    world.run(["init"]).expect_status(0);
    world
}

fn configure(world: &World, settings: &str) {
    let text = format!("transport = \"run\"\n{settings}\n");
    fs::write(world.kugetsu_home().join("config.toml"), text).unwrap();
}

fn start(world: &World, more: &[&str]) -> Output {
    world.run([&["start", "14", "do it"], more].concat())
}

fn started(world: &World) -> PathBuf {
    start(world, &["--worktree"]).expect_status(0);
    worktree_of(world, "14")
}

fn show(world: &World) -> Value {
    world.run(["show", ISSUE, "--json"]).json()
}

/// The folders in which the fake opencode's `run` was called.
fn turn_folders(world: &World) -> Vec<PathBuf> {
    let calls = world.fake_calls();
    let runs = calls.into_iter().filter(|call| call.arguments[0] == "run");
    runs.map(|call| call.directory).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn commit(world: &World, folder: &Path, file: &str) {
    fs::write(folder.join(file), "work\n").unwrap();
    world.git(folder, ["add", "--all"]);
    world.git(folder, ["commit", "--quiet", "--message", file]);
}

fn branches(world: &World) -> String {
    world
        .git(
            &world.repo(),
            ["branch", "--list", "kugetsu/*", "--format=%(refname:short)"],
        )
        .stdout()
}

fn worktrees(world: &World) -> usize {
    let listed = world.git(&world.repo(), ["worktree", "list"]).stdout();
    listed.lines().count() - 1
}
