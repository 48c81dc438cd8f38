//! Runs every check and test, fastest failures first.

mod programs;
mod results;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use kugetsu_testing::{HangRow, QUICK, Version};

use crate::clients;
use crate::dist;
use crate::opencode;
use crate::packages::{self, installed};
use crate::prism;
use crate::step::{Failure, cargo, program, step};
use programs::TestProgram;
use results::Results;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out the tests that run the real opencode (the programs real and soak, the modules tests::real), a browser or
    /// other clients, and those that make packages, and kill commands only at the first pass of each crash point
    #[arg(long)]
    quick: bool,
    /// Run only the tests whose name contains this, or those of the program with this name (fast, real, soak,
    /// kugetsu-engine, ...), and no other check
    filter: Option<String>,
}

/// Where attacks are, in every test program.
const ATTACKS: &str = "attack::";

/// Where the tests with clients from outside are.
const CLIENTS: [&str; 3] = ["daemon::clients::", "daemon::page::", "daemon::proxies::"];

/// Runs the tests that attack, and prints a table of them.
pub(crate) fn attacks() -> Result<(), Failure> {
    run(&Options {
        quick: false,
        filter: Some(ATTACKS.to_owned()),
    })
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
    step("system packages", || {
        packages::install_missing(&packages::FOR_TESTS)
    })?;
    let programs = step("build", programs::build)?;
    let runs = plan(options, &programs)?;
    if runs.is_empty() {
        let among = if options.quick {
            " among those of --quick"
        } else {
            ""
        };
        return Err(Failure::new(format!("no test{among} has such a name")));
    }
    if runs.iter().any(|run| run.real) {
        opencode::install_all()?;
    }
    if runs.iter().any(Run::needs_prism) {
        prism::install()?;
    }
    if runs.iter().any(Run::needs_clients) {
        clients::install()?;
    }
    if runs.iter().any(Run::needs_cargo_deb) {
        dist::install_cargo_deb()?;
    }
    let mut results = Results::default();
    let done = step("tests", || tests(options, &runs, &mut results));
    report(&results, &runs);
    let missed = |version: &Version| options.filter.is_none() && results.passed_on(*version) == 0;
    match Version::ALL.into_iter().find(missed) {
        Some(version) if done.is_ok() && !options.quick => Err(Failure::new(format!(
            "no test ran on the real opencode {version}"
        ))),
        _ => done,
    }
}

/// Tests of one program that run together.
struct Run<'a> {
    program: &'a TestProgram,
    tests: Vec<String>,
    real: bool,
}

impl Run<'_> {
    fn needs_prism(&self) -> bool {
        self.real && self.tests.iter().any(|test| test.starts_with("forge::"))
    }

    fn needs_clients(&self) -> bool {
        self.program.is_called("fast") && self.tests.iter().any(|test| runs_clients(test))
    }

    fn needs_cargo_deb(&self) -> bool {
        self.program.is_called("fast") && self.tests.iter().any(|test| makes_packages(test))
    }

    /// The number of concurrent tests. A real opencode keeps a core busy but waits now and then; the other tests mostly
    /// wait.
    fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        if self.real {
            (cores * 3).clamp(2, 16)
        } else {
            (cores * 8).clamp(2, 32)
        }
    }
}

fn makes_packages(test: &str) -> bool {
    test.starts_with("dist::")
}

fn runs_clients(test: &str) -> bool {
    CLIENTS.iter().any(|module| test.starts_with(module))
}

/// The runs: everything that needs no real opencode comes first.
fn plan<'a>(options: &Options, programs: &'a [TestProgram]) -> Result<Vec<Run<'a>>, Failure> {
    let filter = options.filter.as_deref();
    let called = |program: &TestProgram| filter.is_some_and(|filter| program.is_called(filter));
    let one = programs.iter().any(called);
    let mut runs = Vec::new();
    for program in programs.iter().filter(|program| !one || called(program)) {
        let mut tests = program.tests(filter.filter(|_| !one))?;
        if options.quick {
            tests.retain(|test| !makes_packages(test) && !runs_clients(test));
        }
        let (real, quick): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| program.is_real(test));
        for (tests, real) in [(quick, false), (real, true)] {
            let left_out = real && options.quick;
            if !tests.is_empty() && !left_out {
                runs.push(Run { program, tests, real });
            }
        }
    }
    runs.sort_by_key(|run| run.real);
    Ok(runs)
}

fn tests(options: &Options, runs: &[Run<'_>], results: &mut Results) -> Result<(), Failure> {
    // Measurements of an earlier run must not count for this one. There may be none.
    let _ = std::fs::remove_dir_all(HangRow::folder());
    let memory = folder_in_memory();
    for run in runs {
        let name = &run.program.name;
        let threads = run.threads();
        println!("=== {name}: {} tests, {threads} at a time", run.tests.len());
        results.expect(name, &run.tests);
        // The real opencode runs on a disk, as it does for its users.
        let temporary = memory.as_deref().filter(|_| !run.real);
        let mut command = run.program.run(&run.tests, threads, temporary);
        if options.quick {
            command.env(QUICK, "1");
        }
        let success = run_by_line(command, name, |line| {
            results.line(line);
        })?;
        results.ended(success);
    }
    if options.filter.is_none() && !options.quick {
        program(
            "documentation tests",
            &mut cargo(&["test", "--workspace", "--doc"]),
        )?;
    }
    match results.failed() {
        [] => Ok(()),
        failed => Err(Failure::new(format!(
            "{} tests failed:\n  {}",
            failed.len(),
            failed.join("\n  ")
        ))),
    }
}

/// A folder in memory for files that tests write, if there is one with enough room that allows executing programs.
/// Crash tests spend half of their time waiting for the disk.
fn folder_in_memory() -> Option<PathBuf> {
    const ROOM: u64 = 4 << 30;
    let folder = PathBuf::from("/dev/shm");
    let state = rustix::fs::statvfs(&folder).ok()?;
    let fits = state.f_bavail * state.f_frsize >= ROOM;
    let executes = !state.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC);
    (fits && executes && std::env::var_os("TMPDIR").is_none()).then_some(folder)
}

/// Runs a command to its end, passes its stdout on, and calls `on_line` with each line. Returns whether it succeeded.
fn run_by_line(mut command: Command, name: &str, mut on_line: impl FnMut(&str)) -> Result<bool, Failure> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Failure::because(name))?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| Failure::new(format!("{name}: stdout was piped")))?;
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .map_err(Failure::because(name))?
        > 0
    {
        // A vanished reader must not stop the tests.
        let _ = std::io::stdout().write_all(&line);
        on_line(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(child.wait().map_err(Failure::because(name))?.success())
}

fn report(results: &Results, runs: &[Run<'_>]) {
    let hangs = HangRow::all();
    if !hangs.is_empty() {
        println!(
            "=== what would hang, and how it ended\n\n{}",
            HangRow::markdown(&hangs)
        );
    }
    if runs
        .iter()
        .flat_map(|run| &run.tests)
        .all(|test| test.contains(ATTACKS))
    {
        println!("=== attacks\n\n{}", results.attacks());
    }
    print!("=== the slowest tests\n{}", results.slowest());
    if runs.iter().all(|run| !run.real) {
        println!("=== the real opencode: not run");
    } else {
        for version in Version::ALL {
            println!(
                "=== the real opencode {version}: {} tests passed",
                results.passed_on(version)
            );
        }
    }
    println!("=== {} tests passed", results.passed());
}
