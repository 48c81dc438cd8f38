//! The program. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: a guard must be up within milliseconds, and its arguments are not for people.
    let first = std::env::args_os().nth(1);
    if first
        .as_ref()
        .is_some_and(|word| word == kugetsu_engine::GUARD_COMMAND)
    {
        return ExitCode::from(kugetsu_engine::guard_main());
    }
    if let Some(status) = first
        .as_ref()
        .and_then(|word| kugetsu_engine::sandbox_main(word, std::env::args_os().skip(2)))
    {
        return ExitCode::from(status);
    }
    if first.is_some_and(|word| word == kugetsu::ssh::TETHER_COMMAND) {
        return ExitCode::from(kugetsu::cli::tether_main());
    }
    kugetsu::cli::main()
}
