//! The project's own commands, run as `cargo xtask COMMAND`.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    reason = "a program of the workshop: it prints"
)]

mod bench;
mod clients;
mod demo;
mod dist;
mod example;
mod fuzz;
mod load;
mod npm;
mod opencode;
mod packages;
mod prism;
mod recording;
mod schema;
mod soak;
mod step;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use step::Failure;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the real opencode versions that the tests run on, into the ignored folder .opencode
    Opencode,
    /// Check the format, lints and dependencies, then build and run every test
    Test(test::Options),
    /// Try every attack of docs/security.md, also on the real opencode, and print the results as a table
    Attack,
    /// Show a base session, two issues, a continued one, the list and the records, with the real opencode
    Demo,
    /// Regenerate docs/recording.svg, the recording in the README, with the real opencode
    Recording,
    /// Regenerate sessions-example with the real opencode
    Example,
    /// Regenerate docs/schema: the JSON Schema of everything that programs read from kugetsu
    Schema,
    /// Measure what kugetsu costs, and print it as a table
    Bench(bench::Options),
    /// Build a release, make its packages, and run each in a clean root
    Dist(dist::Options),
    /// Run the fuzz targets, with the stable compiler
    Fuzz(fuzz::Options),
    /// Run many concurrent turns with random kills on the real opencode, and print the results as a table
    Soak(soak::Options),
    /// Run many tasks on the daemon, alone and while faults strike, and print the results as tables
    Load(load::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Opencode => opencode::install_all(),
        Command::Test(options) => test::run(&options),
        Command::Attack => test::attacks(),
        Command::Demo => demo::run(),
        Command::Recording => recording::run(),
        Command::Example => example::run(),
        Command::Schema => schema::run(),
        Command::Bench(options) => bench::run(&options),
        Command::Dist(options) => dist::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Load(options) => load::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, status }) => {
            eprintln!("error: {message}");
            ExitCode::from(status)
        }
    }
}
