//! The mapping between keys and files. Pure rules: this module touches no file.
//!
//! A key is a session's address, or the base of a repository. The key's record, and the folder of all its other files,
//! are below the folder `instance/owner/.../repo/`:
//!
//! | key | record | folder |
//! |---|---|---|
//! | base | `base.json` | `base/` |
//! | issue `#14` | `14.json` | `14/` |
//! | role `#14/review` | `14/at/review.json` | `14/at/review/` |
//! | session `~nightly` | `~nightly.json` | `~nightly@/` |
//!
//! The files of a live turn have the path of the key's folder below `run/`, with other endings.
//!
//! The rules are injective. A repository has at least two segments below its instance, so the two uppermost folders
//! never hold records. Below them, a group could have the name of a record or of a record's folder, so such a segment
//! gets the prefix `@`, which no segment may contain. A group may begin with `~`, so the folder of a session without an
//! issue ends in `@`. A role or a name contains no dot before a letter, so no role has the name of another role's
//! record or lease.

use std::path::{Path, PathBuf};

use crate::fsx;
use kugetsu_api::{Address, AddressName, IssueRef, RepoRef};

/// The file of the index, in the home folder.
pub(crate) const INDEX: &str = "index.json";
/// The folder for files of live turns. Other names directly in it contain no dot and no colon, so no instance has such a
/// name.
pub(crate) use crate::home::RUN;
pub(crate) use crate::home::{SESSIONS, TRASH};

/// The folder of the roles, in the folder of their issue.
pub(crate) const ROLES: &str = "at";
/// The folder, in the folder of a session or base, for what the comparison of its clone needs until the turn ends.
pub(crate) const COMPARISON: &str = "comparison";

/// The owner of a record and its files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// The base session of a repository.
    Base(RepoRef),
    /// The session of an address.
    Session(Address),
}

impl From<&Address> for RecordKey {
    fn from(address: &Address) -> Self {
        Self::Session(address.clone())
    }
}

impl From<&IssueRef> for RecordKey {
    fn from(issue: &IssueRef) -> Self {
        Self::Session(issue.clone().into())
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
    /// The key's repository.
    pub fn repo(&self) -> &RepoRef {
        match self {
            Self::Base(repo) => repo,
            Self::Session(address) => address.repo(),
        }
    }

    /// The session's address, or the base's repository.
    pub fn reference(&self) -> String {
        match self {
            Self::Base(repo) => repo.to_string(),
            Self::Session(address) => address.to_string(),
        }
    }

    /// The record's path below `sessions/`, such as `github.com/shoko/kugetsu/14.json`.
    pub fn record(&self) -> PathBuf {
        repo_folder(self.repo()).join(self.slot().record())
    }

    /// The folder's path below `sessions/`, such as `github.com/shoko/kugetsu/14`.
    pub fn folder(&self) -> PathBuf {
        self.with_ending("")
    }

    /// Whether this path below `sessions/` is the key's record or another file of it.
    pub(crate) fn has(&self, path: &Path) -> bool {
        let folder = self.folder();
        path == self.record() || (path.starts_with(&folder) && !path.starts_with(folder.join(ROLES)))
    }

    /// The path below `run/` of the file with this ending, such as `.lease` or `.status.json`.
    pub fn run(&self, ending: &str) -> PathBuf {
        self.with_ending(ending)
    }

    /// The path of the key's worktree below the folder of all worktrees. Unlike the folder of a role, a worktree is
    /// never inside another one.
    pub fn worktree(&self) -> PathBuf {
        let mut path = repo_folder(self.repo());
        path.push(match self.slot() {
            Slot::Role(number, role) => format!("{number}@{role}"),
            other => other.stem(),
        });
        // The colon before a port would split a PATH.
        path.to_string_lossy().replace(':', "@").into()
    }

    fn with_ending(&self, ending: &str) -> PathBuf {
        let mut path = repo_folder(self.repo());
        path.push(format!("{}{ending}", self.slot().stem()));
        path
    }

    fn slot(&self) -> Slot {
        match self {
            Self::Base(_) => Slot::Base,
            Self::Session(Address::Issue(issue)) => Slot::Issue(issue.number()),
            Self::Session(Address::Role(issue, role)) => Slot::Role(issue.number(), role.clone()),
            Self::Session(Address::Named(_, name)) => Slot::Named(name.clone()),
        }
    }

    /// The key of the record at this path below `sessions/`; `None` if no key has its record there.
    pub fn of_record(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let folder = path.parent()?;
        if let Some(repo) = repo_of(folder) {
            let slot = match Entry::of(name) {
                Entry::Base => Slot::Base,
                Entry::Record(number) => Slot::Issue(number),
                Entry::Named(name) => Slot::Named(name),
                _ => return None,
            };
            return slot.key(&repo);
        }
        if folder.file_name()? != ROLES {
            return None;
        }
        let issue = folder.parent()?;
        let Entry::Folder(number) = Entry::of(issue.file_name()?.to_str()?) else {
            return None;
        };
        let RoleEntry::Record(role) = RoleEntry::of(name) else {
            return None;
        };
        Slot::Role(number, role).key(&repo_of(issue.parent()?)?)
    }
}

/// A key within its repository. Slots are ordered like addresses, with the base first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Base,
    Issue(u64),
    Role(u64, AddressName),
    Named(AddressName),
}

impl Slot {
    /// The record's path in the repository's folder.
    pub(crate) fn record(&self) -> String {
        match self {
            // The record needs no `@`, which only distinguishes the folder from a group's.
            Self::Named(name) => format!("~{name}.json"),
            _ => format!("{}.json", self.stem()),
        }
    }

    fn stem(&self) -> String {
        match self {
            Self::Base => "base".to_owned(),
            Self::Issue(number) => number.to_string(),
            Self::Role(number, role) => format!("{number}/{ROLES}/{role}"),
            Self::Named(name) => format!("~{name}@"),
        }
    }

    /// The key in this repository; `None` for the number 0.
    pub(crate) fn key(&self, repo: &RepoRef) -> Option<RecordKey> {
        let issue = |number| IssueRef::new(repo.clone(), number).ok();
        Some(RecordKey::Session(match self {
            Self::Base => return Some(RecordKey::Base(repo.clone())),
            Self::Issue(number) => Address::Issue(issue(*number)?),
            Self::Role(number, role) => Address::Role(issue(*number)?, role.clone()),
            Self::Named(name) => Address::Named(repo.clone(), name.clone()),
        }))
    }

    /// Whether this is the slot of an address.
    pub(crate) fn is_of(&self, address: &Address) -> bool {
        match (self, address) {
            (Self::Issue(number), Address::Issue(issue)) => *number == issue.number(),
            (Self::Role(number, role), Address::Role(issue, own)) => *number == issue.number() && role == own,
            (Self::Named(name), Address::Named(_, own)) => name == own,
            _ => false,
        }
    }

    /// A sort key with the order of [`Address`].
    pub(crate) fn order(&self) -> impl Ord + '_ {
        match self {
            Self::Base => (0, 0, None),
            Self::Issue(number) => (1, *number, None),
            Self::Role(number, role) => (1, *number, Some(role)),
            Self::Named(name) => (2, 0, Some(name)),
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
    // Rejects a folder that only resembles a repository's folder, for example one with capitals or a needless `@`.
    RepoRef::try_from(text)
        .ok()
        .filter(|repo| repo_folder(repo) == folder)
}

/// Whether a key's file or folder, a temporary file or a quarantined file may have this name.
fn is_reserved(segment: &str) -> bool {
    let stem = segment.split_once('.').map_or(segment, |(stem, _)| stem);
    stem == "base"
        || (!stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_digit()))
        || segment.contains(".json")
        || segment.contains(".lease")
        || segment.starts_with(fsx::TEMP_PREFIX)
}

/// The kind of an entry in the folder of a repository, or of a group of repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The record of the issue with this number.
    Record(u64),
    /// The record of the session with this name.
    Named(AddressName),
    /// The record of the base.
    Base,
    /// A file that is named like a record but belongs to no key: leading zeros, not the number of an issue, not a valid
    /// name.
    Stray,
    /// The folder of the issue with this number, with its roles.
    Folder(u64),
    /// The folder of another key.
    OtherFolder,
    /// A group's or a repository's folder, or anything else.
    Other,
}

impl Entry {
    pub(crate) fn of(name: &str) -> Self {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let issue = |text: &str| text.parse().ok().filter(|_| !text.starts_with('0'));
        match name.strip_suffix(".json") {
            Some("base") => Self::Base,
            Some(stem) if is_number(stem) => issue(stem).map_or(Self::Stray, Self::Record),
            Some(stem) => match stem.strip_prefix('~') {
                Some(name) => canonical(name).map_or(Self::Stray, Self::Named),
                None => Self::Other,
            },
            None if is_number(name) => issue(name).map_or(Self::OtherFolder, Self::Folder),
            None if name == "base" || (name.starts_with('~') && name.ends_with('@')) => Self::OtherFolder,
            None => Self::Other,
        }
    }
}

/// The kind of an entry in the folder of an issue's roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RoleEntry {
    /// The record of this role.
    Record(AddressName),
    /// A file that is named like a record but belongs to no key.
    Stray,
    /// The folder of a role, or anything else.
    Other,
}

impl RoleEntry {
    pub(crate) fn of(name: &str) -> Self {
        match name.strip_suffix(".json") {
            Some(_) if name.starts_with(fsx::TEMP_PREFIX) => Self::Other,
            Some(stem) => canonical(stem).map_or(Self::Stray, Self::Record),
            None => Self::Other,
        }
    }
}

/// A role or a name in the form of file names: lower case.
fn canonical(text: &str) -> Option<AddressName> {
    AddressName::new(text).ok().filter(|name| name.as_str() == text)
}
