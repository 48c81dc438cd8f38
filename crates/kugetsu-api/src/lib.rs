//! The words of kugetsu on the wire and on disk: addresses, records, turns, verdicts, events, permission rules,
//! everything that `--json` prints, error codes, exit statuses.
//!
//! Plain data with its checks. This crate must not know files, processes, clocks beyond a time stamp, or opencode's
//! interfaces.

mod address;
mod asking;
mod control;
mod doctor;
pub mod error;
pub mod exit;
mod issue_ref;
pub mod output;
pub mod permission;
mod query;
mod record;
mod status;
mod stream;
mod trash;
mod turn;
mod verdict;
mod words;
mod worktree;

pub use address::{Address, AddressName};
pub use asking::{QuestionDetail, RequestAnswer, RequestDetail};
pub use control::{Holder, SIGNAL_SCHEMA, Signal, SignalFile};
pub use doctor::{Check, Health};
pub use error::{ErrorCode, ErrorDetail, ErrorOutput};
pub use issue_ref::{IssueRef, RefContext, RefError, RepoRef};
pub use query::{Action, BrokenFile, DayView, LiveState, LiveView, PendingView, Query, RepoView};
pub use record::{
    BaseRecord, ForkIntent, SCHEMA, SessionId, SessionRecord, SessionState, SessionSummary, Totals,
};
pub use status::{RunState, STATUS_SCHEMA, TurnStatus};
pub use stream::{STREAM_SCHEMA, StreamEvent, StreamLine};
pub use trash::{TrashEntry, TrashId};
pub use turn::{
    Answered, LiveTurn, PendingRequest, ProcessIdentity, Proof, TokenCount, TransportChoice, TransportKind,
    TurnRecord,
};
pub use verdict::Verdict;
pub use worktree::{BlockedRebase, Worktree};
