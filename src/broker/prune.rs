//! `prune`: forget the records whose session opencode no longer has.

use super::{Broker, BrokerError, read_database, state_of};
use crate::session::{IssueRef, SessionId, SessionState};
use crate::store::Holder;

/// A record without its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The issue.
    pub issue: IssueRef,
    /// The session that is gone.
    pub session: SessionId,
}

/// An orphan that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub orphan: Orphan,
    /// Why.
    pub why: String,
}

/// What [`Broker::prune`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What is in the trash now.
    pub gone: Vec<Orphan>,
    /// What stays, since its worktree could not be removed.
    pub kept: Vec<Kept>,
}

impl Broker {
    /// The records whose session opencode no longer has. A database that cannot be read is an error and
    /// never an answer: it says nothing about any session.
    pub fn orphans(&self) -> Result<Vec<Orphan>, BrokerError> {
        let opencode = self.opencode()?;
        let database = read_database(&opencode)?;
        let records = self.store.issues()?.found;
        let ids: Vec<SessionId> = records
            .iter()
            .filter_map(|record| record.session.clone())
            .collect();
        let existing = database.sessions_exist(&ids)?;
        Ok(records
            .into_iter()
            .filter(|record| state_of(record) != SessionState::Running)
            .filter_map(|record| {
                let session = record.session?;
                (!existing.contains(&session)).then_some(Orphan {
                    issue: record.issue,
                    session,
                })
            })
            .collect())
    }

    /// Moves orphaned records to the trash, and removes their worktrees; those that somebody uses by now are left
    /// alone. Each is looked at again under its lease. `force`: also worktrees with work that is nowhere else; it
    /// is kept in the trash.
    pub fn prune(&self, orphans: &[Orphan], force: bool) -> Result<Pruned, BrokerError> {
        let opencode = self.opencode()?;
        let mut pruned = Pruned::default();
        for orphan in orphans {
            let Ok(lease) = self
                .store
                .lease_issue(&orphan.issue, Holder::this_process("prune"), None)
            else {
                continue;
            };
            let record = self
                .store
                .issue(&orphan.issue)?
                .filter(|record| record.session.as_ref() == Some(&orphan.session));
            if let Some(record) = record
                && read_database(&opencode)?.session(&orphan.session)?.is_none()
            {
                let mut worktree = match self.remove_worktree(&record, force) {
                    Ok(removed) => removed,
                    Err(error @ (BrokerError::Worktree { .. } | BrokerError::Hook { .. })) => {
                        pruned.kept.push(Kept {
                            orphan: orphan.clone(),
                            why: error.to_string(),
                        });
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                self.store.trash_issue(
                    &lease,
                    &orphan.issue,
                    "prune: opencode no longer has its session",
                    &[],
                )?;
                self.drop_worktree_branch(&record, &mut worktree)?;
                pruned.gone.push(orphan.clone());
            }
        }
        Ok(pruned)
    }
}
