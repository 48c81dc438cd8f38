//! `kugetsu start` and `continue` in a tool of a turn: the turn runs outside of the tool, which follows it.
//!
//! The command asks the supervisor of its turn ([`ask`]), which starts kugetsu again, outside of the turn's processes
//! ([`delegate_main`]). The new process receives the arguments, the directory and the three standard streams of the
//! command over a socket, and runs the command line with them. The socket then carries the first signal in one direction and
//! the exit status in the other. If the command in the tool dies, however it dies, the socket closes, and the new process
//! ends its turn as after SIGTERM: in order, with a record.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, IoSlice, IoSliceMut, Read, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use super::context::Context;
use super::signals::with_signals;
use super::{CommandError, Outcome};
use kugetsu_api::ErrorCode;
use kugetsu_api::exit::ExitStatus;
use kugetsu_engine::operations::TOO_MANY;
use kugetsu_engine::turn::Interrupt;

/// How long the new process waits for its streams and its command line together, however they come in.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The longest command line with its directory. Prompts of any length go through stdin.
const MAX_REQUEST: u64 = 8 << 20;

/// The command line, after a byte that carries the streams.
#[derive(Serialize, Deserialize)]
struct Request {
    args: Vec<OsString>,
    directory: PathBuf,
}

/// Has the supervisor of this process's turn run the command line of this process. The status is that of the command.
pub(super) fn ask(context: &Context) -> Outcome {
    let connection = context.engine.connect_to_supervisor()?;
    let request = Request {
        args: context.arguments.clone(),
        directory: context.here.clone(),
    };
    let mut request = serde_json::to_vec(&request)
        .map_err(|error| failed("the arguments cannot be passed on").caused_by(error))?;
    request.push(b'\n');
    // Where the supervisor has refused the connection, its reason can be read although nothing can be sent.
    let sent = send_streams(&connection);
    let (status, signal) = with_signals(false, async |mut interrupts| {
        connection.set_nonblocking(true)?;
        let (mut answer, mut requests) = tokio::net::UnixStream::from_std(connection)?.into_split();
        let sent = sent.and(requests.write_all(&request).await);
        let (mut status, mut told) = ([0], false);
        loop {
            tokio::select! {
                read = answer.read_exact(&mut status) => return read.and_then(|_| match status[0] {
                    TOO_MANY => Ok(TOO_MANY),
                    status => sent.map(|()| status),
                }),
                Ok(()) = interrupts.changed(), if !told => {
                    told = true;
                    let passed = match *interrupts.borrow_and_update() {
                        Interrupt::Interrupted => Signal::INT,
                        _ => Signal::TERM,
                    };
                    // If the other end is gone, so is the answer, which is what the next turn of this loop finds.
                    let _ = requests.write_all(&[passed.as_raw() as u8]).await;
                }
            }
        }
    })?;
    if matches!(status, Ok(TOO_MANY)) {
        return Err(CommandError::new(
            ErrorCode::TooManyDelegates,
            "too many commands of this turn's tools wait or run already",
        )
        .hint("wait for one of them to end, then try again"));
    }
    let status = status.ok().and_then(ExitStatus::from_code);
    match (status, signal) {
        (Some(status), _) | (None, Some(status)) => Ok(status),
        (None, None) => Err(failed("the process of the turn died, or its supervisor did")),
    }
}

fn failed(message: &str) -> CommandError {
    CommandError::new(ErrorCode::ProcessFailed, message).hint("see what became of the turn: kugetsu show REF")
}

/// The error for a command line that no kugetsu in a tool sends.
pub(super) fn refused() -> CommandError {
    CommandError::usage(
        "for the tools of a turn, only start and continue run outside of the turn",
        "run kugetsu itself in the tool",
    )
}

fn send_streams(connection: &UnixStream) -> std::io::Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the streams are passed on, and nothing is written"
    )]
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&streams));
    rustix::net::sendmsg(
        connection,
        &[IoSlice::new(b"s")],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn receive_streams(connection: &impl AsFd) -> Option<[OwnedFd; 3]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(
        connection,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        flags,
    )
    .ok()?;
    let streams: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(streams) => Some(streams),
            _ => None,
        })
        .flatten()
        .collect();
    streams.try_into().ok()
}

/// The main function of the new process. Returns the exit status.
pub(super) fn delegate_main() -> u8 {
    // No signal of the supervisor's terminal is for this process. Fails only if it leads a session already.
    let _ = rustix::process::setsid();
    match serve() {
        Some(status) => status,
        // Nobody reads an error: whoever connected has sent no command line, or is gone.
        None => ExitStatus::Usage.code(),
    }
}

fn serve() -> Option<u8> {
    let tool_of: Uuid = std::env::args().nth(2)?.parse().ok()?;
    let connection = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().ok()?);
    let received = Received {
        connection: connection.try_clone().ok()?,
        until: Some(Instant::now() + REQUEST_LIMIT),
    };
    received.limit().ok()?;
    let [stdin, stdout, stderr] = receive_streams(&connection)?;
    let mut requests = BufReader::new(received);
    let mut line = Vec::new();
    requests
        .by_ref()
        .take(MAX_REQUEST)
        .read_until(b'\n', &mut line)
        .ok()?;
    let request: Request = serde_json::from_slice(&line).ok()?;
    requests.get_mut().until = None;
    rustix::stdio::dup2_stdin(&stdin).ok()?;
    rustix::stdio::dup2_stdout(&stdout).ok()?;
    rustix::stdio::dup2_stderr(&stderr).ok()?;
    drop((stdin, stdout, stderr));
    std::env::set_current_dir(&request.directory).ok()?;
    std::thread::Builder::new()
        .name("tool".to_owned())
        .spawn(move || pass_signals_on(requests))
        .ok()?;
    let status = super::execute(request.args, Some(tool_of));
    let _ = (&connection).write_all(&[status]);
    Some(status)
}

/// What comes in on a connection.
struct Received {
    connection: UnixStream,
    /// When nothing more is waited for.
    until: Option<Instant>,
}

impl Received {
    /// Limits the next wait to the time that is left.
    fn limit(&self) -> std::io::Result<()> {
        let left = self
            .until
            .map(|until| until.saturating_duration_since(Instant::now()));
        // The system takes a timeout of zero for none.
        if left.is_some_and(|left| left.is_zero()) {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.connection.set_read_timeout(left)
    }
}

impl Read for Received {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.limit()?;
        self.connection.read(bytes)
    }
}

/// Sends this process the first signal of the command in the tool, or SIGTERM when that command is gone. Nothing after that:
/// opencode ends a tool with SIGTERM and then SIGKILL, and kugetsu's guard of the outer turn may do the same to it, while
/// a second signal would end the turn by force.
fn pass_signals_on(mut requests: impl Read) {
    let mut byte = [0];
    let told = loop {
        match requests.read(&mut byte) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(1) if i32::from(byte[0]) == Signal::INT.as_raw() => break Signal::INT,
            _ => break Signal::TERM,
        }
    };
    let _ = kill_process(getpid(), told);
}

impl Context {
    /// The context of a command that this process runs for a tool of this turn.
    pub(super) fn for_tool_of(mut self, turn: Option<Uuid>) -> Self {
        self.engine = self.engine.within(turn);
        self
    }
}
