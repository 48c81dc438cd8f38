//! The words of kugetsu on the wire and on disk: addresses, records, turns, verdicts, permission rules, exit
//! statuses.
//!
//! Plain data with its checks. This crate must not know files, processes, clocks beyond a time stamp, or opencode's
//! interfaces.

mod address;
pub mod exit;
mod issue_ref;
pub mod permission;
mod record;
mod turn;
mod verdict;
mod worktree;

pub use address::{Address, AddressName};
pub use issue_ref::{IssueRef, RefContext, RefError, RepoRef};
pub use record::{
    BaseRecord, ForkIntent, SCHEMA, SessionId, SessionRecord, SessionState, SessionSummary, Totals,
};
pub use turn::{
    Answered, LiveTurn, PendingRequest, ProcessIdentity, Proof, TokenCount, TransportChoice, TransportKind,
    TurnRecord,
};
pub use verdict::Verdict;
pub use worktree::{BlockedRebase, Worktree};
