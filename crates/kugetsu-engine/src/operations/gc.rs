//! `gc`: compresses and removes the logs of turns that have ended.

use std::time::Duration;

use super::{Engine, EngineError};
use crate::store::{Collected, RecordKey, Retention, TrashEntry};

/// How long a turn may spend on this, beside its work.
const BESIDE_A_TURN: Duration = Duration::from_secs(2);

impl Engine {
    /// Compresses and removes logs, and removes what the trash has kept long enough. With `dry_run`, only reports.
    pub fn collect_garbage(&self, dry_run: bool) -> Result<(Collected, Vec<TrashEntry>), EngineError> {
        let logs = self.store.collect_logs(self.retention(), dry_run)?;
        let trash = if dry_run {
            self.store.expired_trash(self.settings.trash_keep)?
        } else {
            self.store.expire_trash(self.settings.trash_keep)?
        };
        Ok((logs, trash))
    }

    /// Does it if that is due: once a day, by a clock that can be believed. For a program that runs for long. Blocks.
    pub fn collect_due_garbage(&self) -> Result<Option<(Collected, Vec<TrashEntry>)>, EngineError> {
        if !self.store.collection_is_due() {
            return Ok(None);
        }
        self.collect_garbage(false).map(Some)
    }

    /// Does a part of it on a thread of its own, which ends with the process. Nothing waits for it.
    pub(super) fn collect_some_garbage(&self, key: RecordKey) {
        let (store, retention) = (self.store.clone(), self.retention());
        let begun = std::thread::Builder::new().name("gc".to_owned()).spawn(move || {
            store.forget_lost_families();
            store.collect_some_logs(&key, retention, BESIDE_A_TURN);
        });
        if let Err(error) = begun {
            tracing::debug!("no thread for the logs: {error}");
        }
    }

    fn retention(&self) -> Retention {
        Retention {
            keep: self.settings.log_keep,
            session: self.settings.log_max_bytes,
            total: self.settings.log_max_total_bytes,
        }
    }
}
