//! Everything known of opencode: finding it, its database, the events of `run`, its rules, its HTTP API.
//!
//! Measured facts stand beside the code that relies on them, with the versions they were measured on.

mod api;
mod binary;
mod config;
mod database;
mod environment;
mod lines;
mod log_lines;
mod run_events;
mod server;
#[cfg(test)]
mod tests;

pub use api::{Api, ApiError, Problem};
pub use binary::{Opencode, OpencodeError, Search, Version, find, probe};
pub use config::{ConfigError, agent_rules_args, parse_agent_rules};
pub use database::{
    Database, DatabaseError, SUBAGENT_TOOL, SessionPatch, SessionRow, StoredMessage, SubagentStep,
    SubagentWork, prompt_matches,
};
pub use environment::{Launch, Secrets, StderrReport, StderrTail, drained, pump_stderr};
pub use lines::{KEPT_PREFIX, LineSplitter, MAX_LINE, SplitLine};
pub(crate) use log_lines::found_database_locked;
pub(crate) use run_events::cost;
pub use run_events::{
    RejectedPermission, RunEvent, RunEventKind, RunLine, error_summary, parse_line, rejected_permission,
    token_count,
};
pub use server::{Server, ServerError};
