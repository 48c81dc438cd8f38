//! `cargo xtask fuzz`: runs each fuzz target for a given time.
//!
//! cargo-fuzz needs a nightly compiler for its sanitizers. Sanitizers find memory errors, which safe code does not have.
//! Coverage guides the search for inputs, and the stable compiler can record it (the options are those of cargo-fuzz:
//! <https://github.com/rust-fuzz/cargo-fuzz/blob/main/src/project.rs>).

use std::process::Command;

use kugetsu_testing::workspace_root;

use crate::step::{Failure, cargo, program};

const TARGETS: [&str; 10] = [
    "address",
    "answers",
    "config",
    "forge_text",
    "queue_record",
    "record",
    "run_events",
    "server_events",
    "ssh_frames",
    "task_request",
];

/// Compiler flags that record which branches an input takes, and that check arithmetic.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "--cfg=fuzzing",
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only this target
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let host = host()?;
    let folder = workspace_root().join("fuzz");
    let mut build = cargo(&[
        "build",
        "--release",
        "--locked",
        "--manifest-path",
        "fuzz/Cargo.toml",
    ]);
    // With an explicit target, cargo does not instrument build scripts and procedural macros.
    build
        .args(["--target", &host, "--target-dir", "fuzz/target"])
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", FLAGS.join(" "));
    program("build (needs a C++ compiler for libFuzzer)", &mut build)?;
    let wanted = |name: &&str| options.target.as_ref().is_none_or(|only| only == name);
    for name in TARGETS.into_iter().filter(wanted) {
        let corpus = folder.join("corpus").join(name);
        let found = folder.join("artifacts").join(name);
        for folder in [&corpus, &found] {
            std::fs::create_dir_all(folder).map_err(Failure::because(folder.display()))?;
        }
        let mut fuzz = Command::new(folder.join("target").join(&host).join("release").join(name));
        // libFuzzer stores new inputs in the first folder and only reads the others.
        fuzz.arg(corpus)
            .arg(workspace_root().join("sessions-example"))
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg(format!("-max_total_time={}", options.seconds))
            .args(["-print_final_stats=1", "-verbosity=0"]);
        program(&format!("{name}, {} s", options.seconds), &mut fuzz)?;
    }
    Ok(())
}

/// The platform that the compiler itself runs on.
pub(crate) fn host() -> Result<String, Failure> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .map_err(Failure::because("rustc -vV"))?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .ok_or_else(|| Failure::new("rustc -vV does not name the host"))
}
