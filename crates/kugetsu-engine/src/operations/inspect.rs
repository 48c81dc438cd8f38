//! Looking at the store: takes no lease, starts nothing, changes nothing but logs.

use std::fs::File;
use std::path::PathBuf;

use uuid::Uuid;

use super::{DEBUG_LOG, Engine, EngineError, Subject};
use crate::store::{Broken, Holder, RecordKey};
use kugetsu_api::{Address, BaseRecord, SessionRecord, SessionState, SessionSummary, TurnRecord};

impl Engine {
    /// The file of an address's record, whether or not there is one.
    pub fn record_path(&self, address: &Address) -> PathBuf {
        self.store.record_path(&address.into())
    }

    /// The file of the settings in this home, whether or not there is one.
    pub fn settings_path(&self) -> PathBuf {
        self.store.home().join("config.toml")
    }

    /// The stream of a turn, a JSON object a line, whether or not there is one.
    pub fn stream_path(&self, address: &Address, turn: Uuid) -> PathBuf {
        self.turn_file(address, turn, "events.jsonl")
    }

    /// opencode's own words during a turn, whether or not there are any.
    pub fn raw_log_path(&self, address: &Address, turn: Uuid) -> PathBuf {
        self.turn_file(address, turn, "raw.log")
    }

    fn turn_file(&self, address: &Address, turn: Uuid, ending: &str) -> PathBuf {
        self.store
            .folder(&address.into())
            .join(format!("{turn}.{ending}"))
    }

    /// The record of an address, if it has one.
    pub fn find(&self, address: &Address) -> Result<Option<SessionRecord>, EngineError> {
        Ok(self.store.session_record(address)?)
    }

    /// Every turn of a session that has ended, oldest first.
    pub fn turns(&self, address: &Address) -> Result<Vec<TurnRecord>, EngineError> {
        Ok(self.store.turns(address)?)
    }

    /// Who holds the lease of a session at the moment: `None` when nobody does, `Some(None)` for a holder without a name.
    pub fn in_use(&self, address: &Address) -> Option<Option<Holder>> {
        self.store.lease_holder(&address.into())
    }

    /// Whether this turn runs. A record that cannot be read tells of none.
    pub fn is_running(&self, address: &Address, turn: Uuid) -> bool {
        match self.store.session_record(address) {
            Ok(Some(record)) => {
                record.live.as_ref().is_some_and(|live| live.turn == turn)
                    && self.state_of(&record) == SessionState::Running
            }
            _ => false,
        }
    }

    /// Folds a summary of every session, in the order of their addresses and some dozens at a time: `add` adds one to the
    /// block that it belongs to, on the thread that reads it, with the text of its file, a JSON object that can be read as
    /// a whole; `take` gets one block after the other, on this thread, while the others go on. Gives the bases' records,
    /// and the files and folders that could not be read, and why.
    pub fn list<T: Default + Send>(
        &self,
        add: impl Fn(&mut T, SessionSummary, &str) + Sync,
        take: impl FnMut(T),
    ) -> Result<(Vec<BaseRecord>, Vec<Broken>), EngineError> {
        Ok(self.store.fold_summaries(add, take)?)
    }

    /// Opens the log of `--debug` to append to.
    pub fn open_debug_log(&self, subject: &Subject) -> Result<File, EngineError> {
        self.open_log(subject, DEBUG_LOG)
    }

    /// Opens a log in a session's folder to append to.
    pub fn open_log(&self, subject: &Subject, name: &str) -> Result<File, EngineError> {
        let key: RecordKey = match subject {
            Subject::Issue(address) => address.into(),
            Subject::Base(repo) => repo.into(),
        };
        Ok(self.store.open_log(&key, name)?)
    }

    /// Removes for good what the trash has kept for longer than `trash_keep`.
    pub fn expire_trash(&self) -> Result<(), EngineError> {
        self.store.expire_trash(self.settings.trash_keep)?;
        Ok(())
    }
}
