//! Notices that something which decides about later turns changed while a turn ran.
//!
//! A turn's tools run as the user, so they can write what kugetsu reads: its settings, its records, the programs of its
//! hooks. A change of the session's own record was not kugetsu's, because only the holder of its lease writes it. Any
//! other change may be a person's, or a kugetsu's, so it is reported. What would run at once because of it is skipped: a
//! hook would run what the turn wrote after the turn, outside of it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kugetsu_api::RepoRef;

use super::TurnSubject;
use super::program::program_of;
use crate::fsx;
use crate::operations::Engine;
use crate::operations::hooks::HookPoint;
use crate::store::{RecordKey, record_text};

/// The size up to which the content of a file is compared. Of a larger one, only size, place and
/// time are.
const MAX_CONTENT: u64 = 1 << 20;

/// The files, with what they were like.
#[derive(Debug)]
pub(in crate::operations) struct Watched(Vec<(WatchedFile, Content)>);

#[derive(Debug)]
struct WatchedFile {
    /// What it is, for people.
    what: String,
    path: PathBuf,
    decides: Decides,
}

/// Which hooks a file decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decides {
    /// It is the program of this one.
    Hook(HookPoint),
    /// All of them, and the commands of kugetsu in them.
    EveryHook,
    NoHook,
}

/// What has changed while a turn ran.
#[derive(Debug, Default)]
pub(in crate::operations) struct Changed {
    /// One sentence for each change.
    pub(in crate::operations) warnings: Vec<String>,
    /// The hooks after the turn that must not run.
    pub(in crate::operations) skipped: Vec<HookPoint>,
}

#[derive(Debug, PartialEq, Eq)]
enum Content {
    Missing,
    Bytes(Vec<u8>),
    Other(FileState),
}

/// What tells two states of a file apart without its content. Nobody can set the time of its last change.
#[derive(Debug, PartialEq, Eq)]
struct FileState {
    size: u64,
    file: (u64, u64),
    changed: (i64, i64),
}

impl Content {
    fn of(path: &Path) -> Self {
        let Ok(metadata) = path.metadata() else {
            return Self::Missing;
        };
        // Follows links: a hook may be one, and `fsx` opens none.
        let bytes = path
            .canonicalize()
            .ok()
            .and_then(|real| fsx::read_bounded(&real, MAX_CONTENT).ok());
        let state = || FileState {
            size: metadata.len(),
            file: (metadata.dev(), metadata.ino()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        bytes.map_or_else(|| Self::Other(state()), Self::Bytes)
    }
}

impl Watched {
    /// The files of a session as they are now. Hooks run in `directory`. Blocks.
    pub(super) fn now(engine: &Engine, base: &RepoRef, directory: &Path) -> Self {
        let store = &engine.store;
        let mut files = vec![
            WatchedFile {
                what: "config.toml".to_owned(),
                path: store.home().join("config.toml"),
                decides: Decides::EveryHook,
            },
            WatchedFile {
                what: format!("the record of the base of {base}"),
                path: store.record_path(&RecordKey::from(base)),
                decides: Decides::NoHook,
            },
        ];
        files.extend(HookPoint::ALL.into_iter().filter_map(|point| {
            let command = point.command(&engine.settings)?;
            let path = program_of(command, directory, &engine.environment)?;
            let what = format!("the program of {}, {}", point.setting(), path.display());
            let decides = Decides::Hook(point);
            Some(WatchedFile { what, path, decides })
        }));
        let with_content = |file: WatchedFile| {
            let content = Content::of(&file.path);
            (file, content)
        };
        Self(files.into_iter().map(with_content).collect())
    }

    /// What has changed since then. With `written`, also whether the session's record is still what kugetsu wrote last.
    /// Blocks.
    pub(super) fn changes(&self, engine: &Engine, written: Option<&TurnSubject>) -> Changed {
        let mut changed = Changed::default();
        for (file, before) in &self.0 {
            if Content::of(&file.path) == *before {
                continue;
            }
            let skipped: Vec<HookPoint> = HookPoint::AFTER_TURN
                .into_iter()
                .filter(|point| point.command(&engine.settings).is_some())
                .filter(|point| [Decides::Hook(*point), Decides::EveryHook].contains(&file.decides))
                .collect();
            changed.warnings.push(warning(&file.what, &skipped));
            for point in skipped {
                if !changed.skipped.contains(&point) {
                    changed.skipped.push(point);
                }
            }
        }
        if let Some(TurnSubject::Session(record)) = written
            && let Content::Bytes(bytes) = Content::of(&engine.store.record_path(&(&record.address).into()))
            && record_text(record).is_ok_and(|own| own != bytes)
        {
            changed.warnings.push(
                "something else than kugetsu changed the session's record while the turn ran; the change is undone"
                    .to_owned(),
            );
        }
        changed
    }
}

fn warning(what: &str, skipped: &[HookPoint]) -> String {
    let names: Vec<&str> = skipped.iter().map(|point| point.setting()).collect();
    let (verb, rest) = match names.as_slice() {
        [] => return format!("{what} changed while the turn ran; look at it before the next turn"),
        [_] => ("was", "run the hook yourself if you need it"),
        _ => ("were", "run the hooks yourself if you need them"),
    };
    format!(
        "{what} changed while the turn ran, so {} {verb} skipped; look at it before the next turn, and {rest}",
        names.join(" and ")
    )
}
