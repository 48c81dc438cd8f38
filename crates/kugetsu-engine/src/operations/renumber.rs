//! The repair of a session whose messages are newer than the system's clock: a copy under new ids, with times that are
//! not in the future, takes its place.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use jiff::Timestamp;

use super::deliver::disorder_of;
use super::destroy::{EXPORT, clone_of};
use super::error::Disorder;
use super::{Engine, EngineError, read_database};
use crate::fsx;
use crate::opencode::{Opencode, Renumbered, SessionPatch, renumbered};
use crate::store::{RecordKey, StoreError, this_process};
use kugetsu_api::{Address, RepoRef, SessionId};

/// The file with the copy, until opencode has imported it.
const COPY: &str = "copy.json";

/// A session that needs the repair, or its base.
pub(super) struct Disordered {
    pub(super) key: RecordKey,
    pub(super) session: SessionId,
    pub(super) disorder: Disorder,
}

impl Engine {
    /// The sessions and bases whose messages are newer than the system's clock, so that opencode would not see a new
    /// prompt. Blocks.
    pub(super) fn disordered(&self, opencode: &Opencode) -> Result<Vec<Disordered>, EngineError> {
        let database = read_database(opencode)?;
        let sessions = self.store.session_records()?.found.into_iter();
        let sessions = sessions
            .filter(|record| record.live.is_none())
            .filter_map(|record| {
                let key = RecordKey::from(&record.address);
                let own = record
                    .sandbox
                    .is_some()
                    .then(|| self.of_session(opencode, &record));
                record.session.map(|session| (key, session, own))
            });
        let bases = self.store.bases()?.found.into_iter();
        let bases = bases.map(|base| (RecordKey::from(&base.repo), base.session, None));
        let mut found = Vec::new();
        for (key, session, own) in sessions.chain(bases) {
            // A sandbox whose database cannot be read says nothing about the other sessions; its next turn does.
            let Ok(own) = own.map(|own| read_database(&own)).transpose() else {
                continue;
            };
            let database = own.as_ref().unwrap_or(&database);
            // What is forked gets new ids.
            let forks = matches!(key, RecordKey::Base(_));
            if let Some(disorder) = disorder_of(database, opencode, &session, forks)?.filter(Disorder::lasts)
            {
                found.push(Disordered {
                    key,
                    session,
                    disorder,
                });
            }
        }
        Ok(found)
    }

    /// Replaces a session, or a base, by its copy. Returns the copy. The original stays in opencode.
    pub(super) fn renumber(&self, opencode: &Opencode, key: &RecordKey) -> Result<SessionId, EngineError> {
        match key {
            RecordKey::Session(address) => self.renumber_session(opencode, address),
            RecordKey::Base(repo) => self.renumber_base(opencode, repo),
        }
    }

    fn renumber_session(&self, opencode: &Opencode, address: &Address) -> Result<SessionId, EngineError> {
        let key = RecordKey::from(address);
        let lease = self.store.lease_session(address, this_process("doctor"), None)?;
        let mut record = self.record(address)?;
        let opencode = &self.of_session(opencode, &record);
        self.adopt(&lease, &mut record, Some(opencode))?;
        let Some(session) = record.session.clone() else {
            return Err(self.no_session(address));
        };
        let copy = self.copy(opencode, &key, &session, clone_of(&record))?;
        record.session = Some(copy.session.clone());
        for id in record.forked_after.iter_mut().flatten() {
            if let Some(new) = copy.ids.get(id) {
                id.clone_from(new);
            }
        }
        record.updated = Timestamp::now();
        self.store.save_session(&lease, &record)?;
        self.apply_policy(opencode, &record)?;
        Ok(copy.session)
    }

    fn renumber_base(&self, opencode: &Opencode, repo: &RepoRef) -> Result<SessionId, EngineError> {
        let lease = self.store.lease_base(repo, this_process("doctor"), None)?;
        let mut record = self.base_for(repo)?;
        let copy = self.copy(opencode, &repo.into(), &record.session, &record.directory)?;
        record.session = copy.session.clone();
        record.updated = Timestamp::now();
        self.store.save_base(&lease, &record)?;
        Ok(copy.session)
    }

    fn copy(
        &self,
        opencode: &Opencode,
        key: &RecordKey,
        session: &SessionId,
        directory: &Path,
    ) -> Result<Copied, EngineError> {
        let database = read_database(opencode)?;
        let not_copied = |problem: &str| EngineError::Export {
            session: session.clone(),
            problem: problem.to_owned(),
        };
        let row = database
            .session(session)?
            .ok_or_else(|| not_copied("opencode no longer has it"))?;
        let order = database.message_ids(session)?;
        self.export(opencode, key, Some(session), directory)?;
        let folder = self.store.folder(key);
        let (export, file) = (folder.join(EXPORT), folder.join(COPY));
        let copied = File::open(&export)
            .ok()
            .and_then(|file| serde_json::from_reader(BufReader::new(file)).ok())
            .and_then(|export| renumbered(export, &order, Timestamp::now().as_millisecond()))
            .ok_or_else(|| not_copied("it does not have the form that opencode's exports have"))
            .and_then(|Renumbered { session, ids, export }| {
                // Encoding cannot fail, because the export is plain data.
                let text = serde_json::to_vec(&export).unwrap_or_default();
                fsx::write_atomic(&file, &text).map_err(StoreError::from)?;
                self.import_session(opencode, key, Some(&session), directory, &file)?;
                Ok(Copied { session, ids })
            });
        for path in [&export, &file] {
            let _ = fsx::remove_file_durable(path);
        }
        let copied = copied?;
        if database.message_count(&copied.session)? != order.len() as u64 {
            return Err(not_copied("opencode did not import all of its messages"));
        }
        let rules = row.rules();
        let patch = SessionPatch {
            permission: rules.as_deref(),
            directory: Some(&row.directory),
            path: row.path.as_deref(),
            title: Some(&row.title),
        };
        self.write_database(opencode)?.patch(&copied.session, &patch)?;
        Ok(copied)
    }
}

/// A session that is in opencode.
struct Copied {
    session: SessionId,
    /// The new id of each message.
    ids: HashMap<String, String>,
}
