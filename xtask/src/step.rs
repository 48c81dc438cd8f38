//! Runs other programs as named steps; the command ends at the first failure.

use std::fmt::Display;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use kugetsu_testing::workspace_root;

/// Why a command failed, and its exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) status: u8,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            status: 1,
        }
    }

    /// A program that failed; its status becomes ours.
    pub(crate) fn of_status(name: &str, status: ExitStatus) -> Self {
        let code = status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1)
            .max(1);
        Self {
            message: format!("{name}: {status}"),
            status: code,
        }
    }

    pub(crate) fn because(what: impl Display) -> impl Fn(std::io::Error) -> Self {
        move |error| Self::new(format!("{what}: {error}"))
    }
}

/// The cargo that runs this program, in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace_root());
    // cargo describes this package to this program. Some build scripts would run again because a shell does not.
    let of_this_package = ["CARGO_PKG_", "CARGO_MANIFEST_"];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if of_this_package.iter().any(|start| text.starts_with(start)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a step under a headline and prints how long it took.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    println!("=== {name}");
    let start = Instant::now();
    let done = work();
    let how = if done.is_ok() { "ok" } else { "FAILED" };
    println!("=== {name}: {how} in {:.1} s", start.elapsed().as_secs_f64());
    done
}

/// Runs a program that prints for this one only, and returns its stdout.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>, Failure> {
    let name = command.get_program().display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(Failure::because(&name))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut failure = Failure::of_status(&name, output.status);
    failure.message += &format!("\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
    Err(failure)
}

/// A step that runs one program.
pub(crate) fn program(name: &str, command: &mut Command) -> Result<(), Failure> {
    step(name, || {
        let status = command.status().map_err(Failure::because(name))?;
        if status.success() {
            Ok(())
        } else {
            Err(Failure::of_status(name, status))
        }
    })
}
