//! Errors of the store, and the hints for each.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Holder, RecordKey};
use crate::fsx::FsError;

/// Why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk is full.
    #[error("cannot write {}: the disk is full ({source})", .path.display())]
    Full {
        /// The file or folder to write.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A read-only file system.
    #[error("cannot write {}: the file system is read-only", .path.display())]
    ReadOnly {
        /// The file or folder to write.
        path: PathBuf,
    },
    /// Access was denied.
    #[error("no permission to use {}", .path.display())]
    Permission {
        /// The file or folder to open.
        path: PathBuf,
    },
    /// Another user owns or may write a part of the store, and could decide with it what turns do.
    #[error("other users may write {}", .path.display())]
    Shared {
        /// The file or folder.
        path: PathBuf,
    },
    /// A symbolic link in place of a file or folder of the store.
    #[error("{} is a symbolic link; symbolic links in the store are not followed", .path.display())]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// Another system error.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// The failed action.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A record exceeds the size limit that every reader applies.
    #[error("cannot write {}: the record would be {size} bytes, more than the limit of {max}; the old record is unchanged", .path.display())]
    RecordTooLarge {
        /// The file.
        path: PathBuf,
        /// The size that the record would have.
        size: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// A file cannot be parsed.
    #[error("{} cannot be read: {why}", .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The problem.
        why: String,
    },
    /// A newer version wrote the file.
    #[error("{} has schema {found}; this kugetsu supports up to {known}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema that this version supports.
        known: u32,
    },
    /// Another process held a lock for too long.
    #[error("waited {:.1} s for {}, held by {}", .waited.as_secs_f64(), .lock.display(), Holder::show(.holder.as_ref()))]
    LockTimeout {
        /// The lock file.
        lock: PathBuf,
        /// How long this process waited.
        waited: Duration,
        /// The holder, if known.
        holder: Option<Holder>,
    },
    /// A write without the right lease, which is a bug in the program.
    #[error("the lease of {held} does not cover {wanted}")]
    WrongLease {
        /// The key of the lease.
        held: RecordKey,
        /// The key of the record to write.
        wanted: RecordKey,
    },
    /// A restore would replace an existing record.
    #[error("{key} already has a session ({})", .path.display())]
    Exists {
        /// The key to restore.
        key: RecordKey,
        /// The existing file.
        path: PathBuf,
    },
    /// Nothing to restore.
    #[error("the trash has nothing to restore for {key}")]
    NotInTrash {
        /// The requested key.
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
    /// The process that held a lock for too long, if it is known.
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::LockTimeout { holder, .. } => holder.as_ref(),
            _ => None,
        }
    }

    /// Whether a retry may succeed, because another process held a lock.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::LockTimeout { .. })
    }

    /// The next step for the user.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Full { .. } => "free some space and try again; nothing was lost",
            Self::ReadOnly { .. } => "set KUGETSU_HOME to a folder that can be written",
            Self::Permission { .. } => "set its owner and mode, or set KUGETSU_HOME to a folder of your own",
            Self::Shared { .. } => {
                "look for changes that are not yours, then make it yours alone: chmod go-w, chown; or set KUGETSU_HOME to a folder of your own"
            }
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

    /// The message, followed by the hint on a separate line; for texts that have no separate place for a hint.
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

/// Why a lease was refused.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another process runs a turn on the session.
    #[error("{key} is in use by {}", Holder::show(.holder.as_ref()))]
    Held {
        /// The key of the lease.
        key: RecordKey,
        /// The holder, if known.
        holder: Option<Holder>,
    },
    /// The lease's file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LeaseError {
    /// The next step for the user.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Held { .. } => Some("try again later"),
            Self::Store(error) => error.hint(),
        }
    }
}
