//! What the trash remembers of a session that was removed.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Address, RepoRef};

/// The name of an entry: `<UTC time>-<random>`; later ones sort last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct TrashId(String);

impl TrashId {
    /// The entry of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name, which is also that of the entry's folder.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for TrashId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// `entry.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrashEntry {
    /// The schema of this file.
    pub schema: u32,
    /// The entry's name.
    pub id: TrashId,
    /// The session's address, unless it was a base.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// The repository, when it was a base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<RepoRef>,
    /// When it was removed.
    pub when: Timestamp,
    /// Why, for people.
    pub why: String,
    /// Where the record was, below `sessions/`.
    pub record: PathBuf,
    /// Where the folder was, below `sessions/`; absent if there was no folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// When it was put back, or that was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Timestamp>,
}
