//! Notices that something which decides about later turns changed while a turn ran.
//!
//! A turn's tools run as the user, so they can write what kugetsu reads: its settings, its records, the programs of its
//! hooks. A change of the session's own record was not kugetsu's, because only the holder of its lease writes it. Any
//! other change may be a person's, or a kugetsu's, so it is only reported.

use std::path::{Path, PathBuf};

use kugetsu_api::RepoRef;

use super::TurnSubject;
use crate::fsx;
use crate::operations::Engine;
use crate::operations::hooks::HookPoint;
use crate::store::{RecordKey, record_text};

/// The size up to which the content of a file is compared. Of a larger one, only size and time are.
const MAX_CONTENT: u64 = 1 << 20;

/// The files, with what they were like.
#[derive(Debug)]
pub(in crate::operations) struct Watched(Vec<(WatchedFile, Content)>);

#[derive(Debug)]
struct WatchedFile {
    /// What it is, for people.
    what: String,
    path: PathBuf,
}

#[derive(Debug, PartialEq, Eq)]
enum Content {
    Missing,
    Bytes(Vec<u8>),
    Other(u64, Option<std::time::SystemTime>),
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
        bytes.map_or_else(
            || Self::Other(metadata.len(), metadata.modified().ok()),
            Self::Bytes,
        )
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
            },
            WatchedFile {
                what: format!("the record of the base of {base}"),
                path: store.record_path(&RecordKey::from(base)),
            },
        ];
        files.extend(HookPoint::ALL.into_iter().filter_map(|point| {
            let command = point.command(&engine.settings)?;
            let path = program_of(command, directory)?;
            let what = format!("the program of {}, {}", point.setting(), path.display());
            Some(WatchedFile { what, path })
        }));
        let with_content = |file: WatchedFile| {
            let content = Content::of(&file.path);
            (file, content)
        };
        Self(files.into_iter().map(with_content).collect())
    }

    /// What has changed since then, one sentence each. With `written`, also whether the session's record is still what
    /// kugetsu wrote last. Blocks.
    pub(super) fn changes(&self, engine: &Engine, written: Option<&TurnSubject>) -> Vec<String> {
        let changed = self
            .0
            .iter()
            .filter(|(file, before)| Content::of(&file.path) != *before);
        let mut warnings: Vec<String> = changed
            .map(|(file, _)| {
                format!(
                    "{} changed while the turn ran; look at it before the next turn",
                    file.what
                )
            })
            .collect();
        if let Some(TurnSubject::Session(record)) = written
            && let Content::Bytes(bytes) = Content::of(&engine.store.record_path(&(&record.address).into()))
            && record_text(record).is_ok_and(|own| own != bytes)
        {
            warnings.push(
                "something else than kugetsu changed the session's record while the turn ran; the change is undone"
                    .to_owned(),
            );
        }
        warnings
    }
}

/// The program that a hook's command begins with, if the command names a file.
fn program_of(command: &str, directory: &Path) -> Option<PathBuf> {
    let word = command.split_whitespace().next()?.trim_matches(['"', '\'']);
    let path = directory.join(word);
    (word.contains('/') && path.is_file()).then_some(path)
}
