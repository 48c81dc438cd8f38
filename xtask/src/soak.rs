//! `cargo xtask soak`: many turns and random kills on the real opencode, one world per version, with a table of the
//! results.

use std::time::Instant;

use kugetsu_testing::{Opencode, SoakPlan, SoakTally, Version, World, soak};

use crate::opencode;
use crate::step::{Failure, cargo, program};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Turns on each version, through both transports
    #[arg(long, default_value_t = 200)]
    turns: usize,
    /// The seed of all randomness
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only on this version
    #[arg(long, value_name = "VERSION")]
    opencode: Option<Version>,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    opencode::install_all()?;
    program("build", &mut cargo(&["build", "--workspace"]))?;
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!("seed {}, {cores} cores, 8 callers on 4 issues", options.seed);
    println!("{}", SoakTally::HEAD);
    let mut problems = Vec::new();
    let versions = |version: &Version| options.opencode.is_none_or(|only| only == *version);
    for version in Version::ALL.into_iter().filter(versions) {
        let plan = SoakPlan {
            turns: options.turns,
            seed: options.seed,
        };
        let begun = Instant::now();
        let tally = soak(&World::new(Opencode::Real(version)), &plan);
        println!("{}", tally.rows(version.as_str()));
        eprintln!("{version}: {:.0} s", begun.elapsed().as_secs_f64());
        problems.extend(
            tally
                .problems
                .into_iter()
                .map(|text| format!("{version}: {text}")),
        );
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} problems with seed {}:\n{}",
        problems.len(),
        options.seed,
        problems.join("\n")
    )))
}
