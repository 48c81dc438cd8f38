//! The trash's description of a removed session.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Address, RepoRef};

/// The name of an entry: `<UTC time>-<random>`. Later entries sort last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct TrashId(String);

impl TrashId {
    /// The id with this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name, which is also the name of the entry's folder.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for TrashId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The content of `entry.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrashEntry {
    /// The schema of this file.
    pub schema: u32,
    /// The entry's name.
    pub id: TrashId,
    /// The session's address, unless it was a base.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// The repository, if it was a base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<RepoRef>,
    /// When it was removed.
    pub when: Timestamp,
    /// The reason, for people.
    pub why: String,
    /// The record's original path, relative to `sessions/`.
    pub record: PathBuf,
    /// The folder's original path, relative to `sessions/`; absent if there was no folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// When it was restored, or when an unfinished restore began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Timestamp>,
}
