//! The daemon's warm opencode servers.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a warm server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// It starts.
    Starting,
    /// It waits for a turn.
    Idle,
    /// It serves a turn, or is being cleaned after one.
    Lent,
    /// It ends.
    Ending,
}

/// A warm server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerView {
    /// Its id, which marks its processes.
    pub server: Uuid,
    /// Its process id, once it runs.
    pub pid: Option<u32>,
    /// What it is doing.
    pub state: ServerState,
    /// The turn that it serves.
    pub turn: Option<Uuid>,
    /// The directory of the turn that it serves, or served last.
    pub directory: Option<PathBuf>,
    /// How many turns it has served.
    pub turns: u32,
    /// Its resident memory after the last turn.
    pub memory_bytes: Option<u64>,
    /// When it started, or began to wait.
    pub since: Timestamp,
}

/// What the pool has done since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolCounts {
    /// Servers that were started.
    pub cold_starts: u64,
    /// Turns that got a server which was warm already.
    pub warm_starts: u64,
}
