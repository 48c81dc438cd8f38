//! Read-only operations on the store. They take no lease, start nothing and change nothing except logs.

use std::fs::File;
use std::path::PathBuf;

use uuid::Uuid;

use super::{Engine, EngineError, LastingLog, Subject};
use crate::store::{Broken, Holder, RecordKey, Sizes};
use kugetsu_api::{Address, BaseRecord, SessionRecord, SessionSummary, TurnRecord};

impl Engine {
    /// The path of an address's record. The file may not exist.
    pub fn record_path(&self, address: &Address) -> PathBuf {
        self.store.record_path(&address.into())
    }

    /// The path of the settings in this home. The file may not exist.
    pub fn settings_path(&self) -> PathBuf {
        self.store.home().join("config.toml")
    }

    /// The path of a turn's stream, one JSON object per line. The file may not exist.
    pub fn stream_path(&self, address: &Address, turn: Uuid) -> PathBuf {
        self.turn_file(address, turn, "events.jsonl")
    }

    /// The path of opencode's own output during a turn. The file may not exist.
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

    /// Every ended turn of a session, oldest first.
    pub fn turns(&self, address: &Address) -> Result<Vec<TurnRecord>, EngineError> {
        Ok(self.store.turns(address)?)
    }
    /// The addresses that have a record, by the names of the files alone. What cannot be read is left out.
    pub fn addresses(&self) -> Vec<Address> {
        self.store.addresses()
    }

    /// The ids of a session's turns, oldest first, with the one that runs.
    pub fn turn_ids(&self, address: &Address) -> Result<Vec<Uuid>, EngineError> {
        let record = self.record(address)?;
        let ended = self.store.turns(address)?;
        let newest = record.last.map(|last| last.turn).into_iter();
        let mut ids: Vec<_> = ended.into_iter().map(|ended| ended.turn).collect();
        for turn in newest.chain(record.live.map(|live| live.turn)) {
            if !ids.contains(&turn) {
                ids.push(turn);
            }
        }
        Ok(ids)
    }

    /// The current holder of a session's lease: `None` if the lease is free, `Some(None)` for a holder without a name.
    pub fn in_use(&self, address: &Address) -> Option<Option<Holder>> {
        self.store.lease_holder(&address.into())
    }

    /// Whether this turn runs. False if the record cannot be read.
    pub fn is_running(&self, address: &Address, turn: Uuid) -> bool {
        match self.store.session_record(address) {
            Ok(Some(record)) => {
                record.live.as_ref().is_some_and(|live| live.turn == turn) && self.state_of(&record).is_live()
            }
            _ => false,
        }
    }

    /// Folds a summary of every session, in the order of their addresses, in blocks of some dozens. `add` runs on a
    /// reader thread: it adds one summary to its block and also gets the text of the record's file, a valid JSON
    /// object. `take` runs on this thread and gets the blocks in order while the readers continue. Returns the records
    /// of the bases, and the files and folders that could not be read, each with the reason.
    pub fn list<T: Default + Send>(
        &self,
        add: impl Fn(&mut T, SessionSummary, &str) + Sync,
        take: impl FnMut(T),
    ) -> Result<(Vec<BaseRecord>, Vec<Broken>), EngineError> {
        Ok(self.store.fold_summaries(add, take)?)
    }

    /// Opens the log of `--debug` to append to.
    pub fn open_debug_log(&self, subject: &Subject) -> Result<File, EngineError> {
        self.open_lasting_log(subject, LastingLog::Debug)
    }

    /// Opens a log in a session's folder to which every turn appends.
    pub fn open_lasting_log(&self, subject: &Subject, log: LastingLog) -> Result<File, EngineError> {
        let key: RecordKey = match subject {
            Subject::Session(address) => address.into(),
            Subject::Base(repo) => repo.into(),
        };
        Ok(self.store.open_lasting_log(&key, log)?)
    }

    /// The size of a session's record and files, in bytes.
    pub fn size_of(&self, address: &Address) -> u64 {
        self.store.size_of(&address.into())
    }

    /// The sizes of the store's files.
    pub fn sizes(&self) -> Sizes {
        self.store.sizes()
    }

    /// Permanently removes trash entries that are older than `trash_keep`, unless the clock may be wrong.
    pub fn expire_trash(&self) -> Result<(), EngineError> {
        if self.store.believes_clock() {
            self.store.expire_trash(self.settings.trash_keep)?;
        }
        Ok(())
    }
}
