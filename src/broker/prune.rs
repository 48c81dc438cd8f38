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

    /// Moves orphaned records to the trash; those that somebody uses by now are left alone. Each is looked
    /// at again under its lease.
    pub fn prune(&self, orphans: &[Orphan]) -> Result<Vec<Orphan>, BrokerError> {
        let opencode = self.opencode()?;
        let mut pruned = Vec::new();
        for orphan in orphans {
            let Ok(lease) = self
                .store
                .lease_issue(&orphan.issue, Holder::this_process("prune"), None)
            else {
                continue;
            };
            let same = self
                .store
                .issue(&orphan.issue)?
                .is_some_and(|record| record.session.as_ref() == Some(&orphan.session));
            if same && read_database(&opencode)?.session(&orphan.session)?.is_none() {
                self.store.trash_issue(
                    &lease,
                    &orphan.issue,
                    "prune: opencode no longer has its session",
                    &[],
                )?;
                pruned.push(orphan.clone());
            }
        }
        Ok(pruned)
    }
}
