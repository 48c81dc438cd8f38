//! The raw log of a turn: what opencode printed or sent, as it came.
//!
//! It is compressed as it is written ([`crate::log_file`]). The file is opened off the event loop; writes happen on it, because an append without a sync only reaches the
//! system's cache, and a job on the blocking pool for each line would cost more than the write. On a disk that hangs, a
//! write blocks the event loop.

use std::path::PathBuf;

use super::TransportError;
use crate::aside::aside;
use crate::log_file::LogWriter;
use crate::redact::Redactor;

/// Where a turn's raw log goes.
#[derive(Clone, Debug)]
pub struct RawLogFile {
    /// The path of its uncompressed form.
    pub path: PathBuf,
    /// How much is kept of it, in compressed bytes.
    pub max: Option<u64>,
}

/// The raw log of a turn. Without a file, nothing is kept.
pub(super) struct RawLog {
    writer: Option<LogWriter>,
    redactor: Redactor,
}

impl RawLog {
    /// Opens the file, and creates it if it is missing.
    pub(super) async fn open(file: Option<RawLogFile>, redactor: Redactor) -> Result<Self, TransportError> {
        let open = |RawLogFile { path, max }: RawLogFile| match LogWriter::append(&path, max) {
            Ok(writer) => Ok(writer),
            Err(error) => Err(TransportError::Log {
                message: error.to_string(),
                path,
            }),
        };
        let writer = match file {
            Some(file) => Some(aside(move || open(file)).await?),
            None => None,
        };
        Ok(Self { writer, redactor })
    }

    /// Whether only whole lines may be written: a secret may lie across two reads.
    pub(super) fn wants_lines(&self) -> bool {
        !self.redactor.is_empty()
    }

    /// Writes a line and masks the secrets in it.
    pub(super) fn line(&mut self, line: &[u8]) {
        if let Some(writer) = &mut self.writer {
            writer.write(&[&self.redactor.clean_bytes(line), b"\n"]);
        }
    }

    /// Writes bytes unmasked. Only for turns without secrets.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if let Some(writer) = &mut self.writer {
            writer.write(&[bytes]);
        }
    }
}
