//! The raw log of a turn: what opencode printed or sent, as it came.
//!
//! The file is opened off the event loop; writes happen on it, because an append without a sync only reaches the
//! system's cache, and a job on the blocking pool for each line would cost more than the write. On a disk that hangs, a
//! write blocks the event loop.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use super::TransportError;
use crate::aside::aside;
use crate::fsx;
use crate::redact::Redactor;

/// The raw log of a turn. Without a file, nothing is kept.
pub(super) struct RawLog {
    file: Option<File>,
    redactor: Redactor,
}

impl RawLog {
    /// Opens the file, and creates it if it is missing.
    pub(super) async fn open(path: Option<PathBuf>, redactor: Redactor) -> Result<Self, TransportError> {
        let open = |path: PathBuf| match fsx::create_append(&path) {
            Ok(file) => Ok(file),
            Err(error) => Err(TransportError::Log {
                message: error.to_string(),
                path,
            }),
        };
        let file = match path {
            Some(path) => Some(aside(move || open(path)).await?),
            None => None,
        };
        Ok(Self { file, redactor })
    }

    /// Whether only whole lines may be written: a secret may lie across two reads.
    pub(super) fn wants_lines(&self) -> bool {
        !self.redactor.is_empty()
    }

    /// Writes a line and masks the secrets in it. A failed write is ignored: the log is a convenience, and no turn
    /// fails because of it.
    pub(super) fn line(&mut self, line: &[u8]) {
        if let Some(file) = &mut self.file {
            let _ = file.write_all(&self.redactor.clean_bytes(line));
            let _ = file.write_all(b"\n");
        }
    }

    /// Writes bytes unmasked. Only for turns without secrets.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file {
            let _ = file.write_all(bytes);
        }
    }
}
