//! `prune`: removes the records of sessions that opencode no longer has.

use std::path::PathBuf;

use super::{Engine, EngineError};
use crate::opencode::Opencode;
use crate::store::{RecordKey, this_process};
use kugetsu_api::{Address, SessionId, SessionRecord};

/// A record without its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The issue.
    pub address: Address,
    /// The session that is gone.
    pub session: SessionId,
}

/// The result of [`Engine::orphans`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// The records whose session is gone.
    pub found: Vec<Orphan>,
    /// Files of the store that could not be read, each with the reason. The state of their sessions is unknown.
    pub broken: Vec<(PathBuf, String)>,
}

/// An orphan that was not removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The orphan.
    pub orphan: Orphan,
    /// Why it was not removed.
    pub why: String,
}

/// The result of [`Engine::prune`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The orphans that are in the trash now.
    pub gone: Vec<Orphan>,
    /// The orphans that stay because their worktree could not be removed.
    pub kept: Vec<Kept>,
}

impl Engine {
    /// Finds the records whose session opencode no longer has. Fails if the database cannot be read or holds no session
    /// of the store, because such a database proves nothing about any session.
    pub fn orphans(&self) -> Result<Orphans, EngineError> {
        let opencode = self.opencode()?;
        let records = self.store.session_records()?;
        // The session of a sandbox is in a database of its own.
        let shared = |record: &&SessionRecord| record.sandbox.is_none();
        let mut ids: Vec<SessionId> = records
            .found
            .iter()
            .filter(shared)
            .filter_map(|record| record.session.clone())
            .collect();
        let none_recorded = ids.is_empty();
        ids.extend(self.store.bases()?.found.into_iter().map(|base| base.session));
        let existing = opencode
            .database_file()
            .open_read()
            .and_then(|database| database.sessions_exist(&ids))
            .map_err(EngineError::Unknown)?;
        if !none_recorded && existing.is_empty() {
            return Err(EngineError::WrongDatabase {
                database: opencode.database,
            });
        }
        let found = records
            .found
            .into_iter()
            .filter(|record| !self.state_of(record).is_live())
            .filter_map(|record| {
                let gone = match &record.sandbox {
                    Some(_) => !self.has_own_session(&opencode, &record),
                    None => !existing.contains(record.session.as_ref()?),
                };
                let session = record.session?;
                gone.then_some(Orphan {
                    address: record.address,
                    session,
                })
            })
            .collect();
        Ok(Orphans {
            found,
            broken: records.broken,
        })
    }

    /// Moves orphaned records to the trash and removes their worktrees. Checks each record again under its lease, and
    /// skips sessions that are in use by now. `force` also removes worktrees with work that exists nowhere else; the
    /// trash keeps that work.
    pub fn prune(&self, orphans: &[Orphan], force: bool) -> Result<Pruned, EngineError> {
        let opencode = self.opencode()?;
        let mut pruned = Pruned::default();
        for orphan in orphans {
            let Ok(lease) = self
                .store
                .lease_session(&orphan.address, this_process("prune"), None)
            else {
                continue;
            };
            let record = self
                .store
                .session_record(&orphan.address)?
                .filter(|record| record.session.as_ref() == Some(&orphan.session));
            if let Some(record) = record
                && match record.sandbox {
                    Some(_) => !self.has_own_session(&opencode, &record),
                    None => known_to_be_gone(&opencode, &orphan.session)?,
                }
            {
                let mut worktree = match self.remove_worktree(&record, force) {
                    Ok(removed) => removed,
                    Err(error @ (EngineError::Worktree { .. } | EngineError::Hook { .. })) => {
                        pruned.kept.push(Kept {
                            orphan: orphan.clone(),
                            why: error.to_string(),
                        });
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                self.clear_run(&RecordKey::from(&orphan.address));
                self.store.trash_session(
                    &lease,
                    &orphan.address,
                    "prune: opencode no longer has its session",
                )?;
                self.drop_worktree_branch(&record, &mut worktree)?;
                self.remove_sandbox(&record)?;
                pruned.gone.push(orphan.clone());
            }
        }
        Ok(pruned)
    }
}

fn known_to_be_gone(opencode: &Opencode, session: &SessionId) -> Result<bool, EngineError> {
    let row = opencode
        .database_file()
        .open_read()
        .and_then(|database| database.session(session));
    Ok(row.map_err(EngineError::Unknown)?.is_none())
}
