//! The command line of kugetsu.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: a guard must be up within milliseconds, and its arguments are not for people.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == kugetsu::process::GUARD_COMMAND)
    {
        return ExitCode::from(kugetsu::process::guard_main());
    }
    ExitCode::SUCCESS
}
