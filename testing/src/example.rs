//! The example store, `sessions-example/`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::{files_below, workspace_root};

/// The path of its repository's sessions inside a store.
pub const SESSIONS: &str = "sessions/github.com/shoko/kugetsu";

/// The folder of the example.
pub fn folder() -> PathBuf {
    workspace_root().join("sessions-example")
}

/// The text of a file in a store.
pub fn text(home: &Path, name: &str) -> String {
    let path = home.join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below the folder, by its relative path.
pub fn files(folder: &Path) -> BTreeSet<String> {
    let name = |path: PathBuf| Some(path.strip_prefix(folder).ok()?.to_str()?.to_owned());
    files_below(folder).into_iter().filter_map(name).collect()
}

/// The stream of the first turn of issue 14.
pub fn stream(home: &Path) -> String {
    let folder = format!("{SESSIONS}/14/");
    files(home)
        .into_iter()
        .find(|name| name.starts_with(&folder) && name.ends_with(".events.jsonl"))
        .expect("a stream")
}
