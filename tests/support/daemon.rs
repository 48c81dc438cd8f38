//! A world's daemon, as the commands of its owner see it.

use std::path::{Path, PathBuf};

use kugetsu_testing::{Stdin, World};
use serde_json::Value;

use super::kit::{SOON, run, text};

/// What `daemon status` prints.
#[track_caller]
pub(crate) fn status(world: &World) -> Value {
    let status = run(world, ["daemon", "status", "--json"]);
    status.expect_status(0);
    status.json()
}

/// Submits a task, and returns its id.
#[track_caller]
pub(crate) fn submit(world: &World, words: &[&str]) -> String {
    let output = run(
        world,
        ["submit", "--json"].into_iter().chain(words.iter().copied()),
    );
    output.expect_status(0);
    text(&output.json()["task"])
}

/// A task.
#[track_caller]
pub(crate) fn task(world: &World, id: &str) -> Value {
    let shown = run(world, ["task", "show", id, "--json"]);
    shown.expect_status(0);
    shown.json()
}

/// Waits until a task is in this state.
#[track_caller]
pub(crate) fn wait_for_state(world: &World, id: &str, state: &str) -> Value {
    world.wait_until(&format!("task {id} is {state}"), SOON, || {
        task(world, id)["state"] == state
    });
    task(world, id)
}

/// Creates a token, and returns it.
#[track_caller]
pub(crate) fn create_token(world: &World, words: &[&str]) -> String {
    let words = ["daemon", "token", "create", "--json"]
        .into_iter()
        .chain(words.iter().copied());
    let created = run(world, words);
    created.expect_status(0);
    text(&created.json()["token"])
}

/// Makes a certificate for this machine and its key in a folder, and returns their paths.
#[track_caller]
pub(crate) fn certificate(world: &World, folder: &Path) -> (PathBuf, PathBuf) {
    let mut make = world.command("openssl");
    make.current_dir(folder)
        .args([
            "req",
            "-x509",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=kugetsu test",
        ])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    world.finish(make, Stdin::Null).expect_status(0);
    (folder.join("cert.pem"), folder.join("key.pem"))
}
