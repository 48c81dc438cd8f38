//! What can go wrong with the store, and what to do then.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Holder, RecordKey};
use crate::fsx::FsError;

/// Why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room.
    #[error("cannot write {}: the disk is full ({source})", .path.display())]
    Full {
        /// What was written.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A read-only file system.
    #[error("cannot write {}: the file system is read-only", .path.display())]
    ReadOnly {
        /// What was written.
        path: PathBuf,
    },
    /// Not allowed.
    #[error("no permission to use {}", .path.display())]
    Permission {
        /// What was opened.
        path: PathBuf,
    },
    /// A symbolic link where the store keeps a file or a folder.
    #[error("{} is a symbolic link; the store follows none", .path.display())]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// Anything else that the system said.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A record that no reader would take.
    #[error("cannot write {}: the record would have {size} bytes, and {max} are the most; the old one is as it was", .path.display())]
    RecordTooLarge {
        /// The file.
        path: PathBuf,
        /// How large it would be.
        size: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// A file that cannot be understood.
    #[error("{} cannot be read: {why}", .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file that a newer version wrote.
    #[error("{} has schema {found}, and this kugetsu knows {known}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema that is known here.
        known: u32,
    },
    /// Someone else held a lock for too long.
    #[error("waited {:.1} s for {}, held by {}", .waited.as_secs_f64(), .lock.display(), Holder::show(.holder.as_ref()))]
    LockTimeout {
        /// The lock's file.
        lock: PathBuf,
        /// How long it was waited for.
        waited: Duration,
        /// Who holds it, where that is known.
        holder: Option<Holder>,
    },
    /// A write without the right lease. A fault of the program.
    #[error("the lease of {held} does not cover {wanted}")]
    WrongLease {
        /// What the lease is for.
        held: RecordKey,
        /// What was to be written.
        wanted: RecordKey,
    },
    /// A restore would replace what is there.
    #[error("{key} has a session again: {} exists", .path.display())]
    Exists {
        /// What was to be restored.
        key: RecordKey,
        /// What is in the way.
        path: PathBuf,
    },
    /// Nothing to restore.
    #[error("nothing of {key} is in the trash")]
    NotInTrash {
        /// What was asked for.
        key: RecordKey,
    },
}

impl From<FsError> for StoreError {
    fn from(error: FsError) -> Self {
        match error {
            FsError::Symlink { path } => Self::Symlink { path },
            FsError::NotAFile { path } => Self::Broken {
                path,
                why: "it is not a plain file".to_owned(),
            },
            FsError::TooLarge { path, max } => Self::Broken {
                path,
                why: format!("it is larger than {max} bytes"),
            },
            FsError::Io { action, path, source } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    Self::Full { path, source }
                }
                io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
                io::ErrorKind::PermissionDenied => Self::Permission { path },
                _ => Self::Io { action, path, source },
            },
        }
    }
}

impl StoreError {
    /// Whether the same may succeed later: someone else held a lock.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::LockTimeout { .. })
    }

    /// What to do next.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Full { .. } => "free some space and try again; nothing was lost",
            Self::ReadOnly { .. } => "set KUGETSU_HOME to a folder that can be written",
            Self::Permission { .. } => "set its owner and mode, or set KUGETSU_HOME to a folder of your own",
            Self::Symlink { .. } => "replace it by what it points to",
            Self::RecordTooLarge { .. } => {
                "the turn is in turns.jsonl; begin a new session: kugetsu destroy, then kugetsu start"
            }
            Self::Broken { .. } => "`kugetsu doctor --fix` moves it aside; nothing is overwritten",
            Self::Newer { .. } => "use the newer kugetsu that wrote it; this one does not change it",
            Self::LockTimeout { .. } => "try again later",
            Self::Exists { .. } => "remove it first with `kugetsu destroy`",
            Self::Io { .. } | Self::WrongLease { .. } | Self::NotInTrash { .. } => return None,
        })
    }

    /// The message and, on a line of its own, what to do next; for texts that have no other place for it.
    pub fn in_full(&self) -> String {
        match self.hint() {
            Some(hint) => format!("{self}\n{hint}"),
            None => self.to_string(),
        }
    }

    pub(crate) fn broken(path: &Path, why: impl Into<String>) -> Self {
        Self::Broken {
            path: path.to_owned(),
            why: why.into(),
        }
    }
}

/// Why a lease was not given.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Someone else runs a turn there.
    #[error("{key} is in use by {}", Holder::show(.holder.as_ref()))]
    Held {
        /// What is leased.
        key: RecordKey,
        /// Who holds it, where that is known.
        holder: Option<Holder>,
    },
    /// The lease's file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LeaseError {
    /// What to do next.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Held { .. } => Some("try again later, or wait for it with --wait"),
            Self::Store(error) => error.hint(),
        }
    }
}
