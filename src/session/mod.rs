//! The data: issue references, records, turns, verdicts. Nothing here touches a file or a process.

mod issue_ref;
mod record;
mod turn;
mod verdict;
mod worktree;

pub use issue_ref::{IssueRef, RefContext, RefError, RepoRef};
pub use record::{
    BaseRecord, ForkIntent, IssueRecord, IssueSummary, SCHEMA, SessionId, SessionState, Totals,
};
pub use turn::{
    Answered, LiveTurn, PendingRequest, ProcessIdentity, Proof, TokenCount, TransportKind, TurnRecord,
};
pub use verdict::Verdict;
pub use worktree::{BlockedRebase, Worktree};
