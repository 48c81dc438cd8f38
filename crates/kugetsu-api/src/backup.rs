//! What an archive of `backup` says about itself.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The format of the archives that this version writes, and the newest one that it reads.
pub const BACKUP_FORMAT: u32 = 1;

/// `manifest.json`, the last file of an archive. What it does not list does not belong to the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackupManifest {
    /// The format of the archive.
    pub format: u32,
    /// The version of kugetsu that wrote it.
    pub kugetsu: String,
    /// When the backup began.
    pub time: Timestamp,
    /// The version of opencode whose database is in the archive; absent without a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opencode: Option<String>,
    /// The files, in the order of the archive.
    pub files: Vec<BackupFile>,
}

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackupFile {
    /// Its name in the archive: `opencode.db`, or a path below `home/`.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of its content, in hexadecimal digits.
    pub sha256: String,
}
