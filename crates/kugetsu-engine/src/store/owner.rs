//! Refuses a home that other users may write: its settings name commands, and its records decide what turns may do.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{StoreError, layout};

/// Write permission of the group and of others.
const OTHERS_WRITE: u32 = 0o022;

/// Fails if another user owns or may write the home, its folders or `config.toml`. What is missing is fine. Costs a few
/// calls of `stat`.
///
/// To root, only the write permissions matter: containers often run as root with the files of a user.
pub fn refuse_shared_home(home: &Path) -> Result<(), StoreError> {
    let me = rustix::process::geteuid().as_raw();
    let below = [layout::SESSIONS, layout::RUN, layout::TRASH, "config.toml"].map(|name| home.join(name));
    for path in std::iter::once(home).chain(below.iter().map(std::path::PathBuf::as_path)) {
        let Ok(metadata) = path.metadata() else {
            continue;
        };
        let foreign = me != 0 && ![me, 0].contains(&metadata.uid());
        if foreign || metadata.mode() & OTHERS_WRITE != 0 {
            return Err(StoreError::Shared {
                path: path.to_owned(),
            });
        }
    }
    Ok(())
}
