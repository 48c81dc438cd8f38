//! How long the logs of turns stay, and in what form.
//!
//! Records, `turns.jsonl`, and the logs of each session's newest turn always stay. A file is touched only if its turn
//! has ended, and only if it is still as it was when it was listed, so this needs no lease and is safe beside turns that
//! run and beside another collection. A compressed log takes its place under the index's lock, because a removal moves a
//! session's files under this lock. A collection that is killed leaves at most a temporary file, which the next one
//! removes.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use super::check::is_stale;
use super::listing::Folder;
use super::{RecordKey, Store, StoreError, TrashEntry, lasting_log, layout};
use crate::fsx;
use crate::log_file::{self, LogReader};

/// A log is compressed from this size on: smaller ones take one block on the disk in any case.
const WORTH_PACKING: u64 = 4096;
/// How long a stream is left as it is after its turn, for programs that read the file themselves, and how long a log is
/// taken to belong to a live turn if no turn on record names it.
const REST: Duration = Duration::from_hours(24);
/// The largest log that is compressed beside a turn, in bytes.
const MOST_BESIDE: u64 = 256 << 20;
/// How often a turn looks at the logs of all sessions.
const EVERY: Duration = Duration::from_hours(24);
/// The file in `run/` whose age is the time since the last look at all sessions.
const STAMP: &str = "gc";
/// How long after that look the clock is still believed at once.
const BELIEVED: Duration = Duration::from_hours(30 * 24);
/// The file in `run/` whose age is the time since the clock was first not believed.
const DOUBT: &str = "gc.doubt";

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// The age up to which logs stay.
    pub keep: Duration,
    /// The limit for the logs of one session, in bytes.
    pub session: Option<u64>,
    /// The limit for all logs, in bytes.
    pub total: Option<u64>,
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The logs that were compressed.
    pub compressed: Vec<PathBuf>,
    /// The logs that were removed.
    pub removed: Vec<PathBuf>,
    /// The logs to which every turn appends, such as `hooks.log`, of which only the newest part was kept.
    pub shortened: Vec<PathBuf>,
    /// How many bytes that made free; without those of compressed and shortened logs if nothing was changed.
    pub freed: u64,
    /// The size of all logs of turns before, and of those that were shortened, in bytes.
    pub before: u64,
    /// The files that could not be read or written, and the reasons.
    pub failed: Vec<(PathBuf, String)>,
}

/// The sizes of the store's files, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Everything below `sessions/`.
    pub sessions: u64,
    /// The part of it that is logs of turns.
    pub logs: u64,
    /// The trash.
    pub trash: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Removed first: it repeats in opencode's own form what the stream has.
    Raw,
    Stream,
}

/// A log of a turn.
#[derive(Clone, Debug)]
struct Log {
    path: PathBuf,
    turn: Uuid,
    kind: Kind,
    packed: bool,
    size: u64,
    modified: SystemTime,
    inode: u64,
}

/// The turns of a session.
struct Turns {
    /// The turns that have ended.
    ended: HashSet<Uuid>,
    live: Option<Uuid>,
    newest: Option<Uuid>,
}

impl Log {
    fn read(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (name, packed) = match name.strip_suffix(log_file::ENDING) {
            Some(name) => (name, true),
            None => (name, false),
        };
        let (turn, ending) = name.split_once('.')?;
        let kind = match ending {
            "raw.log" => Kind::Raw,
            "events.jsonl" => Kind::Stream,
            _ => return None,
        };
        let metadata = path.symlink_metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(Self {
            turn: turn.parse().ok()?,
            kind,
            packed,
            size: metadata.len(),
            modified: metadata.modified().ok()?,
            inode: metadata.ino(),
            path,
        })
    }

    /// The order of removal.
    fn order(&self) -> (Kind, SystemTime, &Path) {
        (self.kind, self.modified, &self.path)
    }

    fn age(&self) -> Duration {
        SystemTime::now()
            .duration_since(self.modified)
            .unwrap_or_default()
    }

    /// Whether the file is still the one that was listed.
    fn is_unchanged(&self) -> bool {
        self.path.symlink_metadata().is_ok_and(|now| {
            now.ino() == self.inode && now.len() == self.size && now.modified().ok() == Some(self.modified)
        })
    }

    fn is_over(&self, turns: &Turns) -> bool {
        turns.live != Some(self.turn) && (turns.ended.contains(&self.turn) || self.age() > REST)
    }

    fn may_go(&self, turns: &Turns) -> bool {
        turns.newest != Some(self.turn) && self.is_over(turns)
    }

    fn is_worth_packing(&self) -> bool {
        !self.packed && self.size > WORTH_PACKING && (self.kind == Kind::Raw || self.age() > REST)
    }

    fn may_be_packed(&self, turns: &Turns) -> bool {
        self.is_worth_packing()
            && self.is_over(turns)
            && (self.kind == Kind::Raw || turns.newest != Some(self.turn))
    }
}

/// One collection.
struct Collection<'a> {
    store: &'a Store,
    retention: Retention,
    dry_run: bool,
    /// Beside a turn: when to stop.
    until: Option<Instant>,
    done: Collected,
}

impl Store {
    /// Compresses and removes logs of all sessions. With `dry_run`, only reports.
    pub fn collect_logs(&self, retention: Retention, dry_run: bool) -> Result<Collected, StoreError> {
        let mut collection = Collection::new(self, retention, dry_run, None);
        collection.all()?;
        if !dry_run {
            self.stamp_collection();
        }
        Ok(collection.done)
    }

    /// Compresses and removes logs of one session and, once a day, of all sessions, for at most this long.
    pub fn collect_some_logs(&self, key: &RecordKey, retention: Retention, at_most: Duration) {
        if !self.believes_clock() {
            return;
        }
        let mut collection = Collection::new(self, retention, false, Some(Instant::now() + at_most));
        collection.session(key);
        if self.collection_age().is_none_or(|age| age > EVERY)
            && collection.all().is_ok()
            && !collection.is_late()
        {
            self.stamp_collection();
        }
        for (path, why) in collection.done.failed {
            tracing::warn!(path = %path.display(), "a log was not compressed or removed: {why}");
        }
    }

    /// Whether the logs of all sessions were last looked at more than a day ago, and the clock is believed.
    pub fn collection_is_due(&self) -> bool {
        self.believes_clock() && self.collection_age().is_none_or(|age| age > EVERY)
    }

    fn collection_age(&self) -> Option<Duration> {
        self.stamp_age(STAMP)
    }

    fn stamp_collection(&self) {
        self.stamp(STAMP);
    }

    /// Whether what is old by the clock may be removed without being asked to. If the clock is more than a month later
    /// than at the last collection, it may be wrong, and everything would look old. Then it is believed after a day.
    pub fn believes_clock(&self) -> bool {
        if self.collection_age().is_none_or(|age| age <= BELIEVED) {
            return true;
        }
        match self.stamp_age(DOUBT) {
            Some(age) if age <= EVERY => false,
            Some(age) if age <= BELIEVED => true,
            _ => {
                self.stamp(DOUBT);
                false
            }
        }
    }

    fn stamp_age(&self, name: &str) -> Option<Duration> {
        let stamp = self.home.join(layout::RUN).join(name);
        let written = stamp.symlink_metadata().ok()?.modified().ok()?;
        SystemTime::now().duration_since(written).ok()
    }

    fn stamp(&self, name: &str) {
        let stamp = self.home.join(layout::RUN).join(name);
        let _ = self
            .create_run_folder_of(&stamp)
            .and_then(|()| Ok(fsx::write_atomic_volatile(&stamp, b"")?));
    }

    /// The size of a key's record and files, in bytes.
    pub fn size_of(&self, key: &RecordKey) -> u64 {
        let record = self.record_path(key).symlink_metadata();
        let mut size = record.map_or(0, |metadata| metadata.len());
        for name in fsx::names_in(&self.folder(key), layout::ROLES).unwrap_or_default() {
            add_sizes(&self.folder(key).join(name), &mut |_, length| size += length);
        }
        size
    }

    /// The size of an entry of the trash, in bytes.
    pub fn size_of_trashed(&self, entry: &TrashEntry) -> u64 {
        let mut size = 0;
        let folder = self.home.join(layout::TRASH).join(entry.id.as_str());
        add_sizes(&folder, &mut |_, length| size += length);
        size
    }

    /// The sizes of the store's files.
    pub fn sizes(&self) -> Sizes {
        let mut sizes = Sizes::default();
        add_sizes(&self.sessions(), &mut |path, length| {
            sizes.sessions += length;
            if Log::read(path.to_owned()).is_some() {
                sizes.logs += length;
            }
        });
        add_sizes(&self.home.join(layout::TRASH), &mut |_, length| {
            sizes.trash += length;
        });
        sizes
    }

    fn logs_of(&self, key: &RecordKey) -> Result<Vec<Log>, StoreError> {
        let folder = self.folder(key);
        fsx::refuse_symlinks(&self.home, &folder)?;
        let names = fsx::names_in(&folder, layout::ROLES)?;
        let logs = names.into_iter().filter_map(|name| Log::read(folder.join(name)));
        let mut logs: Vec<_> = logs.collect();
        logs.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(logs)
    }

    /// The turns of a key; `None` if a turn of a base may be running, which its record does not name.
    fn turns_of(&self, key: &RecordKey) -> Result<Option<Turns>, StoreError> {
        let (live, last) = match key {
            RecordKey::Session(address) => self.session_record(address)?.map_or((None, None), |record| {
                (
                    record.live.map(|live| live.turn),
                    record.last.map(|last| last.turn),
                )
            }),
            RecordKey::Base(_) if self.lease_holder(key).is_some() => return Ok(None),
            RecordKey::Base(_) => (None, None),
        };
        let turns = self.turns(key.clone())?;
        Ok(Some(Turns {
            live,
            newest: last.or(turns.last().map(|turn| turn.turn)),
            ended: turns.into_iter().map(|turn| turn.turn).collect(),
        }))
    }
}

impl<'a> Collection<'a> {
    fn new(store: &'a Store, retention: Retention, dry_run: bool, until: Option<Instant>) -> Self {
        Self {
            store,
            retention,
            dry_run,
            until,
            done: Collected::default(),
        }
    }

    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn all(&mut self) -> Result<(), StoreError> {
        let walk = self.store.walk()?;
        let keys: Vec<_> = walk.folders.iter().flat_map(Folder::keys).collect();
        let mut all = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            if self.is_late() {
                return Ok(());
            }
            all.extend(self.session(key).into_iter().map(|log| (log, at)));
        }
        let mut size: u64 = all.iter().map(|(log, _)| log.size).sum();
        let Some(max) = self.retention.total.filter(|max| size > *max) else {
            return Ok(());
        };
        all.sort_by(|(a, _), (b, _)| a.order().cmp(&b.order()));
        let mut turns = HashMap::new();
        for (log, at) in all {
            if size <= max || self.is_late() {
                break;
            }
            let turns: &Option<Turns> = turns.entry(at).or_insert_with(|| self.turns(&keys[at]));
            if turns.as_ref().is_some_and(|turns| log.may_go(turns)) && self.remove(&log) {
                size -= log.size;
            }
        }
        Ok(())
    }

    /// Removes what collections and turns that were killed left.
    fn remove_temps(&mut self, key: &RecordKey) {
        let folder = self.store.folder(key);
        let comparison = folder.join(layout::COMPARISON);
        if !self.dry_run && is_stale(&comparison) && self.store.lease_holder(key).is_none() {
            let _ = fsx::remove_dir_all_durable(&comparison);
        }
        let names = fsx::names_in(&folder, layout::ROLES).unwrap_or_default();
        for path in names.into_iter().map(|name| folder.join(name)) {
            if path.file_name().is_some_and(fsx::is_temp_name) && is_stale(&path) && !self.dry_run {
                let _ = fsx::remove_file_durable(&path);
            }
        }
    }

    /// Shortens the logs to which every turn appends, unless a turn may be writing to them.
    fn shorten_lasting_logs(&mut self, key: &RecordKey) {
        let large = self.store.large_lasting_logs(key);
        if large.is_empty() || self.store.lease_holder(key).is_some() {
            return;
        }
        let before = self.store.size_of(key);
        for (path, size) in large {
            self.done.before += size;
            if !self.dry_run
                && let Err(error) = lasting_log::shorten(&path)
            {
                self.done.failed.push((path, error.to_string()));
                continue;
            }
            self.done.shortened.push(path);
        }
        self.done.freed += before.saturating_sub(self.store.size_of(key));
    }

    /// Handles the logs of one key. Returns those that are left.
    fn session(&mut self, key: &RecordKey) -> Vec<Log> {
        let logs = match self.store.logs_of(key) {
            Ok(logs) => logs,
            Err(error) => {
                self.failed(key, &error);
                return Vec::new();
            }
        };
        self.remove_temps(key);
        self.shorten_lasting_logs(key);
        let mut size: u64 = logs.iter().map(|log| log.size).sum();
        self.done.before += size;
        let is_too_much = |size| self.retention.session.is_some_and(|max| size > max);
        // Most sessions have nothing to do. This shows it without their record: the stream that changed last is that of
        // the newest turn.
        let newest = logs.iter().rfind(|log| log.kind == Kind::Stream);
        let newest = newest.map(|log| log.turn);
        let has_work = |log: &Log| {
            let is_old = log.age() > self.retention.keep;
            if Some(log.turn) == newest {
                log.kind == Kind::Raw && log.is_worth_packing()
            } else {
                is_old || log.is_worth_packing()
            }
        };
        if !is_too_much(size) && !logs.iter().any(has_work) {
            return logs;
        }
        // The record is read after the logs were listed: a turn that starts now is in the record before it has a log.
        let Some(turns) = self.turns(key) else {
            return logs;
        };
        let max = self.retention.session.unwrap_or(u64::MAX);
        let keep = self.retention.keep;
        let mut left = Vec::new();
        for log in logs {
            if log.may_go(&turns) && (log.age() > keep || size > max) && self.remove(&log) {
                size -= log.size;
            } else {
                left.push(log);
            }
        }
        for log in &mut left {
            if log.may_be_packed(&turns) && !self.is_late() {
                self.pack(log);
            }
        }
        left
    }

    /// The turns of a key; `None` if its logs must be left alone.
    fn turns(&mut self, key: &RecordKey) -> Option<Turns> {
        match self.store.turns_of(key) {
            Ok(turns) => turns,
            Err(error) => {
                self.failed(key, &error);
                None
            }
        }
    }

    fn failed(&mut self, key: &RecordKey, error: &StoreError) {
        let path = self.store.record_path(key);
        self.done.failed.push((path, error.in_full()));
    }

    /// Removes a log. False if it is still there.
    fn remove(&mut self, log: &Log) -> bool {
        if !self.dry_run {
            if !log.is_unchanged() {
                return false;
            }
            if let Err(error) = fsx::remove_file_durable(&log.path) {
                self.done.failed.push((log.path.clone(), error.to_string()));
                return false;
            }
        }
        self.done.freed += log.size;
        self.done.removed.push(log.path.clone());
        true
    }

    /// Compresses a log.
    fn pack(&mut self, log: &mut Log) {
        if self.dry_run {
            return self.done.compressed.push(log.path.clone());
        }
        if self.until.is_some() && log.size > MOST_BESIDE {
            return;
        }
        match self.packed(log) {
            Ok(Some(size)) => {
                self.done.freed += log.size.saturating_sub(size);
                self.done.compressed.push(log.path.clone());
                if let Some(packed) = Log::read(log_file::compressed(&log.path)) {
                    *log = packed;
                }
            }
            // Another process was faster.
            Ok(None) => {}
            Err(error) => self.done.failed.push((log.path.clone(), error.in_full())),
        }
    }

    fn packed(&self, log: &Log) -> Result<Option<u64>, StoreError> {
        let packed = log_file::compressed(&log.path);
        let reader = match LogReader::open(&log.path) {
            Ok(reader) => reader,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(StoreError::Io {
                    action: "read",
                    path: log.path.clone(),
                    source,
                });
            }
        };
        let staged = match log_file::compress(reader, &packed) {
            // The session was removed.
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        let _lock = self.store.index_lock("compress a log")?;
        if !log.is_unchanged() {
            return Ok(None);
        }
        // The time of the turn decides when the log goes.
        staged.commit_as_old_as(log.modified)?;
        super::points::LOG_COMPRESSED.pass();
        fsx::remove_file_durable(&log.path)?;
        Ok(Some(
            packed.symlink_metadata().map_or(0, |metadata| metadata.len()),
        ))
    }
}

/// Calls `add` with each file in a folder, or with the file itself. Links are not followed.
fn add_sizes(path: &Path, add: &mut impl FnMut(&Path, u64)) {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                add_sizes(&entry.path(), add);
            }
        }
        Ok(metadata) => add(path, metadata.len()),
        Err(_) => {}
    }
}
