//! The ways in which the database can be unusable, as distinct errors.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::ErrorCode;

use super::DatabaseFile;
use super::confined::MOST_TIME;
use kugetsu_api::SessionId;

/// Why the database, or a session in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The file does not exist.
    #[error(
        "opencode's database {} does not exist: opencode has not run for this user yet, or keeps it elsewhere (see `opencode db path`)",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file exists but cannot be read or written.
    #[error("opencode's database {} cannot be {}: {reason}", path.display(), if *write { "written" } else { "read" })]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// True if the file was to be written.
        write: bool,
        /// The system's error.
        reason: String,
    },
    /// Another process holds a lock for longer than kugetsu waits.
    #[error(
        "opencode's database {} was locked by another process for {} ms: try again, or end the opencode that holds it",
        path.display(), waited.as_millis()
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long kugetsu waited.
        waited: Duration,
    },
    /// A sandboxed session's database was not read or written within the limit of time, perhaps because the machine is
    /// busy.
    #[error("the sandbox's database {} takes more than {} s to use: try again", path.display(), limit.as_secs())]
    Slow {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// A sandboxed session's database holds a value above the limit of size.
    #[error("the sandbox's database {} holds a value that is too large to read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The schema lacks tables or columns that kugetsu needs.
    #[error(
        "opencode's database {} has an unknown schema: it lacks {}; this opencode is too old or too new for kugetsu",
        path.display(), missing.join(", ")
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// The missing tables and columns (`table.column`).
        missing: Vec<String>,
    },
    /// The database belongs to opencode 2.
    #[error(
        "opencode's database {} belongs to opencode 2 (it has a table `session_v2`), whose sessions kugetsu does not support yet: \
         use opencode 1.x with a database of its own (OPENCODE_DB)",
        path.display()
    )]
    SessionV2 {
        /// The file.
        path: PathBuf,
    },
    /// The file is not an SQLite database, or is damaged.
    #[error("{} is not a usable SQLite database: {reason}", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        reason: String,
    },
    /// The database of a sandboxed session is not as opencode makes it, so a turn has changed it.
    #[error("the sandbox's database {} is not as opencode makes it: {reason}", path.display())]
    Tampered {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A sandboxed session's database does not exist.
    #[error("the sandbox's database {} is gone", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// The database is usable and has no such session.
    #[error("opencode has no session {id} in {}", path.display())]
    NoSession {
        /// The session.
        id: SessionId,
        /// The file.
        path: PathBuf,
    },
    /// The written value was not read back.
    #[error("writing {what} of session {id} to opencode's database did not take effect: nothing was changed")]
    NotStored {
        /// The session.
        id: SessionId,
        /// The column.
        what: &'static str,
    },
    /// Any other error of SQLite.
    #[error("opencode's database {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
}

impl DatabaseError {
    /// Whether the operation may succeed later, because another process holds a lock or the machine is busy.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Locked { .. } | Self::Slow { .. })
    }

    /// Whether the file of a sandbox is bad or gone, so that its messages are lost.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Tampered { .. } | Self::Gone { .. })
    }
}

/// Classifies an error of SQLite.
pub(super) fn classify(
    file: &DatabaseFile,
    write: bool,
    waited: Duration,
    source: rusqlite::Error,
) -> DatabaseError {
    let path = file.path.clone();
    let Some(code) = source.sqlite_error_code() else {
        return DatabaseError::Sqlite { path, source };
    };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => DatabaseError::Locked { path, waited },
        ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt if file.confined => DatabaseError::Tampered {
            path,
            reason: source.to_string(),
        },
        ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt => DatabaseError::NotADatabase {
            path,
            reason: source.to_string(),
        },
        ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::SystemIoFailure => {
            DatabaseError::Unreadable {
                path,
                write,
                reason: source.to_string(),
            }
        }
        ErrorCode::ReadOnly | ErrorCode::DiskFull => DatabaseError::Unreadable {
            path,
            write: true,
            reason: source.to_string(),
        },
        // Only the database of a sandbox has these limits.
        ErrorCode::OperationInterrupted => DatabaseError::Slow {
            path,
            limit: MOST_TIME,
        },
        ErrorCode::TooBig => DatabaseError::TooLarge { path },
        _ => DatabaseError::Sqlite { path, source },
    }
}
