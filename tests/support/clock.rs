//! A clock that a test sets for kugetsu and opencode alone, with libfaketime (Debian: `faketime`).

use std::path::PathBuf;
use std::process::Command;

use kugetsu_testing::{Output, Running, Stdin, World, clock_variables};

use super::kit::SOON;

/// A clock for the programs of one test.
pub(crate) struct Clock<'a> {
    pub(crate) world: &'a World,
    file: PathBuf,
}

impl<'a> Clock<'a> {
    pub(crate) fn of(world: &'a World) -> Self {
        let clock = Self {
            world,
            file: world.root().join("clock"),
        };
        clock.set("+0");
        clock
    }

    /// Sets the clock, also for programs that run: `-1d`, `+0`.
    pub(crate) fn set(&self, offset: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    /// A command with this clock. Reading the clock's file at each look takes many times as long, so only a command during
    /// which the clock changes does it.
    fn kugetsu(&self, arguments: &[&str], changes: bool) -> Command {
        let mut command = self.world.kugetsu(arguments);
        command.envs(self.variables(changes));
        command
    }

    /// A command of a shell with this clock, which does not change during it.
    pub(crate) fn shell(&self, words: &str) -> String {
        let variables = self.variables(false);
        let variables = variables.map(|(name, value)| format!("{name}='{value}'"));
        let kugetsu = kugetsu_testing::kugetsu_binary();
        format!("env {} '{}' {words}", variables.join(" "), kugetsu.display())
    }

    fn variables(&self, changes: bool) -> [(&'static str, String); 5] {
        clock_variables(&self.file, changes)
    }

    /// Starts a command during which the clock changes.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        self.world.start(self.kugetsu(arguments, true), Stdin::Null)
    }

    /// Runs a command during which the clock does not change.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let command = self.kugetsu(arguments, false);
        self.world.start(command, Stdin::Null).wait(SOON)
    }
}
