//! `move`: tells sessions and bases where their clone is now.
//!
//! The order is git, opencode's database, record. The new places follow from the record and the new folder alone, so an
//! interrupted or repeated move comes to the same end.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::destroy::clone_of;
use super::worktree::worktree_error;
use super::{Engine, EngineError, Subject};
use crate::opencode::{DatabaseError, SessionPatch};
use crate::store::{LeaseError, RecordKey, this_process};
use crate::worktree;
use kugetsu_api::{Address, RepoRef, SessionRecord};

/// What has moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The session, or the base.
    pub subject: Subject,
    /// Its folder before.
    pub from: PathBuf,
    /// Its folder now.
    pub to: PathBuf,
}

impl Engine {
    /// Moves a session to the folder in which its clone is now. `force`: even if that is a clone of another repository.
    pub fn move_session(&self, address: &Address, folder: &Path, force: bool) -> Result<Moved, EngineError> {
        let record = self.record(address)?;
        let folder = self.new_place(&[address.repo(), &record.base], folder, force)?;
        self.move_to(address, &folder)
    }

    /// Moves a repository's base, and all sessions that are in its clone or in a clone that does not exist. Changes
    /// nothing if one of them is in use.
    pub fn move_repo(&self, repo: &RepoRef, folder: &Path, force: bool) -> Result<Vec<Moved>, EngineError> {
        let folder = self.new_place(&[repo], folder, force)?;
        let base = self.store.base(repo)?;
        let old = base.as_ref().map(|base| base.directory.clone());
        let sessions: Vec<_> = self
            .store
            .session_records()?
            .found
            .into_iter()
            .filter(|record| record.base == *repo || record.address.repo() == repo)
            .filter(|record| {
                let clone = clone_of(record);
                old.as_deref()
                    .is_some_and(|old| clone.starts_with(old) || old.starts_with(clone))
                    || !clone.is_dir()
            })
            .map(|record| record.address)
            .collect();
        if base.is_none() && sessions.is_empty() {
            return Err(EngineError::NoBase(repo.clone()));
        }
        let keys = sessions.iter().map(RecordKey::from);
        for key in keys.chain(base.iter().map(|base| RecordKey::from(&base.repo))) {
            if let Some(holder) = self.store.lease_holder(&key) {
                return Err(LeaseError::Held { key, holder }.into());
            }
        }
        let mut moved = Vec::new();
        if base.is_some() {
            moved.push(self.move_base(repo, &folder)?);
        }
        for address in sessions {
            moved.push(self.move_to(&address, &folder)?);
        }
        Ok(moved)
    }

    /// The absolute path of the new folder. Refuses what is not a folder and, unless it is forced, a clone of another
    /// repository.
    fn new_place(&self, repos: &[&RepoRef], folder: &Path, force: bool) -> Result<PathBuf, EngineError> {
        let Some(real) = folder.canonicalize().ok().filter(|folder| folder.is_dir()) else {
            return Err(EngineError::Usage {
                problem: format!("{} is not a folder", folder.display()),
                hint: "name the folder in which the clone is now".to_owned(),
            });
        };
        if !force
            && let Ok(Some(clone)) = self.repository_of(&real)
            && !repos.contains(&&clone.repo)
        {
            return Err(EngineError::Usage {
                problem: format!(
                    "{} is a clone of {}, not of {}",
                    real.display(),
                    clone.repo,
                    repos[0]
                ),
                hint: "name the folder in which the clone is now; if this is the one, add --force".to_owned(),
            });
        }
        Ok(real)
    }

    fn move_base(&self, repo: &RepoRef, folder: &Path) -> Result<Moved, EngineError> {
        let lease = self.store.lease_base(repo, this_process("move"), None)?;
        let opencode = self.opencode()?;
        let mut base = self.own_base(repo)?;
        // An adopted session is not kugetsu's own.
        if !base.adopted {
            let patch = SessionPatch {
                directory: Some(folder),
                ..SessionPatch::default()
            };
            match self.write_database(&opencode)?.patch(&base.session, &patch) {
                Ok(_) => {}
                Err(DatabaseError::NoSession { .. }) => {
                    return Err(EngineError::SessionGone {
                        subject: Subject::Base(repo.clone()),
                        session: base.session,
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        let from = std::mem::replace(&mut base.directory, folder.to_owned());
        if from != folder {
            base.updated = Timestamp::now();
            self.store.save_base(&lease, &base)?;
        }
        Ok(Moved {
            subject: Subject::Base(repo.clone()),
            from,
            to: folder.to_owned(),
        })
    }

    fn move_to(&self, address: &Address, folder: &Path) -> Result<Moved, EngineError> {
        let lease = self.store.lease_session(address, this_process("move"), None)?;
        let opencode = self.opencode()?;
        let mut record = self.record(address)?;
        self.adopt(&lease, &mut record, Some(&opencode))?;
        let old = record.clone();
        let moved = self.moved(record, folder)?;
        self.apply_policy(&opencode, &moved)?;
        if moved != old {
            let record = SessionRecord {
                updated: Timestamp::now(),
                ..moved.clone()
            };
            self.store.save_session(&lease, &record)?;
        }
        Ok(Moved {
            subject: Subject::Session(address.clone()),
            from: old.directory,
            to: moved.directory,
        })
    }

    /// The record as it is once its clone is in this folder. Repairs the worktree.
    fn moved(&self, mut record: SessionRecord, folder: &Path) -> Result<SessionRecord, EngineError> {
        let Some(old) = record.worktree.take() else {
            record.directory = folder.to_owned();
            return Ok(record);
        };
        let top = self.top_of(folder)?.unwrap_or_else(|| folder.to_owned());
        let new = worktree::in_moved_clone(&old, &top);
        worktree::repair(&self.git(), &new).map_err(worktree_error(&record.address))?;
        record.directory = match record.directory.strip_prefix(&old.path) {
            Ok(below) if !below.as_os_str().is_empty() => new.path.join(below),
            Ok(_) => new.path.clone(),
            // The worktree was planned and not made.
            Err(_) => folder.to_owned(),
        };
        record.worktree = Some(new);
        Ok(record)
    }
}
