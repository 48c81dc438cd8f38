//! `move`: tells sessions and bases where their clone is now.
//!
//! The order is git, opencode's database, record. The new places follow from the record, the base's old folder and the
//! new folder, and the base is moved last, so an interrupted or repeated move comes to the same end.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::worktree::worktree_error;
use super::{Engine, EngineError, Subject};
use crate::git;
use crate::opencode::{DatabaseError, SessionPatch};
use crate::store::{LeaseError, RecordKey, this_process};
use crate::worktree;
use kugetsu_api::{Address, RepoRef, SessionRecord, Worktree};

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

/// What [`Engine::move_repo`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MovedRepo {
    /// The base and the sessions that are in the new clone. Sessions without a worktree that an earlier attempt has moved
    /// are not among them.
    pub moved: Vec<Moved>,
    /// The sessions whose folders did not move with the clone, with these.
    pub left: Vec<(Address, PathBuf)>,
}

/// A clone that moved.
#[derive(Debug)]
struct MovedClone {
    /// Its top folder.
    top: PathBuf,
    /// The old place of `top`, if a base says it.
    old: Option<PathBuf>,
}

/// The new place of a session.
#[derive(Debug)]
struct Place {
    /// The top folder of its clone.
    clone: PathBuf,
    /// Its folder, if it has no worktree of its own yet.
    directory: PathBuf,
}

impl MovedClone {
    /// `old` is the base's folder, which may be below the top of the clone, as may be `folder`, the new place of `old` or of
    /// the clone. `worktrees` are those of the sessions, each with the session's folder.
    fn new<'a>(
        top: PathBuf,
        folder: &Path,
        old: Option<&Path>,
        worktrees: impl Iterator<Item = (&'a Worktree, &'a Path)> + Clone,
    ) -> Self {
        let old = old.map(|old| {
            let tops = worktrees.clone().map(|(worktree, _)| worktree.repo_dir.as_path());
            let known = tops.filter(|top| old.starts_with(top));
            // The innermost, if there is a clone inside another one.
            if let Some(known) = known.max_by_key(|top| top.components().count()) {
                return known.to_owned();
            }
            // Sessions whose worktrees have moved already work in the base's subfolder.
            let moved = worktrees
                .filter(|(worktree, _)| worktree.repo_dir == top)
                .filter_map(|(worktree, folder)| folder.strip_prefix(&worktree.path).ok());
            let below = moved
                .chain(folder.strip_prefix(&top))
                .filter(|below| old.ends_with(below));
            let depth = below.map(|below| below.components().count()).max().unwrap_or(0);
            old.ancestors().nth(depth).unwrap_or(old).to_owned()
        });
        Self { top, old }
    }

    /// The new place of a folder that was in the clone.
    fn now(&self, folder: &Path) -> Option<PathBuf> {
        replace_top(folder, self.old.as_ref()?, &self.top)
    }

    /// Whether a folder is in the clone already.
    fn has(&self, folder: &Path) -> bool {
        folder.starts_with(&self.top) && folder.is_dir()
    }
}

impl Engine {
    /// Moves a session to the folder in which its clone is now. `force`: even if that is a clone of another repository.
    pub fn move_session(&self, address: &Address, folder: &Path, force: bool) -> Result<Moved, EngineError> {
        let record = self.record(address)?;
        let folder = self.new_place(&[address.repo(), &record.base], folder, force)?;
        let clone = self.top_of(&folder)?.unwrap_or_else(|| folder.clone());
        let place = |_: &SessionRecord| {
            Ok(Place {
                clone: clone.clone(),
                directory: folder.clone(),
            })
        };
        self.move_to(address, place)
    }

    /// Moves a repository's base, and all sessions that are in its clone, each to the same path below the new folder.
    /// Leaves sessions alone that are elsewhere. Changes nothing if one of them is in use.
    pub fn move_repo(&self, repo: &RepoRef, folder: &Path, force: bool) -> Result<MovedRepo, EngineError> {
        let folder = self.new_place(&[repo], folder, force)?;
        let base = self.store.base(repo)?;
        let top = self.top_of(&folder)?.unwrap_or_else(|| folder.clone());
        let mut records = self.store.session_records()?.found;
        records.retain(|record| record.base == *repo || record.address.repo() == repo);
        let of_base = base.as_ref().map(|base| base.directory.as_path());
        let worktrees = records
            .iter()
            .filter_map(|record| Some((record.worktree.as_ref()?, record.directory.as_path())));
        let clone = MovedClone::new(top, &folder, of_base, worktrees);
        // If the top of the clone is named, a base in a subfolder stays in that subfolder.
        let new_of_base = of_base
            .and_then(|old| clone.now(old))
            .filter(|new| folder == clone.top && new.is_dir())
            .unwrap_or_else(|| folder.clone());
        let mut sessions = Vec::new();
        let mut result = MovedRepo::default();
        for record in records {
            match self.place_in(&clone, &record)? {
                Some(_) => sessions.push(record.address),
                None if clone.has(&record.directory) => {}
                None => result.left.push((record.address, record.directory)),
            }
        }
        if base.is_none() && sessions.is_empty() && result.left.is_empty() {
            return Err(EngineError::NoBase(repo.clone()));
        }
        let keys = sessions.iter().map(RecordKey::from);
        for key in keys.chain(base.iter().map(|base| RecordKey::from(&base.repo))) {
            if let Some(holder) = self.store.lease_holder(&key) {
                return Err(LeaseError::Held { key, holder }.into());
            }
        }
        if clone.old.as_ref().is_some_and(|old| !old.exists()) {
            // Worktrees outside the clone, of sessions or of people, find it again.
            self.git().at(&clone.top).ask(["worktree", "repair"])?;
        }
        let mut failed = None;
        for address in &sessions {
            let place = |record: &SessionRecord| {
                self.place_in(&clone, record)?.ok_or_else(|| EngineError::Usage {
                    problem: format!("{address} has just left the clone"),
                    hint: "repeat the command".to_owned(),
                })
            };
            match self.move_to(address, place) {
                Ok(moved) => result.moved.push(moved),
                // One session does not hold up the others.
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        // Last, because a repeated move needs the base's old folder to know the sessions of the old clone.
        if base.is_some() {
            result.moved.insert(0, self.move_base(repo, &new_of_base)?);
        }
        Ok(result)
    }

    /// The new place of a session; `None` if it was not in the clone.
    fn place_in(&self, clone: &MovedClone, record: &SessionRecord) -> Result<Option<Place>, EngineError> {
        let directory = clone.now(&record.directory).filter(|folder| folder.is_dir());
        let Some(worktree) = &record.worktree else {
            return Ok(directory.map(|directory| Place {
                clone: clone.top.clone(),
                directory,
            }));
        };
        let old = &worktree.repo_dir;
        let is_above = || clone.old.as_ref().is_some_and(|below| below.starts_with(old));
        // A clone inside the clone has moved with it.
        let inner = clone.now(old).filter(|folder| worktree::is_there(folder));
        let top = match inner {
            Some(inner) => Some(inner),
            None if *old == clone.top || is_above() => Some(clone.top.clone()),
            // A clone that no base names any more; its branch tells whether this is it.
            None if !old.is_dir() => {
                let branch = self.git().at(&clone.top).branch(&worktree.branch)?;
                branch.map(|_| clone.top.clone())
            }
            None => None,
        };
        Ok(top.map(|top| Place {
            directory: directory.unwrap_or_else(|| top.clone()),
            clone: top,
        }))
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

    fn move_to(
        &self,
        address: &Address,
        place: impl Fn(&SessionRecord) -> Result<Place, EngineError>,
    ) -> Result<Moved, EngineError> {
        let lease = self.store.lease_session(address, this_process("move"), None)?;
        let opencode = self.opencode()?;
        let mut record = self.record(address)?;
        self.adopt(&lease, &mut record, Some(&opencode))?;
        let old = record.clone();
        let place = place(&record)?;
        let moved = self.moved(record, place)?;
        self.apply_policy(&opencode, &moved)?;
        if moved != old {
            // The time of the last change stays: nothing happened in the session.
            self.store.save_session(&lease, &moved)?;
        }
        Ok(Moved {
            subject: Subject::Session(address.clone()),
            from: old.directory,
            to: moved.directory,
        })
    }

    /// The record of a session from the trash as it is in the clone that its base is in now, if the old clone is gone.
    pub(super) fn where_the_base_is(&self, mut record: SessionRecord) -> Result<SessionRecord, EngineError> {
        let clone = record.worktree.as_ref().map(|worktree| &worktree.repo_dir);
        if clone.unwrap_or(&record.directory).is_dir() {
            return Ok(record);
        }
        let base = self.store.base(&record.base)?;
        let Some(base) = base.map(|base| base.directory).filter(|folder| folder.is_dir()) else {
            return Ok(record);
        };
        match (&record.worktree, git::top_of(&base)) {
            (Some(old), Some(top)) => {
                let new = worktree::in_moved_clone(old, top);
                record.directory = replace_top(&record.directory, &old.path, &new.path).unwrap_or(base);
                record.worktree = Some(new);
            }
            (Some(_), None) => {}
            (None, _) => record.directory = base,
        }
        Ok(record)
    }

    /// The record as it is once its session is in this place. Repairs the worktree.
    fn moved(&self, mut record: SessionRecord, place: Place) -> Result<SessionRecord, EngineError> {
        let Some(old) = record.worktree.take() else {
            // A worktree that a person made inside the clone.
            if let Some(top) = git::top_of(&place.directory)
                && top != place.clone
                && !record.directory.exists()
            {
                let repair = [
                    "worktree".as_ref(),
                    "repair".as_ref(),
                    "--".as_ref(),
                    top.as_os_str(),
                ];
                // It may be a submodule, which git does not have to be told of.
                self.git().at(&place.clone).ask(repair)?;
            }
            record.directory = place.directory;
            return Ok(record);
        };
        let new = worktree::in_moved_clone(&old, &place.clone);
        worktree::repair(&self.git(), &new, record.session.is_none())
            .map_err(worktree_error(&record.address))?;
        // Otherwise, the worktree was planned and not made.
        record.directory = replace_top(&record.directory, &old.path, &new.path).unwrap_or(place.directory);
        record.worktree = Some(new);
        Ok(record)
    }
}

/// The place below `new` of a folder below `old`; `None` if it is not below `old`.
fn replace_top(folder: &Path, old: &Path, new: &Path) -> Option<PathBuf> {
    let below = folder.strip_prefix(old).ok()?;
    // A path that is joined with an empty one ends with a slash.
    let is_top = below.as_os_str().is_empty();
    Some(if is_top { new.to_owned() } else { new.join(below) })
}
