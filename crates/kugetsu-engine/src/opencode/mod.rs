//! Everything that kugetsu knows about opencode: its binary, its database, the events of `run`, its rules and its HTTP
//! API.
//!
//! Measured facts are documented beside the code that relies on them, with the measured versions.

mod api;
mod binary;
pub mod commands;
mod config;
mod config_problem;
mod database;
mod environment;
mod ids;
mod jsonc;
mod lines;
mod log_lines;
mod message;
mod project;
mod provider;
mod renumber;
mod reported_error;
mod requests;
mod run_events;
mod server;
mod server_events;
mod session_context;
#[cfg(test)]
pub(crate) mod tests;
mod tolerant;
mod tool_label;

pub use api::{Api, ApiError, PermissionReply, Problem};
#[cfg(test)]
pub(crate) use binary::find;
pub use binary::{Confinement, Opencode, OpencodeError, Search, Version, probe};
pub use config::{ConfigError, agent_rules_args, parse_agent_rules};
pub use config_problem::ConfigProblem;
pub use database::{
    Database, DatabaseError, DatabaseFile, MessageOrder, SessionPatch, SessionRow, StoredMessage,
    SubagentStep, SubagentWork, TurnMessages,
};
pub use environment::{Launch, Secrets, StderrReport, StderrTail, read_stderr, wait_until_read};
pub(crate) use ids::is_later_than;
pub use lines::{LineSplitter, MAX_LINE, MAX_PREFIX, SplitLine};
pub(crate) use log_lines::found_database_locked;
pub use message::{Finish, Role, ToolCall, ToolStatus, TurnAnswer};
pub use project::{ProjectParts, list as list_parts, user_configuration};
pub use provider::{ProviderAccess, UserFiles, chooses_shell, provider_access};
pub use renumber::{Renumbered, renumbered};
pub use reported_error::{ErrorKind, ErrorPayload, Refusal, names_unknown_model, refusal};
pub use requests::{PermissionAsked, QuestionAsked, QuestionOption, QuestionsAsked, Retry, SessionStatus};
pub use run_events::{
    RejectedPermission, RunEvent, RunEventKind, RunLine, begins_as_text, parse_line, rejected_permission,
};
pub use server::{Server, ServerError};
pub use server_events::{EventStream, PartState, ServerEvent, ServerEventKind, StreamedEvent, Subagent};
pub use session_context::SessionContext;
pub(crate) use session_context::TRACEPARENT;
pub use tool_label::tool_label;
