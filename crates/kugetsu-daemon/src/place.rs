//! Where a daemon keeps its files, and the lock that makes it the only one of its home.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use kugetsu_engine::home::{DAEMON_LOCK as LOCK, RUN};

use super::DaemonError;

const SOCKET: &str = "daemon.sock";
/// The log of a daemon that was started in the background, below the home.
pub const DAEMON_LOG: &str = "run/daemon.log";
const LOG: &str = "daemon.log";

/// The longest path of a socket, in bytes (`unix(7)`).
const MAX_SOCKET: usize = 107;

/// The socket of the daemon of this home.
pub fn socket_path(home: &Path) -> PathBuf {
    home.join(RUN).join(SOCKET)
}

/// Begins the log of a daemon that runs in the background anew.
pub fn open_log(home: &Path) -> std::io::Result<File> {
    let log = open_for_owner(home, LOG)?;
    log.set_len(0)?;
    Ok(log)
}

/// Opens a file below `run/` for writing, which is for the owner alone. Makes it and the folder if they are missing.
pub(crate) fn open_for_owner(home: &Path, name: &str) -> std::io::Result<File> {
    let folder = home.join(RUN);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)?;
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(NOFOLLOW)
        .open(folder.join(name))
}

/// The lock of the only daemon of a home. It is free when its process has ended.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock.
    pub(crate) fn take(home: &Path) -> Result<Self, DaemonError> {
        let failed = |source| DaemonError::File {
            action: "open",
            path: home.join(RUN).join(LOCK),
            source,
        };
        let file = open_for_owner(home, LOCK).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(DaemonError::Running(home.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

pub(crate) const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// Listens on the socket of this home, which the holder of the lock alone may do. Only the owner may connect.
pub(crate) fn listen(home: &Path, _lock: &Lock) -> Result<tokio::net::UnixListener, DaemonError> {
    let path = socket_path(home);
    if path.as_os_str().len() > MAX_SOCKET {
        return Err(DaemonError::LongSocket(path));
    }
    let failed = |source| DaemonError::File {
        action: "listen on",
        path: path.clone(),
        source,
    };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // The folder is for the owner alone, so nobody else connects before the mode is set.
    let listener = tokio::net::UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}
