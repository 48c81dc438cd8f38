//! `cargo xtask load`: many tasks of many clients on one daemon, alone and while faults strike, with tables of the results.

use std::time::Duration;

use kugetsu_testing::{Fault, LoadPlan, LoadTally, Opencode, Version, World, load};

use crate::opencode;
use crate::packages;
use crate::step::{Failure, cargo, program};

/// How long each client pauses between two submissions while a fault strikes.
const PAUSE: Duration = Duration::from_secs(1);
/// The plan on the real opencode.
const REAL: LoadPlan = LoadPlan {
    tasks: 200,
    issues: 50,
    clients: 20,
    max_concurrent: 4,
    pause: Duration::ZERO,
    fault: None,
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Tasks through the fake opencode, without a fault; 0: none
    #[arg(long, default_value_t = 50_000)]
    fake_tasks: usize,
    /// Tasks on each version of the real opencode, and for each fault; 0: none
    #[arg(long, default_value_t = REAL.tasks)]
    tasks: usize,
    /// Only this fault; `none`: no fault
    #[arg(long, value_name = "FAULT", value_parser = fault)]
    fault: Option<Only>,
    /// Only on this version
    #[arg(long, value_name = "VERSION")]
    opencode: Option<Version>,
}

/// A choice of faults.
type Only = Option<Fault>;

fn fault(name: &str) -> Result<Only, String> {
    if name == "none" {
        Ok(None)
    } else {
        name.parse().map(Some)
    }
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    packages::install_missing(&packages::FOR_TESTS)?;
    opencode::install_all()?;
    program("build", &mut cargo(&["build", "--workspace"]))?;
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let mut problems = Vec::new();
    let mut table = Vec::new();
    let mut curve = Vec::new();
    let mut one = |opencode: Opencode, name: &str, plan: &LoadPlan| {
        let tally = load(&World::new(opencode), plan);
        let row = tally.row(name, plan);
        eprintln!("{row}");
        table.push(row);
        let what = plan.fault.map_or("none", Fault::describe);
        problems.extend(
            tally
                .problems
                .iter()
                .map(|text| format!("{name}, {what}: {text}")),
        );
        tally
    };
    if options.fake_tasks > 0 && options.fault.is_none() && options.opencode.is_none() {
        let plan = LoadPlan {
            tasks: options.fake_tasks,
            issues: 500,
            ..REAL
        };
        curve = one(Opencode::Fake, "fake", &plan).memory;
    }
    let faults = Fault::ALL.into_iter().map(Some);
    let wanted = |fault: &Only| options.fault.is_none_or(|only| only == *fault);
    let faults: Vec<Only> = std::iter::once(None).chain(faults).filter(wanted).collect();
    let versions =
        |version: &Version| options.tasks > 0 && options.opencode.is_none_or(|only| only == *version);
    for version in Version::ALL.into_iter().filter(versions) {
        let opencode = Opencode::Real(version);
        for fault in faults.iter().copied() {
            if fault.is_none_or(|fault| fault.fits(opencode)) {
                let plan = LoadPlan {
                    tasks: options.tasks,
                    pause: if fault.is_some() { PAUSE } else { Duration::ZERO },
                    fault,
                    ..REAL
                };
                one(opencode, version.as_str(), &plan);
            }
        }
    }
    println!("\n{} clients, {cores} cores\n\n{}", REAL.clients, LoadTally::HEAD);
    println!("{}", table.join("\n"));
    if !curve.is_empty() {
        println!("\n| tasks that had ended | memory of the daemon |\n|---|---|");
        for point in curve {
            println!("| {} | {:.1} MB |", point.ended, point.resident as f64 / 1e6);
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    )))
}
