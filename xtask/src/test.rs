//! Everything that must pass, in the order in which it fails fastest.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use kugetsu_testing::{HangRow, Version, workspace_root};

use crate::opencode;
use crate::packages::{self, installed};
use crate::step::{Failure, cargo, program, step};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out the tests that run the real opencode (tests/real, tests/soak, and the modules tests::real of the engine)
    #[arg(long)]
    quick: bool,
    /// Run only the tests whose name contains this, or those of the program tests/FILTER, and no other check
    filter: Option<String>,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if options.filter.is_none() {
        program("cargo fmt", &mut cargo(&["fmt", "--all", "--check"]))?;
        let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        program("cargo clippy", &mut cargo(&clippy))?;
        if installed("cargo-deny") {
            program("cargo deny", &mut cargo(&["deny", "check"]))?;
        } else {
            println!("=== cargo deny: not run, it is not installed (cargo install cargo-deny)");
        }
    }
    step("system packages", packages::install_missing)?;
    if !options.quick {
        opencode::install_all()?;
    }
    // All programs first: tests start kugetsu and the fake opencode, which cargo does not build for every one of them.
    program("build", &mut cargo(&["build", "--workspace", "--all-targets"]))?;
    let passed = step("tests", || tests(options))?;
    report(options, passed)
}

/// The programs of tests that need the real opencode.
const REAL: [&str; 2] = ["real", "soak"];
/// The modules of the engine's own tests that need it.
const REAL_MODULE: &str = "tests::real::";

/// One run of cargo's tests: which, and how many at a time.
struct Pass {
    which: Vec<String>,
    threads: usize,
}

/// Real opencodes cost a core each, and every test waits now and then. Without them most of a test is waiting.
fn passes(options: &Options) -> Result<Vec<Pass>, Failure> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let pass = |which: Vec<String>, threads: usize| Pass {
        which,
        threads: threads.clamp(2, 8),
    };
    let files = |real: bool| -> Result<Vec<String>, Failure> {
        let names = test_files()?
            .into_iter()
            .filter(|name| REAL.contains(&name.as_str()) == real);
        Ok(names.flat_map(|name| ["--test".to_owned(), name]).collect())
    };
    let programs = ["--lib", "--bins"].map(str::to_owned).to_vec();
    let quick = || -> Result<Pass, Failure> { Ok(pass([programs, files(false)?].concat(), cores * 4)) };
    Ok(match &options.filter {
        Some(name) if is_program(name)? => {
            vec![pass(vec!["--test".to_owned(), name.clone()], cores * 2)]
        }
        _ if options.quick => vec![quick()?],
        None => vec![
            quick()?,
            pass(files(true)?, cores * 2),
            pass(vec!["--doc".to_owned()], cores),
        ],
        Some(_) => vec![pass(Vec::new(), cores * 2)],
    })
}

/// How many tests passed: in all, and on each real version.
struct Passed {
    all: usize,
    on: Vec<(Version, usize)>,
}

fn tests(options: &Options) -> Result<Passed, Failure> {
    // What an earlier run measured would pass for this one's. There may be none.
    let _ = std::fs::remove_dir_all(HangRow::folder());
    let mut passed = Passed {
        all: 0,
        on: Version::ALL.into_iter().map(|version| (version, 0)).collect(),
    };
    let mut failed = None;
    for pass in passes(options)? {
        if let Err(failure) = run_pass(options, &pass, &mut passed) {
            failed = Some(failure);
        }
    }
    match failed {
        None => Ok(passed),
        Some(failure) => Err(failure),
    }
}

fn run_pass(options: &Options, pass: &Pass, passed: &mut Passed) -> Result<(), Failure> {
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
    command
        .args(&pass.which)
        .arg("--")
        .arg(format!("--test-threads={}", pass.threads));
    if let Some(name) = &options.filter
        && !is_program(name)?
    {
        command.arg(name);
    }
    if options.quick {
        command.args(["--skip", REAL_MODULE]);
    }
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Failure::because("cargo test"))?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| Failure::new("cargo test: stdout was piped"))?;
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .map_err(Failure::because("cargo test"))?
        > 0
    {
        // Whoever reads us may go; the tests still count.
        let _ = std::io::stdout().write_all(&line);
        passed.count(&String::from_utf8_lossy(&line));
        line.clear();
    }
    let status = child.wait().map_err(Failure::because("cargo test"))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::of_status("cargo test", status))
    }
}

/// Whether tests have this as the name of their program, and not of a module or their own.
fn is_program(name: &str) -> Result<bool, Failure> {
    Ok(test_files()?.iter().any(|program| program == name))
}

/// The programs of the integration tests.
fn test_files() -> Result<Vec<String>, Failure> {
    let folder = workspace_root().join("tests");
    let files = std::fs::read_dir(&folder).map_err(Failure::because(folder.display()))?;
    let mut names: Vec<String> = files
        .flatten()
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            // A test is a file, or a folder with a `main.rs`.
            let folder = file.path().join("main.rs").is_file().then(|| name.clone());
            name.strip_suffix(".rs").map(str::to_owned).or(folder)
        })
        .collect();
    names.sort();
    Ok(names)
}

impl Passed {
    /// Counts a line such as `test resumes::v1_3_2 ... ok`.
    fn count(&mut self, line: &str) {
        let name = line
            .strip_prefix("test ")
            .and_then(|line| line.trim_end().strip_suffix(" ... ok"));
        let Some(name) = name else { return };
        self.all += 1;
        for (version, count) in &mut self.on {
            let module = format!("v{}", version.as_str().replace('.', "_"));
            if name.split("::").any(|part| part == module) {
                *count += 1;
            }
        }
    }
}

fn report(options: &Options, passed: Passed) -> Result<(), Failure> {
    println!("=== {} tests passed", passed.all);
    if passed.all == 0 {
        return Err(Failure::new("no test has such a name"));
    }
    if options.quick {
        println!("=== the real opencode: not run (--quick)");
        return Ok(());
    }
    for (version, count) in passed.on {
        println!("=== the real opencode {version}: {count} tests passed");
        if count == 0 && options.filter.is_none() {
            return Err(Failure::new(format!(
                "no test ran on the real opencode {version}"
            )));
        }
    }
    let hangs = HangRow::all();
    if !hangs.is_empty() {
        println!(
            "=== what would hang, and how it ended\n\n{}",
            HangRow::markdown(&hangs)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted_on_their_version() {
        let mut passed = Passed {
            all: 0,
            on: vec![(Version::V1_3_2, 0), (Version::V1_18_33, 0)],
        };
        for line in [
            "test starts::v1_3_2 ... ok\n",
            "test starts::v1_18_33 ... FAILED\n",
            "test other ... ok\n",
            "test v1_18_33_is_no_module ... ok\n",
            "test result: ok. 3 passed; 0 failed\n",
        ] {
            passed.count(line);
        }
        assert_eq!(passed.all, 3);
        assert_eq!(passed.on, [(Version::V1_3_2, 1), (Version::V1_18_33, 0)]);
    }
}
