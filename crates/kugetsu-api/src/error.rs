//! Errors for programs: a stable code, the next step, and whether the same command may succeed later.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exit::ExitStatus;

/// Declares the codes in one table: variant, code, exit status, whether a retry helps, meaning.
macro_rules! codes {
    ($($name:ident, $code:literal, $status:ident, $retryable:literal, $meaning:literal;)+) => {
        /// Why a command failed. Each code has one meaning and one exit status and is never renamed. New codes may be
        /// added.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "kebab-case")]
        pub enum ErrorCode {
            $(#[doc = $meaning] $name,)+
        }

        impl ErrorCode {
            /// Every code, by exit status, in the order in which the documents list them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The code in `--json`, in kebab-case.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// The meaning, as a phrase for people.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)+
                }
            }

            /// The exit status of a command that fails with this code.
            pub fn exit_status(self) -> ExitStatus {
                match self {
                    $(Self::$name => ExitStatus::$status,)+
                }
            }

            /// Whether the same command, unchanged, may succeed later.
            pub fn retryable(self) -> bool {
                match self {
                    $(Self::$name => $retryable,)+
                }
            }
        }
    };
}

codes! {
    HookFailed, "hook-failed", Failed, false, "a hook that must succeed did not";
    GitFailed, "git-failed", Failed, false, "git refused, could not be run, or took too long";
    WorktreeFile, "worktree-file", Failed, false, "a file of a worktree could not be copied, linked or removed";
    BasePromptFailed, "base-prompt-failed", Failed, false, "the prompt of `init` did not complete, so no base was made";
    NotConfirmed, "not-confirmed", Failed, false, "the person who was asked did not say yes";
    DetachFailed, "detach-failed", Failed, false, "the process of a detached turn did not start, or died before the turn was recorded";
    System, "system", Failed, false, "the operating system refused a thread, an event loop or a signal handler";
    BudgetSpent, "budget-spent", Failed, false, "a tool of a turn would begin another turn, and the budget of the first one is spent";
    DaemonRunning, "daemon-running", Failed, false, "`daemon start` or `restore-backup`, and a daemon runs for this home";
    BackupUnusable, "backup-unusable", Failed, false, "`restore-backup`, and the file is not an archive of `backup`, is damaged, or was written by a newer kugetsu";
    ParentEnded, "parent-ended", Failed, false, "a tool of a turn would begin another turn, and the first one has ended, or was stopped together with those that it began";
    Internal, "internal", Failed, false, "a bug in kugetsu";
    Blocked, "blocked", Blocked, false, "the prompt of `init` needs a person's answer";
    NeedsConfirmation, "needs-confirmation", Blocked, false, "a person must confirm, and there is no terminal to ask on";
    UntrustedRepo, "untrusted-repo", Blocked, false, "opencode would run parts of a repository that nobody trusted";
    WorkAtRisk, "work-at-risk", Blocked, false, "a worktree holds work that exists nowhere else";
    Usage, "usage", Usage, false, "the command line, or the request that it makes, is not valid";
    InvalidRef, "invalid-ref", Usage, false, "a reference or a repository is not valid, or is incomplete";
    InvalidSetting, "invalid-setting", Usage, false, "`config.toml` or an environment variable is not valid";
    AlreadyHasSession, "already-has-session", Usage, false, "`start` or `restore`, and the address or base already has a session";
    BaseExists, "base-exists", Usage, false, "`init`, and the repository already has a base";
    InitCutOff, "init-cut-off", Usage, false, "an earlier `init` was killed after its prompt reached opencode";
    WorktreeRefused, "worktree-refused", Usage, false, "the requested worktree is not possible";
    TurnIdReused, "turn-id-reused", Usage, false, "a turn with this id is on record, with another message";
    IdempotencyKeyReused, "idempotency-key-reused", Usage, false, "a task was submitted with this idempotency key, and asks for something else";
    NotAllowed, "not-allowed", Usage, false, "a task asks for a model or an agent that the settings of the daemon do not allow";
    TooDeep, "too-deep", Usage, false, "a turn would be begun inside more turns than `max_depth` allows";
    NoSession, "no-session", NotFound, false, "the address has no session yet";
    NoBase, "no-base", NotFound, false, "the repository has no base session";
    NoTask, "no-task", NotFound, false, "the daemon has no such task";
    NoTurn, "no-turn", NotFound, false, "the session has had no turn, or no turn with this id";
    NotRunning, "not-running", NotFound, false, "no turn runs on the session";
    NothingPending, "nothing-pending", NotFound, false, "no request of the session waits for an answer";
    NoLog, "no-log", NotFound, false, "the turn has no such log";
    NotInTrash, "not-in-trash", NotFound, false, "the trash does not hold what is needed to restore the session";
    SessionGone, "session-gone", NotFound, false, "opencode no longer has the session";
    DirectoryGone, "directory-gone", NotFound, false, "the session's directory does not exist";
    WorktreeLost, "worktree-lost", NotFound, false, "the worktree and its branch are gone, and nothing is left to rebuild them from";
    IssueNotFound, "issue-not-found", NotFound, false, "the forge has no such issue, or does not show it without a token";
    NotFound, "not-found", NotFound, false, "something else that was named does not exist";
    NoDaemon, "no-daemon", Unavailable, false, "no daemon runs for this home";
    AccessDenied, "access-denied", Unavailable, false, "the daemon does not know who makes a request over the network, or does not let them do this";
    DaemonVersion, "daemon-version", Unavailable, false, "the daemon that runs is another version of kugetsu";
    DaemonUnusable, "daemon-unusable", Unavailable, false, "the daemon cannot listen, or does not answer as expected";
    OpencodeMissing, "opencode-missing", Unavailable, false, "opencode is not installed, or not where the settings say";
    GitMissing, "git-missing", Unavailable, false, "git is not installed, or not on `PATH`";
    OpencodeUnusable, "opencode-unusable", Unavailable, false, "opencode does not respond as expected, or its version is not supported";
    NoSandbox, "no-sandbox", Unavailable, false, "the machine cannot sandbox a session that must be sandboxed";
    ClockBehind, "clock-behind", Unavailable, false, "messages of the session are newer than the system's clock, so opencode would not see a new prompt";
    OpencodeConfig, "opencode-config", Unavailable, false, "a configuration file of opencode is not valid";
    OpencodeFailed, "opencode-failed", Unavailable, true, "opencode did not start, broke off, or refused a command";
    DatabaseUnusable, "database-unusable", Unavailable, false, "opencode's database is missing or damaged, holds too large a value, or has an unknown layout";
    WrongDatabase, "wrong-database", Unavailable, false, "opencode's database contains none of the store's sessions";
    ExportIncomplete, "export-incomplete", Unavailable, false, "opencode's export of a session is incomplete, so nothing was deleted";
    ProcessFailed, "process-failed", Unavailable, true, "a process could not be started or ended";
    LogUnwritable, "log-unwritable", Unavailable, false, "the log of opencode's output could not be opened";
    SshUnavailable, "ssh-unavailable", Unavailable, false, "`ssh` cannot be run on this machine";
    RemoteMissing, "remote-missing", Unavailable, false, "kugetsu cannot be run on the other host";
    TokenRefused, "token-refused", Unavailable, false, "the forge does not accept the token, or the token may not read the issue";
    ForgeUnusable, "forge-unusable", Unavailable, false, "the kind of the forge is not known, or it does not answer as expected";
    StoreUnwritable, "store-unwritable", CannotWrite, false, "kugetsu's store cannot be read or written, because of the disk, the permissions or the type of a file";
    RecordTooLarge, "record-too-large", CannotWrite, false, "a record would exceed the size limit; the old record is unchanged";
    RecordBroken, "record-broken", CannotWrite, false, "a file of the store is damaged";
    RecordNewer, "record-newer", CannotWrite, false, "a file of the store was written by a newer kugetsu";
    WrongLease, "wrong-lease", CannotWrite, false, "a write to the store was not covered by its lease: a bug in kugetsu";
    OutputUnwritable, "output-unwritable", CannotWrite, false, "the output could not be written to stdout; the record shows what was done";
    TurnUnrecorded, "turn-unrecorded", CannotWrite, false, "a signal ended the command while the end of its turn was being recorded; the next command completes the record";
    InUse, "in-use", TryAgain, true, "another process holds the session: a turn, `attach`, or a command that changes it";
    QueueFull, "queue-full", TryAgain, true, "as many tasks wait in the daemon's queue as may";
    BudgetUsedUp, "budget-used-up", TryAgain, true, "what turns may cost today is used up";
    TooManyRequests, "too-many-requests", TryAgain, true, "the daemon has had too many requests of one token or address, or has too many streams of events open";
    Draining, "draining", TryAgain, true, "the daemon is ending, and takes nothing new";
    OwnTurn, "own-turn", TryAgain, true, "the command runs in a tool of the turn that it would wait for or end, or that turn waits for the command";
    TooManyDelegates, "too-many-delegates", TryAgain, true, "as many turns that tools began run already as `max_delegates` allows, or as many commands of the turn's tools wait";
    TurnRecorded, "turn-recorded", TryAgain, true, "a turn with this id is already on record";
    WaitTimeout, "wait-timeout", TryAgain, true, "the turn still runs after the maximum wait";
    LockTimeout, "lock-timeout", TryAgain, true, "another process held a lock of the store for too long";
    DatabaseLocked, "database-locked", TryAgain, true, "another process held opencode's database for too long";
    DatabaseSlow, "database-slow", TryAgain, true, "a read or write of a sandboxed session's database took too long";
    Quota, "quota", TryAgain, true, "the model's provider asks to retry later";
    ConnectionLost, "connection-lost", TryAgain, true, "the other host cannot be reached, or the connection was lost";
    ForgeUnreachable, "forge-unreachable", TryAgain, true, "the forge cannot be reached, is too slow, or has an error of its own";
    RateLimit, "rate-limit", TryAgain, true, "the forge answers no more requests for a while";
    Interrupted, "interrupted", Interrupted, true, "SIGINT (Ctrl-C) ended the command before its turn had a result";
    Terminated, "terminated", Terminated, true, "SIGTERM, SIGHUP or `stop` ended the command before its turn had a result";
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The output of a failed command whose stdout is for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorOutput {
    /// The error.
    pub error: ErrorDetail,
    /// The same as `error.exit_status`, for scripts written before that field.
    pub exit_status: u8,
}

/// Details of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDetail {
    /// The kind of error; stable.
    pub code: ErrorCode,
    /// What happened, for people. The wording may change.
    pub message: String,
    /// What people should know besides, such as what happened before the command failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The next steps for people, most likely first.
    pub hints: Vec<String>,
    /// The first hint, for scripts written before `hints`.
    pub hint: Option<String>,
    /// The address of the session, or the repository of the base, that the error is about.
    #[serde(rename = "ref")]
    pub subject: Option<String>,
    /// Whether the same command, unchanged, may succeed later.
    pub retryable: bool,
    /// The exit status of the command.
    pub exit_status: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_a_string_in_json() {
        for code in ErrorCode::ALL {
            let json = serde_json::to_value(code).ok();
            assert_eq!(json.as_ref().and_then(|code| code.as_str()), Some(code.as_str()));
        }
    }

    #[test]
    fn codes_stand_in_the_order_of_their_exit_statuses() {
        let statuses: Vec<_> = ErrorCode::ALL
            .iter()
            .map(|code| code.exit_status().code())
            .collect();
        assert!(statuses.is_sorted());
    }
}
