//! The client of a daemon: how a command finds it, and how a turn of this process gets a place and a warm server.

mod slot;

use std::os::unix::net::UnixStream;
use std::path::Path;

use kugetsu_client::Client;
use kugetsu_daemon::socket_path;

pub(crate) use slot::Slot;

/// A client for the daemon of this home, if one listens.
pub(crate) fn find(home: &Path) -> Option<Client> {
    let socket = socket_path(home);
    // A daemon that was killed leaves its socket, on which nobody listens.
    UnixStream::connect(&socket).ok()?;
    Client::over_socket(&socket).ok()
}
