//! Turns one test body into six tests: both transports, and a server that a daemon lends, on both real versions.
#![allow(clippy::disallowed_macros, reason = "tests say what they ran")]

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use kugetsu_testing::{Opencode, Output, Running, SessionRow, Stdin, Version, World};
use serde_json::Value;

/// A deadline for anything that must happen, even on a busy machine.
pub(crate) const SOON: Duration = Duration::from_mins(4);

/// A world with a base, and the transport of its turns.
pub(crate) struct Case {
    world: World,
    pub(crate) version: Version,
    pub(crate) transport: &'static str,
}

impl Deref for Case {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Case {
    /// `way` is a transport, or `pooled` for a server that a daemon lends.
    pub(crate) fn new(version: Version, way: &'static str) -> Self {
        println!("opencode {version}, {way}");
        let world = World::new(Opencode::Real(version));
        let transport = match way {
            "pooled" => {
                world.start_daemon();
                "serve"
            }
            transport => transport,
        };
        let case = Self {
            world,
            version,
            transport,
        };
        case.make_base();
        case
    }

    /// Runs `kugetsu` to its end, with a deadline for busy machines.
    #[track_caller]
    pub(crate) fn to_end<const N: usize>(&self, words: [&str; N], stdin: Stdin) -> Output {
        self.start(self.kugetsu(words), stdin).wait(SOON)
    }

    fn words<'a>(&self, verb: &'a str, issue: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut words = vec![verb, issue, "--output", "json", "--transport", self.transport];
        words.extend(more);
        words
    }

    /// Starts `kugetsu VERB ISSUE --json --transport ... MORE`.
    pub(crate) fn begin(&self, verb: &str, issue: &str, more: &[&str]) -> Running {
        self.spawn(self.words(verb, issue, more))
    }

    /// The same, run to its end.
    #[track_caller]
    pub(crate) fn turn(&self, verb: &str, issue: &str, more: &[&str]) -> Output {
        self.turn_with(verb, issue, more, Stdin::Null)
    }

    /// The same with this stdin.
    #[track_caller]
    pub(crate) fn turn_with(&self, verb: &str, issue: &str, more: &[&str], stdin: Stdin) -> Output {
        self.start(self.kugetsu(self.words(verb, issue, more)), stdin)
            .wait(SOON)
    }

    fn record_path(&self, number: u64) -> PathBuf {
        self.kugetsu_home()
            .join(format!("sessions/github.com/shoko/kugetsu/{number}.json"))
    }

    /// The record of an issue.
    #[track_caller]
    pub(crate) fn record(&self, number: u64) -> Value {
        let path = self.record_path(number);
        let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&text).expect("a record is JSON")
    }

    /// Whether an issue's record names a session.
    pub(crate) fn has_session(&self, number: u64) -> bool {
        self.record_path(number).exists() && self.record(number)["session"].is_string()
    }

    /// opencode's row of an issue's session.
    #[track_caller]
    pub(crate) fn row(&self, number: u64) -> SessionRow {
        let record = self.record(number);
        self.session(record["session"].as_str().expect("the record has a session"))
    }
}

/// Fails unless the turn ended with this status and verdict and its reason contains `words`.
#[track_caller]
pub(crate) fn expect(output: &Output, status: i32, verdict: &str, words: &str) {
    output.expect_status(status);
    let result = output.json();
    assert_eq!(result["verdict"], verdict, "{output}");
    assert_eq!(result["exit_status"], status, "{output}");
    let reason = result["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(words), "the reason lacks {words:?}\n{output}");
}

/// Makes `name::run::v1_3_2`, `name::run::v1_18_33`, and the same for `serve` and `pooled`.
#[macro_export]
macro_rules! on_every_combination {
    ($($(#[$meta:meta])* fn $name:ident($case:ident: &Case) $body:block)*) => {$(
        #[allow(clippy::unwrap_used, reason = "a test may panic; clippy sees no #[test] on the body")]
        mod $name {
            #[allow(unused_imports, reason = "a body may need nothing from around it")]
            use super::*;

            $(#[$meta])*
            fn body($case: &Case) $body

            $crate::on_every_combination!(@transport run);
            $crate::on_every_combination!(@transport serve);
            $crate::on_every_combination!(@transport pooled);
        }
    )*};
    (@transport $transport:ident) => {
        mod $transport {
            use super::super::Case;

            #[test]
            fn v1_3_2() {
                super::body(&Case::new(kugetsu_testing::Version::V1_3_2, stringify!($transport)));
            }

            #[test]
            fn v1_18_33() {
                super::body(&Case::new(kugetsu_testing::Version::V1_18_33, stringify!($transport)));
            }
        }
    };
}
