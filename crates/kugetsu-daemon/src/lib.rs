//! The daemon of kugetsu: keeps opencode warm, takes tasks, and never runs more than it may.
//!
//! - [`queue`] keeps tasks. Nothing above its trait knows how.
//! - [`slots`] counts the turns that run: those of tasks, which the daemon runs itself, and those of commands, which run
//!   in their own processes with a server that the daemon lends them.
//! - [`runner`] gives each free place to a task or to a command, and runs the turns of tasks.
//! - [`http`] is the API, over the daemon's socket, and over an address if one is given.
//!
//! A turn of a command runs in the command's own process, because it belongs there: its environment, its terminal, its
//! signals and its replies are the command's, and it outlives the daemon, which it needs only for the warm server.

mod app;
mod events;
mod growth;
mod http;
mod ledger;
mod metrics;
mod place;
pub mod queue;
mod run;
mod runner;
mod slots;
mod tokens;
mod trace;

pub use app::{Daemon, DaemonError, DaemonOptions, Ended};
pub use http::openapi;
#[cfg(feature = "internals")]
pub use http::spec_of_request;
pub use place::{DAEMON_LOG, open_log, socket_path};
#[cfg(feature = "internals")]
pub use queue::task_of_row;
pub use run::run;
pub use tokens::{NewToken, TokenError, Tokens};
