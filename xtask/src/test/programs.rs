//! The test programs of the workspace: cargo builds them once, and xtask runs them directly.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kugetsu_testing::workspace_root;
use serde_json::Value;

use crate::step::{Failure, cargo};

/// The programs whose tests all need the real opencode.
const REAL_PROGRAMS: [&str; 2] = ["real", "soak"];
/// The modules in other programs whose tests need the real opencode.
const REAL_MODULE: &str = "tests::real::";

/// A test program.
pub(super) struct TestProgram {
    /// The name of its target: `fast`, `kugetsu_engine`.
    pub(super) name: String,
    path: PathBuf,
    /// The folder of its package, which cargo would use as the working directory.
    folder: PathBuf,
}

/// Builds everything but the benchmarks, because tests start `kugetsu` and the fake opencode, which cargo does not build
/// for every one of them.
pub(super) fn build() -> Result<Vec<TestProgram>, Failure> {
    let mut command = cargo(&["build", "--workspace", "--lib", "--bins", "--tests"]);
    command
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    let mut child = command.spawn().map_err(Failure::because("cargo build"))?;
    let stdout = child.stdout.take();
    let mut programs = Vec::new();
    for line in stdout
        .into_iter()
        .flat_map(|stdout| BufReader::new(stdout).lines())
    {
        programs.extend(artifact(&line.map_err(Failure::because("cargo build"))?));
    }
    let status = child.wait().map_err(Failure::because("cargo build"))?;
    if !status.success() {
        return Err(Failure::of_status("cargo build", status));
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// The test program in a message of cargo.
fn artifact(message: &str) -> Option<TestProgram> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    Some(TestProgram {
        name: target["name"].as_str()?.to_owned(),
        path: message["executable"].as_str()?.into(),
        folder: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
    })
}

impl TestProgram {
    /// Whether a filter is the name of this program rather than part of a test's name.
    pub(super) fn is_called(&self, filter: &str) -> bool {
        self.name.replace('_', "-") == filter.replace('_', "-")
    }

    /// Whether the test needs the real opencode.
    pub(super) fn is_real(&self, test: &str) -> bool {
        REAL_PROGRAMS.contains(&self.name.as_str()) || test.contains(REAL_MODULE)
    }

    /// The names of its tests, or of those that contain `filter`.
    pub(super) fn tests(&self, filter: Option<&str>) -> Result<Vec<String>, Failure> {
        let mut command = self.command();
        command.args(["--list", "--format", "terse"]).args(filter);
        let output = command.output().map_err(Failure::because(&self.name))?;
        if !output.status.success() {
            return Err(Failure::of_status(&self.name, output.status));
        }
        let list = String::from_utf8_lossy(&output.stdout);
        Ok(list
            .lines()
            .filter_map(|line| Some(line.strip_suffix(": test")?.to_owned()))
            .collect())
    }

    /// The command that runs these tests and prints the duration of each. `temporary` replaces the folder for temporary
    /// files that the environment names.
    pub(super) fn run(&self, tests: &[String], threads: usize, temporary: Option<&Path>) -> Command {
        let mut command = self.command();
        if let Some(folder) = temporary {
            command.env("TMPDIR", folder);
        }
        command
            .arg("--exact")
            .args(tests)
            .arg(format!("--test-threads={threads}"))
            .args(["-Z", "unstable-options", "--report-time"])
            // A stable test harness also has this option, and accepts it if this variable is set.
            .env("RUSTC_BOOTSTRAP", "1")
            // Otherwise, insta would ask cargo for it.
            .env("INSTA_WORKSPACE_ROOT", workspace_root());
        // A differing snapshot fails its test, and is written only on request.
        if std::env::var_os("INSTA_UPDATE").is_none() {
            command.env("INSTA_UPDATE", "no");
        }
        command
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.folder);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, test: bool) -> String {
        serde_json::json!({
            "reason": "compiler-artifact",
            "manifest_path": "/w/crates/one/Cargo.toml",
            "target": {"kind": [kind], "name": "some_one"},
            "profile": {"test": test},
            "executable": "/w/target/debug/deps/some_one-1",
        })
        .to_string()
    }

    #[test]
    fn test_programs_are_distinguished_from_other_artifacts() {
        let program = artifact(&message("lib", true)).unwrap();
        assert_eq!(program.folder, Path::new("/w/crates/one"));
        assert!(program.is_called("some-one") && program.is_called("some_one") && !program.is_called("some"));
        assert!(program.is_real("opencode::tests::real::x") && !program.is_real("opencode::tests::x"));
        for other in [&message("bin", false), "{}", "text"] {
            assert!(artifact(other).is_none(), "{other}");
        }
    }
}
