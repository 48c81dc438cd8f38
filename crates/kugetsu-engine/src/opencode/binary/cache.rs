//! The cache of opencode's version and database path, a JSON file. A file that cannot be read or parsed counts as
//! empty.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::{Search, Version};
use crate::fsx;

const SCHEMA: u32 = 1;
/// More entries than one user needs at a time.
const MAX_ENTRIES: usize = 8;
/// Far more than the entries need.
const MAX_SIZE: u64 = 1 << 20;

#[derive(Deserialize, Serialize)]
struct File {
    schema: u32,
    entries: Vec<Entry>,
}

#[derive(Deserialize, Serialize)]
struct Entry {
    key: Key,
    version: String,
    database: PathBuf,
}

/// Everything that version and database path depend on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Key {
    program: PathBuf,
    size: u64,
    mtime_ns: u64,
    home: PathBuf,
    xdg_data_home: Option<PathBuf>,
    opencode_db: Option<PathBuf>,
}

pub(super) struct CachedProbe {
    pub(super) version: Version,
    pub(super) database: PathBuf,
}

impl Key {
    /// `None` if the program's metadata cannot be read.
    pub(super) fn new(program: &Path, search: &Search<'_>) -> Option<Self> {
        let metadata = program.metadata().ok()?;
        let mtime = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            program: program.to_owned(),
            size: metadata.len(),
            mtime_ns: mtime.as_nanos() as u64,
            home: search.home.to_owned(),
            xdg_data_home: search.xdg_data_home.map(PathBuf::from),
            opencode_db: search.opencode_db.map(PathBuf::from),
        })
    }
}

fn entries(file: &Path) -> Vec<Entry> {
    let parsed = fsx::read_bounded(file, MAX_SIZE)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok());
    parsed
        .filter(|parsed| parsed.schema == SCHEMA)
        .map(|parsed| parsed.entries)
        .unwrap_or_default()
}

pub(super) fn read(file: &Path, key: &Key) -> Option<CachedProbe> {
    let entry = entries(file).into_iter().find(|entry| entry.key == *key)?;
    Some(CachedProbe {
        version: entry.version.parse().ok()?,
        database: entry.database,
    })
}

/// Adds an entry. If two commands write at once, the entries of one are lost, which does no harm.
pub(super) fn write(file: &Path, key: Key, version: &Version, database: &Path) -> Result<(), String> {
    let mut entries = entries(file);
    entries.retain(|entry| {
        entry.key.program != key.program || entry.key.mtime_ns == key.mtime_ns && entry.key != key
    });
    entries.insert(
        0,
        Entry {
            key,
            version: version.to_string(),
            database: database.to_owned(),
        },
    );
    entries.truncate(MAX_ENTRIES);
    let folder = file.parent().unwrap_or(Path::new("."));
    let schema = SCHEMA;
    let bytes = serde_json::to_vec(&File { schema, entries }).map_err(|error| error.to_string())?;
    fsx::create_dir_all_volatile(folder.parent().unwrap_or(folder), folder)
        .and_then(|()| fsx::write_atomic_volatile(file, &bytes))
        .map_err(|error| error.to_string())
}
