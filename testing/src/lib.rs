//! Test support for kugetsu: a scripted model server, a scripted fake `opencode`, a hermetic world.
//!
//! Tests use the real opencode with a scripted model where possible; the fake opencode is for behaviour that the real
//! one does not show on demand. Nothing here relies on sleeping: a test waits at a [`Gate`] or polls with a deadline.
#![allow(
    clippy::disallowed_methods,
    reason = "test support builds worlds, it keeps no durable state"
)]
#![allow(
    clippy::missing_panics_doc,
    reason = "test support reports by panicking, as assertions do"
)]

mod clients;
mod clock;
mod daemon;
mod documents;
pub mod example;
pub mod fake;
mod forge;
mod hangs;
mod http;
mod load;
mod model;
mod prism;
pub mod schema;
mod soak;
mod tour;
mod world;

pub use clients::Clients;
pub use clock::clock_variables;
pub use daemon::DaemonConnection;
pub use documents::{Block, MANUAL, all_documents, blocks, document, files_below, manual, manual_blocks};
pub use fake::{FakeAttempt, FakeCall, FakeRun, FakeScript, ServeMode, Step};
pub use forge::{ForgeReply, ForgeRequest, ForgeServer, ScriptedIssue};
pub use hangs::HangRow;
pub use load::{Fault, LoadPlan, LoadTally, MemoryPoint, load};
pub use model::{Gate, ModelServer, Reply, Request, ToolCall, usage};
pub use prism::Prism;
pub use soak::{SoakCounts, SoakPlan, SoakTally, soak};
pub use tour::script_tour;
pub use world::{
    DatabaseLock, MODELS, Opencode, Output, ProcessInfo, Running, SHORT_LIVED, STAMP, SessionRow, Signal,
    Stdin, Version, World, binaries_in, fake_binary, kugetsu_binary, without_mark, workspace_root,
};

/// The variable that `cargo xtask test --quick` sets, for tests that can try fewer cases.
pub const QUICK: &str = "KUGETSU_TEST_QUICK";

/// Makes one `#[test]` per real opencode version of each function: `name::v1_3_2` and `name::v1_18_33`.
///
/// ```text
/// on_both_versions! {
///     fn answers(world: &World) { world.run(["list"]).expect_status(0); }
/// }
/// ```
#[macro_export]
macro_rules! on_both_versions {
    ($($(#[$meta:meta])* fn $name:ident($world:ident: &World) $body:block)*) => {$(
        #[allow(clippy::unwrap_used, reason = "a test may panic; clippy sees no #[test] on the body")]
        mod $name {
            #[allow(unused_imports, reason = "a body may need nothing from around it")]
            use super::*;

            $(#[$meta])*
            fn body($world: &$crate::World) $body

            #[test]
            fn v1_3_2() {
                body(&$crate::World::new($crate::Opencode::Real($crate::Version::V1_3_2)));
            }

            #[test]
            fn v1_18_33() {
                body(&$crate::World::new($crate::Opencode::Real($crate::Version::V1_18_33)));
            }
        }
    )*};
}
