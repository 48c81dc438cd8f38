//! Starts turns for the tools of a turn, outside of that turn.
//!
//! Everything in the process tree of a turn ends with the turn, so a turn that a tool begins must not be in that tree.
//! A `kugetsu start` or `continue` in a tool therefore runs nothing itself: it asks the supervisor of its turn, which is
//! outside of the tree, on a socket in the store. The supervisor starts its own binary with [`DELEGATE_COMMAND`] and
//! the connection as its stdin, and has no further part in it.
//!
//! What outlives a turn by this way is a kugetsu that runs one turn on record, with the environment of the supervisor:
//! no variable, program or library of the tool is in it. A tool chooses only the arguments, the directory and the
//! streams.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener as StdListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{Engine, EngineError};
use crate::store::Member;

/// The first argument that makes our own binary run a command for a tool; the tool's turn follows, and the connection
/// is stdin.
pub const DELEGATE_COMMAND: &str = "delegate";

/// What a tool reads instead of an exit status if too many commands of the turn's tools wait or run already.
pub const TOO_MANY: u8 = u8::MAX;

/// How many commands of a turn's tools may wait or be received beside those whose turns run. Each is a process.
const WAITING: usize = 32;

/// The listening socket of a turn. Dropping it closes the socket.
#[derive(Debug)]
pub(super) struct Broker {
    task: JoinHandle<()>,
    socket: PathBuf,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Engine {
    /// Serves the tools of a registered turn. Needs the event loop.
    pub(super) fn serve_tools(&self, member: &Member) -> io::Result<Broker> {
        let (folder, name) = self.store.turn_socket(member);
        let socket = folder.join(&name);
        let listener = within(&folder, &name, |path| StdListener::bind(path))?;
        // The umask decides about the mode of a socket.
        within(&folder, &name, |path| {
            std::fs::set_permissions(path, Permissions::from_mode(0o600))
        })?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let (engine, turn) = (self.clone(), member.own.turn);
        let running = usize::try_from(self.settings.max_delegates.get()).unwrap_or(WAITING);
        let places = Arc::new(Semaphore::new(
            running.saturating_add(WAITING).min(Semaphore::MAX_PERMITS),
        ));
        let task = tokio::spawn(async move {
            loop {
                let accepted = match listener.accept().await {
                    Ok((connection, _)) => match Arc::clone(&places).try_acquire_owned() {
                        Ok(place) => engine.start_delegate(turn, connection, place),
                        Err(_) => {
                            // The connection is new, so its buffer has room for a byte, and this does not wait.
                            let refuse = |mut connection: UnixStream| connection.write_all(&[TOO_MANY]);
                            // The tool may be gone already.
                            let _ = connection.into_std().and_then(refuse);
                            Ok(())
                        }
                    },
                    Err(error) => Err(error),
                };
                if let Err(error) = accepted {
                    tracing::warn!("a tool's request for a turn failed: {error}");
                    // Without file descriptors, the next attempt fails at once as well.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        });
        Ok(Broker { task, socket })
    }

    /// Starts a process for a command of a tool. Whatever the tool sends or does not send, only that process waits for
    /// it. It keeps its `place` until it ends.
    fn start_delegate(
        &self,
        turn: Uuid,
        connection: tokio::net::UnixStream,
        place: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        // The folder is for the owner alone. Where that does not hold, the system still knows who asks.
        if connection.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        let connection = connection.into_std()?;
        connection.set_nonblocking(false)?;
        let mut child = Command::new(self.environment.program())
            .env_clear()
            .envs(self.environment.variables())
            // A relative home is relative to the directory of the supervisor.
            .env("KUGETSU_HOME", self.store.home())
            .arg0("kugetsu")
            .args([DELEGATE_COMMAND, &turn.to_string()])
            .stdin(Stdio::from(OwnedFd::from(connection)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        tokio::spawn(async move {
            let _ = child.wait().await;
            drop(place);
        });
        Ok(())
    }

    /// Connects to the supervisor of the turn whose tool this process is.
    pub fn connect_to_supervisor(&self) -> Result<UnixStream, EngineError> {
        let member = self.parent.and_then(|turn| self.store.member(turn));
        let connected = match &member {
            Some(member) => {
                let (folder, name) = self.store.turn_socket(member);
                within(&folder, &name, |path| UnixStream::connect(path))
            }
            None => Err(io::ErrorKind::NotFound.into()),
        };
        connected.map_err(|source| EngineError::NoSupervisor {
            of: member.map(|member| member.own.address),
            source,
        })
    }
}

/// Uses a socket by a path that is short enough for the system (108 bytes on Linux), however long its folder's is.
#[cfg(target_os = "linux")]
fn within<T>(folder: &Path, name: &str, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    use rustix::fs::{Mode, OFlags};
    use std::os::fd::AsRawFd as _;
    let folder = rustix::fs::open(
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    act(Path::new(&format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())))
}

#[cfg(not(target_os = "linux"))]
fn within<T>(folder: &Path, name: &str, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    act(&folder.join(name))
}
