//! Programs from outside that know the API from its document alone.

use std::fs;
use std::path::Path;

use kugetsu_testing::{Clients, Stdin, World};

use super::{status, submit, wait_for_state, world_with};
use crate::support::kit::{ISSUE, SOON, text};
use crate::support::proc::own_memory;

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// Lets schemathesis try requests that the document allows and that it forbids, and judge the answers.
#[track_caller]
fn judge(world: &World, config: &str, words: &[&str]) {
    let file = world.root().join("schemathesis.toml");
    fs::write(&file, config).unwrap();
    let document = format!("{}/v1/openapi.json", text(&status(world)["listen"]));
    let mut command = world.command(Clients::schemathesis());
    command
        .current_dir(world.root())
        .arg("--config-file")
        .arg(&file)
        .args(["run", &document, "--seed", "1", "--max-examples", "15"])
        .args([
            "--no-shrink",
            "--generation-database",
            "none",
            "--request-timeout",
            "60",
        ])
        // The daemon is needed to the end.
        .args(["--exclude-operation-id", "stop"])
        // A schema does not say all that makes a request valid: which sessions there are, or that one field of three says
        // where a task runs.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(words);
    world.start(command, Stdin::Null).wait(SOON).expect_status(0);
}

#[test]
fn no_request_breaks_the_daemon_or_gets_an_answer_that_the_document_does_not_have() {
    /// In KiB.
    const GROWTH: u64 = 32 << 10;
    assert!(
        Clients::schemathesis().is_file(),
        "schemathesis is not installed: run `cargo xtask test daemon::clients::`"
    );
    let world = world_with(&LISTEN);
    let task = submit(&world, &["14", "hello"]);
    wait_for_state(&world, &task, "ended");
    let pid = world.daemon().unwrap();
    let before = own_memory(pid);
    judge(&world, "warnings = false\n", &["--phases", "coverage,fuzzing"]);
    // The paths of what there is.
    let real = format!(
        "warnings = false\n[parameters]\n\"path.session\" = \"{ISSUE}\"\n\"path.task\" = \"{task}\"\n"
    );
    judge(
        &world,
        &real,
        &["--phases", "fuzzing", "--include-path-regex", "[{]"],
    );
    let after = own_memory(pid);
    assert!(after < before + GROWTH, "{before} KiB have become {after}");
    assert_eq!(status(&world)["pid"], pid, "it is the same daemon");
    let log = fs::read_to_string(world.kugetsu_home().join("run/daemon.log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    let task = submit(&world, &["14", "hello again"]);
    assert_eq!(wait_for_state(&world, &task, "ended")["verdict"], "completed");
}

#[test]
fn a_client_in_typescript_is_made_from_the_document_and_runs_a_task() {
    assert!(
        Clients::openapi_typescript().is_file() && Clients::tsc().is_file(),
        "the compiler is not installed: run `cargo xtask test daemon::clients::`"
    );
    let world = world_with(&LISTEN);
    let folder = world.root().join("typescript");
    fs::create_dir(&folder).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["package.json", "tsconfig.json", "task.ts"] {
        fs::copy(
            root.join("tests/clients/typescript").join(file),
            folder.join(file),
        )
        .unwrap();
    }
    std::os::unix::fs::symlink(Clients::node_modules(), folder.join("node_modules")).unwrap();
    let node = |words: &[&str]| {
        let mut command = world.command("node");
        command.current_dir(&folder).args(words);
        let output = world.start(command, Stdin::Null).wait(SOON);
        output.expect_status(0);
        output.stdout()
    };
    let document = root.join("docs/openapi.json");
    let (make, compile) = (Clients::openapi_typescript(), Clients::tsc());
    node(&[
        make.to_str().unwrap(),
        document.to_str().unwrap(),
        "-o",
        "kugetsu.d.ts",
    ]);
    node(&[compile.to_str().unwrap(), "--project", "."]);
    let said = node(&["task.js", &text(&status(&world)["listen"]), ISSUE, "hello"]);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "refused: 400 usage",
            "text: done",
            "end: completed, 1 step",
            "task: ended completed",
            "sessions: github.com/shoko/kugetsu#14",
        ]
    );
}
