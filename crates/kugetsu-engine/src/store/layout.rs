//! Which file belongs to which key: pure rules, no file is touched.
//!
//! A key is an issue, or the base of a repository. Its record is `instance/owner/.../repo/<number>.json` (or
//! `base.json`), and `instance/owner/.../repo/<number>/` (or `base/`) is the folder of everything else that is kept of it.
//! The files of its live turn stand at the same place below `run/`, with other endings.
//!
//! The rules are injective. A repository has at least two segments below its instance, so the two uppermost
//! folders never hold records. Below them, a group could be named like a record or a record's folder; such a segment
//! is written with `@` before it, a character that no segment may have.

use std::path::{Path, PathBuf};

use crate::fsx;
use kugetsu_api::{Address, RepoRef};

/// The file of the index, in the home folder.
pub(crate) const INDEX: &str = "index.json";
/// The folder of the records, in the home folder.
pub(crate) const SESSIONS: &str = "sessions";
/// The folder of what belongs to live turns, in the home folder. Other names directly in it have no dot and no
/// colon, so that no instance is named like them.
pub(crate) const RUN: &str = "run";
/// The folder of what was removed, in the home folder.
pub(crate) const TRASH: &str = "trash";

/// What a file is kept of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// The base session of a repository.
    Base(RepoRef),
    /// The session of an issue.
    Session(Address),
}

impl From<&Address> for RecordKey {
    fn from(address: &Address) -> Self {
        Self::Session(address.clone())
    }
}

impl From<&RepoRef> for RecordKey {
    fn from(repo: &RepoRef) -> Self {
        Self::Base(repo.clone())
    }
}

impl std::fmt::Display for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Base(repo) => write!(f, "the base of {repo}"),
            Self::Session(address) => address.fmt(f),
        }
    }
}

impl RecordKey {
    /// The repository that it belongs to.
    pub fn repo(&self) -> &RepoRef {
        match self {
            Self::Base(repo) => repo,
            Self::Session(address) => address.repo(),
        }
    }

    /// The reference, or the base's repository.
    pub fn reference(&self) -> String {
        match self {
            Self::Base(repo) => repo.to_string(),
            Self::Session(address) => address.to_string(),
        }
    }

    /// The record's path below `sessions/`, such as `github.com/shoko/kugetsu/14.json`.
    pub fn record(&self) -> PathBuf {
        self.with_ending(".json")
    }

    /// The folder's path below `sessions/`, such as `github.com/shoko/kugetsu/14`.
    pub fn folder(&self) -> PathBuf {
        self.with_ending("")
    }

    /// The path below `run/` of the file with this ending, such as `.lease` or `.status.json`.
    pub fn run(&self, ending: &str) -> PathBuf {
        self.with_ending(ending)
    }

    fn with_ending(&self, ending: &str) -> PathBuf {
        let mut path = repo_folder(self.repo());
        path.push(match self {
            Self::Base(_) => format!("base{ending}"),
            Self::Session(address) => format!("{}{ending}", address.number()),
        });
        path
    }

    /// The key whose record this is, from its path below `sessions/`; nothing where no key's record is.
    pub fn of_record(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let repo = repo_of(path.parent()?)?;
        match Entry::of(name) {
            Entry::Base => Some(Self::Base(repo)),
            Entry::Record(number) => Some(Self::Session(Address::new(repo, number).ok()?)),
            _ => None,
        }
    }
}

/// The folder of a repository below `sessions/`.
fn repo_folder(repo: &RepoRef) -> PathBuf {
    let mut path = PathBuf::from(repo.instance());
    for (index, segment) in repo.segments().enumerate() {
        if index >= 2 && is_reserved(segment) {
            path.push(format!("@{segment}"));
        } else {
            path.push(segment);
        }
    }
    path
}

/// The repository whose folder this is, below `sessions/`.
pub(crate) fn repo_of(folder: &Path) -> Option<RepoRef> {
    let mut text = String::new();
    for component in folder.components() {
        let component = component.as_os_str().to_str()?;
        if !text.is_empty() {
            text.push('/');
        }
        text.push_str(component.strip_prefix('@').unwrap_or(component));
    }
    // Capitals, a needless `@`: what looks like a repository's folder but is not where one is looked for.
    RepoRef::try_from(text)
        .ok()
        .filter(|repo| repo_folder(repo) == folder)
}

/// Whether a file or folder of a key, a temporary file or one that was moved aside may have this name.
fn is_reserved(segment: &str) -> bool {
    let stem = segment.split_once('.').map_or(segment, |(stem, _)| stem);
    stem == "base"
        || (!stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_digit()))
        || segment.contains(".json")
        || segment.contains(".lease")
        || segment.starts_with(fsx::TEMP_PREFIX)
}

/// What stands under a name in the folder of a repository, or of a group of repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The record of the issue with this number.
    Record(u64),
    /// The record of the base.
    Base,
    /// Named like a record, and found by no key: leading zeros, no number of an issue.
    Stray,
    /// The folder of a key.
    Folder,
    /// A group's or a repository's folder, or anything else.
    Other,
}

impl Entry {
    pub(crate) fn of(name: &str) -> Self {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match name.strip_suffix(".json") {
            Some("base") => Self::Base,
            Some(stem) if is_number(stem) => match stem.parse() {
                Ok(number) if !stem.starts_with('0') => Self::Record(number),
                _ => Self::Stray,
            },
            None if name == "base" || is_number(name) => Self::Folder,
            _ => Self::Other,
        }
    }
}
