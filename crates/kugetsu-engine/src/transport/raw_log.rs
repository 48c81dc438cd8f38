//! The file that keeps opencode's own words of a turn.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::TransportError;
use crate::fsx;
use crate::redact::Redactor;

/// The raw log of a turn, where it has one.
pub(super) struct RawLog {
    file: Option<File>,
    redactor: Redactor,
}

impl RawLog {
    pub(super) fn open(path: Option<&Path>, redactor: Redactor) -> Result<Self, TransportError> {
        let open = |path: &Path| {
            fsx::create_append(path).map_err(|error| TransportError::Log {
                path: path.to_owned(),
                message: error.to_string(),
            })
        };
        Ok(Self {
            file: path.map(open).transpose()?,
            redactor,
        })
    }

    /// Whether what is written must come by lines: a secret may lie across two reads.
    pub(super) fn wants_lines(&self) -> bool {
        !self.redactor.is_empty()
    }

    /// Writes a line without the secrets in it. The log is a convenience: a turn does not end with it.
    pub(super) fn line(&mut self, line: &[u8]) {
        if let Some(file) = &mut self.file {
            let _ = file.write_all(&self.redactor.clean_bytes(line));
            let _ = file.write_all(b"\n");
        }
    }

    /// Writes bytes as they are: only where the turn has no secrets.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file {
            let _ = file.write_all(bytes);
        }
    }
}
