//! `destroy` and `restore`: move a session out of opencode into the trash, and back.
//!
//! `destroy` exports the session into its folder, syncs the export, reads it back and counts its messages before it
//! deletes anything, because truncated exports have been reported. Then `destroy` deletes the session from opencode,
//! and last it moves the record and the folder to the trash. A crash between these two steps leaves a record without a
//! session, with the export beside it. `destroy` and `prune` move such a record to the trash, and `restore` imports the
//! export.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::session_context::CONTEXT_FILE;
use super::worktree::BUNDLE;
use super::{Engine, EngineError, RemovedWorktree, read_database};
use crate::fsx::{self, FsError};
use crate::opencode::{Opencode, SessionPatch, commands};
use crate::operations::points;
use crate::store::{Lease, RecordKey, StoreError, TrashEntry, this_process};
use crate::turn::control::SIGNAL_FILE;
use crate::turn::status::STATUS_FILE;
use kugetsu_api::{Address, BaseRecord, ErrorCode, RepoRef, SessionId, SessionRecord};

/// The result of `destroy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The session.
    pub session: Option<SessionId>,
    /// Whether the session was deleted from opencode: false if it was already gone, or if it had been adopted.
    pub deleted: bool,
    /// The number of messages in the export in the trash.
    pub messages: usize,
    /// Whether there is no export because the database of the session's sandbox is damaged or gone.
    pub messages_lost: bool,
    /// The git bundle with the work of the worktree, if the session cannot be restored because its messages are lost.
    pub bundle: Option<PathBuf>,
    /// The removed worktree.
    pub worktree: Option<RemovedWorktree>,
}

impl Engine {
    /// Removes a session from opencode, its worktree, and its record from the store. Everything can be restored.
    ///
    /// `force` also removes a worktree with work that exists nowhere else; the trash keeps that work. It also removes a
    /// sandboxed session whose database is damaged or gone; its messages cannot be restored.
    pub fn destroy(&self, address: &Address, force: bool) -> Result<Removed, EngineError> {
        let record = self.record(address)?;
        self.refuse_own_turn(address)?;
        if !force {
            self.refuse_risk(&record)?;
        }
        let lease = self.store.lease_session(address, this_process("destroy"), None)?;
        let opencode = self.opencode()?;
        let mut record = self.record(address)?;
        let opencode = self.of_session(&opencode, &record);
        // Nobody would read the messages, and the database goes with the sandbox.
        let gives_up =
            |error: &EngineError| force && matches!(error, EngineError::Database(error) if error.is_lost());
        let mut adopted = self.adopt(&lease, &mut record, Some(&opencode));
        if adopted.as_ref().is_err_and(gives_up) {
            record.fork = None;
            adopted = self.adopt(&lease, &mut record, Some(&opencode));
        }
        adopted?;
        let export = self.export(
            &opencode,
            &address.into(),
            record.session.as_ref(),
            &record.directory,
        );
        let messages_lost = record.session.is_some() && export.as_ref().is_err_and(gives_up);
        let export = match export {
            Err(error) if gives_up(&error) => None,
            export => export?,
        };
        let mut worktree = self.remove_worktree(&record, force)?;
        let removed = self.delete(&opencode, record.session.clone(), clone_of(&record), export)?;
        points::DESTROY_DELETED.pass();
        self.clear_run(&address.into());
        self.store.trash_session(&lease, address, "destroy")?;
        points::DESTROY_TRASHED.pass();
        let bundle = if messages_lost {
            let entry = self.store.newest_trashed(&address.into())?;
            Some(self.store.trashed_file(&entry, BUNDLE)).filter(|bundle| bundle.is_file())
        } else {
            None
        };
        self.drop_worktree_branch(&record, &mut worktree)?;
        self.remove_sandbox(&record)?;
        Ok(Removed {
            messages_lost,
            bundle,
            worktree,
            ..removed
        })
    }

    /// Removes the files that the last turn of a session left below `run/`. Comes before the removal of the record, so
    /// that after a crash the next command still finds the record. The lease file stays, because other processes may be
    /// about to lock it.
    pub(super) fn clear_run(&self, key: &RecordKey) {
        for ending in [STATUS_FILE, SIGNAL_FILE, CONTEXT_FILE] {
            let _ = self.store.remove_run(key, ending);
        }
    }

    /// Removes a repository's base. The sessions forked from it are sessions of their own and stay.
    pub fn destroy_base(&self, repo: &RepoRef) -> Result<Removed, EngineError> {
        let lease = self.store.lease_base(repo, this_process("destroy"), None)?;
        let record = self.own_base(repo)?;
        if record.adopted {
            self.clear_run(&repo.into());
            self.store.trash_base(&lease, repo, "destroy --base")?;
            return Ok(Removed {
                session: Some(record.session),
                ..Removed::default()
            });
        }
        let opencode = self.opencode()?;
        let export = self.export(&opencode, &repo.into(), Some(&record.session), &record.directory)?;
        let removed = self.delete(&opencode, Some(record.session), &record.directory, export)?;
        points::DESTROY_DELETED.pass();
        self.clear_run(&repo.into());
        self.store.trash_base(&lease, repo, "destroy --base")?;
        points::DESTROY_TRASHED.pass();
        Ok(removed)
    }

    fn delete(
        &self,
        opencode: &Opencode,
        session: Option<SessionId>,
        directory: &Path,
        messages: Option<usize>,
    ) -> Result<Removed, EngineError> {
        let Some((session, messages)) = session.clone().zip(messages) else {
            return Ok(Removed {
                session,
                ..Removed::default()
            });
        };
        let directory = existing(directory, self.environment.home());
        self.command(opencode, directory, &commands::delete_args(&session), None)?;
        if read_database(opencode)?.session(&session)?.is_some() {
            return Err(EngineError::Command {
                command: commands::delete_args(&session).join(" "),
                problem: "opencode still has the session".to_owned(),
            });
        }
        Ok(Removed {
            session: Some(session),
            deleted: true,
            messages,
            ..Removed::default()
        })
    }

    /// Exports a session into a file of the store and checks the file. `None`: opencode no longer has it.
    pub(super) fn export(
        &self,
        opencode: &Opencode,
        key: &RecordKey,
        session: Option<&SessionId>,
        directory: &Path,
    ) -> Result<Option<usize>, EngineError> {
        let Some(session) = session else { return Ok(None) };
        let database = read_database(opencode)?;
        if database.session(session)?.is_none() {
            return Ok(None);
        }
        let expected = database.message_count(session)?;
        // The session's folder goes to the trash with the export.
        let folder = self.store.folder(key);
        let file = folder.join(PARTIAL);
        fsx::remove_file_durable(&file).or_else(missing_is_fine)?;
        let sink = self.store.open_log(key, PARTIAL)?;
        let directory = existing(directory, self.environment.home());
        let read = self
            .command(opencode, directory, &commands::export_args(session), Some(sink))
            .and_then(|_| messages_of(&file, session, expected));
        if read.is_err() {
            // However opencode reports a full disk, the full disk is the cause.
            let full = self.store.refuse_full_disk(&file);
            let _ = fsx::remove_file_durable(&file);
            full?;
        }
        let messages = read?;
        // The data that was read may be in memory only.
        fsx::sync_file(&file).map_err(StoreError::from)?;
        fsx::rename_durable(&file, &folder.join(EXPORT)).map_err(StoreError::from)?;
        Ok(Some(messages))
    }

    /// Restores the newest entry that `destroy` or `prune` removed, also after an interrupted `destroy`.
    pub fn restore(&self, address: &Address) -> Result<SessionRecord, EngineError> {
        let key = RecordKey::from(address);
        let lease = self.store.lease_session(address, this_process("restore"), None)?;
        let opencode = self.opencode()?;
        let current = self.store.session_record(address)?;
        let half_destroyed = match &current {
            Some(record) => {
                let opencode = self.of_session(&opencode, record);
                self.is_half_destroyed(&opencode, &key, record.session.as_ref())?
            }
            None => false,
        };
        if let Some(record) = current.filter(|_| half_destroyed) {
            let folder = self.store.folder(&key);
            self.restore_worktree(&record, &folder.join(BUNDLE))?;
            let (session, directory) = (record.session.as_ref(), clone_of(&record));
            let opencode = self.of_session(&opencode, &record);
            self.import_session(&opencode, &key, session, directory, &folder.join(EXPORT))?;
        } else {
            let entry = self.free_to_restore(&lease)?;
            let trashed = self.store.trashed_session(&entry)?;
            let placed = self.where_the_base_is(trashed.clone())?;
            self.restore_worktree(&placed, &self.store.trashed_file(&entry, BUNDLE))?;
            let (session, directory) = (placed.session.as_ref(), clone_of(&placed));
            let export = self.store.trashed_file(&entry, EXPORT);
            self.make_sandbox_folders(&placed)?;
            // The session comes first: a record without its session would be an orphan.
            self.import_session(
                &self.of_session(&opencode, &placed),
                &key,
                session,
                directory,
                &export,
            )?;
            self.store.restore_session(&lease, address)?;
            if placed != trashed {
                // A crash before this leaves the old place, which `move` changes.
                self.store.save_session(&lease, &placed)?;
            }
        }
        self.drop_copies(&key);
        let record = self.record(address)?;
        self.apply_policy(&opencode, &record)?;
        Ok(record)
    }

    /// Like [`Engine::restore`], for a repository's base. It is not the default base afterwards.
    pub fn restore_base(&self, repo: &RepoRef) -> Result<BaseRecord, EngineError> {
        let key = RecordKey::from(repo);
        let lease = self.store.lease_base(repo, this_process("restore"), None)?;
        let opencode = self.opencode()?;
        let current = self.store.base(repo)?;
        let half_destroyed = match &current {
            Some(record) => self.is_half_destroyed(&opencode, &key, Some(&record.session))?,
            None => false,
        };
        let mut record = if let Some(record) = current.filter(|_| half_destroyed) {
            let export = self.store.folder(&key).join(EXPORT);
            self.import_session(&opencode, &key, Some(&record.session), &record.directory, &export)?;
            record
        } else {
            let entry = self.free_to_restore(&lease)?;
            let trashed = self.store.trashed_base(&entry)?;
            let export = self.store.trashed_file(&entry, EXPORT);
            self.import_session(
                &opencode,
                &key,
                Some(&trashed.session),
                &trashed.directory,
                &export,
            )?;
            self.store.restore_base(&lease, repo)?;
            trashed
        };
        self.drop_copies(&key);
        if record.default_since.take().is_some() && self.store.default_base()?.as_ref() != Some(repo) {
            self.store.save_base(&lease, &record)?;
        }
        if !record.adopted {
            let rules = record.policy.rules();
            let patch = SessionPatch {
                permission: Some(&rules),
                directory: Some(&record.directory),
                path: None,
                title: Some(&record.title),
            };
            self.write_database(&opencode)?.patch(&record.session, &patch)?;
        }
        Ok(record)
    }

    /// Whether a `destroy` was interrupted after it deleted the session and before it removed the record.
    fn is_half_destroyed(
        &self,
        opencode: &Opencode,
        key: &RecordKey,
        session: Option<&SessionId>,
    ) -> Result<bool, EngineError> {
        let Some(session) = session else { return Ok(false) };
        if !self.store.folder(key).join(EXPORT).is_file() {
            return Ok(false);
        }
        Ok(read_database(opencode)?.session(session)?.is_none())
    }

    /// Whether `restore` can bring back all of an entry. An entry of `prune` has no session.
    pub(super) fn is_whole(&self, entry: &TrashEntry) -> bool {
        let file = |name| self.store.trashed_file(entry, name).is_file();
        if entry.address.is_some() {
            let record = self.store.trashed_session(entry);
            return record.is_ok_and(|record| record.session.is_none() || file(EXPORT));
        }
        let record = self.store.trashed_base(entry);
        record.is_ok_and(|record| record.adopted || file(EXPORT))
    }

    /// The entries of the trash, oldest first, with their sizes in bytes and whether `restore` can bring them back.
    pub fn trash(&self) -> Result<Vec<(TrashEntry, u64, bool)>, EngineError> {
        let entries = self.store.trash_list()?.into_iter();
        Ok(entries
            .map(|entry| {
                let (size, whole) = (self.store.size_of_trashed(&entry), self.is_whole(&entry));
                (entry, size, whole)
            })
            .collect())
    }

    /// The entries of the trash that are older than this.
    pub fn old_trash(&self, older_than: Duration) -> Result<Vec<TrashEntry>, EngineError> {
        Ok(self.store.expired_trash(older_than)?)
    }

    /// Removes the entries of the trash that are older than this, for good.
    pub fn empty_trash(&self, older_than: Duration) -> Result<Vec<TrashEntry>, EngineError> {
        Ok(self.store.expire_trash(older_than)?)
    }

    /// The newest trash entry of a key. Fails before anything is imported if the key has a record: the import would
    /// leave a session that no record names.
    fn free_to_restore(&self, lease: &Lease) -> Result<TrashEntry, EngineError> {
        let key = lease.key();
        self.store.finish_removal(lease)?;
        let entry = self.store.newest_trashed(key)?;
        let path = self.store.record_path(key);
        if path.symlink_metadata().is_ok() {
            let key = key.clone();
            return Err(StoreError::Exists { key, path }.into());
        }
        Ok(entry)
    }

    /// Imports a session, unless opencode already has it.
    pub(super) fn import_session(
        &self,
        opencode: &Opencode,
        key: &RecordKey,
        session: Option<&SessionId>,
        directory: &Path,
        export: &Path,
    ) -> Result<(), EngineError> {
        let Some(session) = session else { return Ok(()) };
        let fresh = opencode.own_database && opencode.database_file().is_missing()?;
        if !fresh && read_database(opencode)?.session(session)?.is_some() {
            return Ok(());
        }
        if !export.is_file() {
            return Err(EngineError::NotFound {
                code: ErrorCode::NotInTrash,
                problem: format!("the trash has the record of {key}, but no export of its session"),
                hint: match key {
                    RecordKey::Session(address) => {
                        format!("start a new session: kugetsu start {address} \"what to do\"")
                    }
                    RecordKey::Base(_) => "make a new base inside a clone: kugetsu init".to_owned(),
                },
            });
        }
        let file = export.to_string_lossy().into_owned();
        let directory = existing(directory, self.environment.home());
        self.command(opencode, directory, &commands::import_args(&file), None)?;
        if read_database(opencode)?.session(session)?.is_none() {
            return Err(EngineError::Command {
                command: commands::import_args(&file).join(" "),
                problem: "opencode does not have the session afterwards".to_owned(),
            });
        }
        Ok(())
    }

    /// Removes the files that were kept for a restore.
    fn drop_copies(&self, key: &RecordKey) {
        for name in [EXPORT, BUNDLE] {
            let _ = fsx::remove_file_durable(&self.store.folder(key).join(name));
        }
    }
}

/// The export of a destroyed session, beside its turns.
pub(super) const EXPORT: &str = "export.json";
/// The name of the export until it has been read and counted.
const PARTIAL: &str = "export.partial";

/// The number of messages in an export. Fails unless the export holds all of them.
fn messages_of(file: &Path, session: &SessionId, expected: u64) -> Result<usize, EngineError> {
    let invalid = |problem: String| EngineError::Export {
        session: session.clone(),
        problem,
    };
    let reader = File::open(file).map_err(|error| invalid(error.to_string()))?;
    let export = commands::parse_export(std::io::BufReader::new(reader))
        .map_err(|error| invalid(format!("it is not valid JSON: {error}")))?;
    if export.session != session.as_str() {
        return Err(invalid("it belongs to another session".to_owned()));
    }
    if export.messages as u64 != expected {
        return Err(invalid(format!(
            "it has {} of {expected} messages",
            export.messages
        )));
    }
    Ok(export.messages)
}

fn missing_is_fine(error: FsError) -> Result<(), StoreError> {
    if error.is_not_found() {
        Ok(())
    } else {
        Err(error.into())
    }
}

/// The directory for opencode's commands about a session: the clone, because the worktree may be gone and belongs to
/// the same project.
pub(super) fn clone_of(record: &SessionRecord) -> &Path {
    match &record.worktree {
        Some(worktree) => &worktree.repo_dir,
        None => &record.directory,
    }
}

/// The working directory for opencode's commands: the session's own, or the home folder if the session's own is gone.
fn existing(directory: &Path, home: &Path) -> PathBuf {
    if directory.is_dir() { directory } else { home }.to_owned()
}
