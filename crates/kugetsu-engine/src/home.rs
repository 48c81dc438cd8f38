//! The names in kugetsu's home that more than one crate uses.

use std::path::{Component, Path};

/// The folder of everything that belongs to running processes.
pub const RUN: &str = "run";
/// The lock in it that a daemon holds.
pub const DAEMON_LOCK: &str = "daemon.lock";
/// The file of the daemon's queue.
pub const QUEUE: &str = "queue.db";
/// The folder of what turns have cost.
pub const SPENDING: &str = "spending";
/// The settings.
pub(crate) const SETTINGS: &str = "config.toml";
/// The records and logs of sessions.
pub(crate) const SESSIONS: &str = "sessions";
/// Removed sessions and bases.
pub(crate) const TRASH: &str = "trash";
/// The sandboxes of sessions.
pub(crate) const SANDBOXES: &str = "sandboxes";
/// The database in a sandbox.
pub(crate) const SANDBOX_DATABASE: &str = "opencode/data/opencode/opencode.db";
/// The tokens of the daemon's API, as hashes.
pub(crate) const TOKENS: &str = "tokens.json";

/// Whether a backup has the file with this path below the home.
pub(crate) fn is_in_backup(path: &Path) -> bool {
    let mut parts = path.components();
    let Some(Component::Normal(first)) = parts.next() else {
        return false;
    };
    let rest = parts.as_path();
    match first.to_str() {
        Some(SETTINGS | TOKENS | QUEUE) => rest.as_os_str().is_empty(),
        Some(SESSIONS | TRASH | SPENDING) => !rest.as_os_str().is_empty(),
        Some(SANDBOXES) => {
            let mut parts = rest.components();
            let name = parts.next().and_then(|part| part.as_os_str().to_str());
            name.is_some_and(|name| uuid::Uuid::try_parse(name).is_ok())
                && parts.as_path() == Path::new(SANDBOX_DATABASE)
        }
        _ => false,
    }
}
