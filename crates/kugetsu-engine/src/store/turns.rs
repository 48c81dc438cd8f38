//! `turns.jsonl`: one line for every turn that has ended.

use super::{Lease, RecordKey, Store, StoreError};
use crate::fsx;
use kugetsu_api::TurnRecord;

/// The file, in a key's folder.
const TURNS: &str = "turns.jsonl";
/// A size limit far above any real session's file.
const MAX_TURNS: u64 = 256 << 20;

impl Store {
    /// Appends a turn that has ended.
    pub fn append_turn(
        &self,
        lease: &Lease,
        key: impl Into<RecordKey>,
        turn: &TurnRecord,
    ) -> Result<(), StoreError> {
        let key = &key.into();
        lease.covers(self, key)?;
        let path = self.folder(key).join(TURNS);
        self.make_folder_of(&path)?;
        let line = kugetsu_api::json::to_vec(turn).map_err(|error| StoreError::Io {
            action: "encode",
            path: path.clone(),
            source: error.into(),
        })?;
        Ok(fsx::append_line_durable(&path, &line)?)
    }

    /// Every turn of a key that has ended, oldest first.
    pub fn turns(&self, key: impl Into<RecordKey>) -> Result<Vec<TurnRecord>, StoreError> {
        let path = self.folder(&key.into()).join(TURNS);
        fsx::refuse_symlinks(&self.home, &path)?;
        let bytes = match fsx::read_bounded(&path, MAX_TURNS) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut turns = Vec::new();
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(turn) => turns.push(turn),
                // A crash left part of a line, which stays in the file.
                Err(error) => {
                    tracing::warn!(file = %path.display(), line = number + 1, "skipped a line: {error}");
                }
            }
        }
        Ok(turns)
    }
}
