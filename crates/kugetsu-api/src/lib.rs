//! kugetsu's data formats on the wire and on disk: addresses, records, turns, verdicts, events, permission rules, the
//! output of `--json`, error codes and exit statuses.
//!
//! This crate holds plain data and its validation. It must not know files, processes, opencode's interfaces, or clocks
//! (except as time stamps).

mod address;
mod asking;
mod backup;
mod changes;
mod control;
mod daemon;
mod doctor;
pub mod error;
pub mod exit;
mod issue;
mod issue_ref;
pub mod json;
pub mod output;
pub mod permission;
mod pool;
mod query;
mod record;
mod sandbox;
mod status;
mod stream;
mod strings;
mod task;
mod trash;
mod turn;
mod verdict;
mod worktree;

pub use address::{Address, AddressName};
pub use asking::{QuestionDetail, RequestAnswer, RequestDetail};
pub use backup::{BACKUP_FORMAT, BackupFile, BackupManifest};
pub use changes::{ChangedFile, Changes, Commit, Refused, RefusedCall};
pub use control::{Holder, SIGNAL_SCHEMA, Signal, SignalFile};
pub use daemon::{
    API_VERSION, AnswerRequest, BudgetView, DaemonStatus, GiveBack, LentServer, PageLink, ProblemDetails,
    Scope, ServerExit, SessionList, SessionView, SignalRequest, SlotEvent, SlotRequest, SpendingAnswer,
    SpendingReport, StopRequest, SubmittedTask, TaskContext, TaskList, TaskRequest, TokenView, TurnEnd,
    TurnList,
};
pub use doctor::{Check, Health};
pub use error::{ErrorCode, ErrorDetail, ErrorOutput};
pub use issue::{Issue, IssueComment};
pub use issue_ref::{IssueRef, RefContext, RefError, RepoRef};
pub use pool::{PoolCounts, ServerState, ServerView};
pub use query::{Action, BrokenFile, DayView, LiveState, LiveView, PendingView, Query, RepoView};
pub use record::{
    BaseRecord, ForkIntent, RepoTrust, SCHEMA, SessionId, SessionRecord, SessionState, SessionSummary, Totals,
};
pub use sandbox::{SandboxKind, SandboxMode, SessionSandbox};
pub use status::{RunState, STATUS_SCHEMA, TurnStatus};
pub use stream::{EventsSchema, STREAM_SCHEMA, StreamEvent, StreamLine};
pub use task::{
    NarrowingRule, PRIORITIES, QueueCounts, Task, TaskAnswers, TaskId, TaskLimits, TaskSpec, TaskState,
};
pub use trash::{TrashEntry, TrashId};
pub use turn::{
    Answered, LiveTurn, ParentTurn, PendingRequest, Phase, ProcessIdentity, Proof, Timings, TokenCount,
    TransportChoice, TransportKind, TurnRecord,
};
pub use verdict::Verdict;
pub use worktree::{BlockedRebase, Worktree};
