//! The flags of a session's git worktree.

use clap::Args;

use kugetsu_engine::operations::WorktreeRequest;

/// Whether a new session gets a worktree, and which one.
#[derive(Debug, Args)]
pub(super) struct WorktreeArgs {
    /// Give the session a git worktree of its own, even inside another worktree or with `worktree = false`; where the
    /// base is in a git clone, this is the default [config: worktree]
    #[arg(long, overrides_with = "no_worktree")]
    worktree: bool,

    /// Let the session work in the base's folder
    #[arg(long, overrides_with = "worktree")]
    no_worktree: bool,

    /// The branch to create for the worktree [default: kugetsu/NUMBER]
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,

    /// The branch or commit to start the new branch from [default: what the base's clone has checked out]; if it is a
    /// branch, `signal REF rebase` rebases onto it
    #[arg(long, value_name = "COMMIT")]
    from: Option<String>,
}

impl From<WorktreeArgs> for WorktreeRequest {
    fn from(args: WorktreeArgs) -> Self {
        Self {
            requested: (args.worktree || args.no_worktree).then_some(args.worktree),
            branch: args.branch,
            from: args.from,
            here: None,
        }
    }
}
