//! The entrance of a sandbox: our own binary, before it becomes the sandboxed program.

use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use super::{Entry, proxy, syscalls};

/// The first argument that makes our own binary the entrance of a sandbox.
pub(super) const ENTER_COMMAND: &str = "sandbox-enter";
/// The first argument that makes our own binary forward connections into a sandbox.
pub(super) const FORWARD_COMMAND: &str = "sandbox-forward";

/// The exit status if the program could not be started, as of a shell.
const NOT_STARTED: u8 = 127;
/// The most listeners of one sandbox: a message carries that many files.
pub(super) const MAX_FILES: usize = 64;
/// The longest description of an entry. Its longest part is the program's arguments.
const MAX_ENTRY: usize = 4 << 20;

/// Runs the hidden `sandbox-enter` command. Returns only if the program could not be started.
pub(super) fn enter_main() -> u8 {
    let error = match enter() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln_raw(&format!("the sandbox could not be entered: {error}"));
    NOT_STARTED
}

fn enter() -> std::io::Result<std::convert::Infallible> {
    let control = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let (text, files) = receive(&control)?;
    let entry: Entry = serde_json::from_slice(&text)?;
    let mut files = files.into_iter();
    let stdin = files
        .next()
        .ok_or_else(|| std::io::Error::other("no standard input was passed in"))?;
    let listeners = entry
        .listen
        .iter()
        .map(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
        .collect::<std::io::Result<Vec<_>>>()?;
    send(
        &control,
        b"\n",
        &listeners.iter().map(AsFd::as_fd).collect::<Vec<_>>(),
    )?;
    drop(listeners);
    if let (Some(port), Some(from)) = (entry.serve, files.next()) {
        Command::new("/proc/self/exe")
            .args([FORWARD_COMMAND, &port.to_string()])
            .env_clear()
            .stdin(Stdio::from(from))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
    }
    drop(control);
    rustix::stdio::dup2_stdin(&stdin)?;
    drop(stdin);
    if let Some(most) = entry.processes {
        use rustix::process::{Resource, Rlimit, setrlimit};
        // Does not bind root, which a cgroup does.
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        let _ = setrlimit(Resource::Nproc, limit);
    }
    syscalls::restrict()?;
    if let Some(rules) = &entry.landlock
        && !rules.apply()?
    {
        return Err(std::io::Error::other("this kernel has no Landlock"));
    }
    Err(Command::new(&entry.program).args(&entry.args).exec())
}

/// Runs the hidden `sandbox-forward` command: passes each connection to the listener that is its standard input on to a
/// port of the sandbox's loopback.
pub(super) fn forward_main(mut args: impl Iterator<Item = OsString>) -> u8 {
    let port = args.next().and_then(|port| port.to_str().map(str::parse));
    let listener = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(TcpListener::from);
    let (Ok(listener), Some(Ok(port))) = (listener, port) else {
        return NOT_STARTED;
    };
    proxy::serve(&listener, move |client| {
        if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            proxy::pump(&client, &server);
        }
    });
    0
}

/// Sends a line, which has no line end inside, with open files.
pub(super) fn send(socket: &UnixStream, line: &[u8], files: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(std::io::Error::other("too many listeners"));
    }
    let mut rest = line;
    while !rest.is_empty() {
        let sent = rustix::net::sendmsg(socket, &[IoSlice::new(rest)], &mut ancillary, SendFlags::NOSIGNAL)?;
        rest = &rest[sent..];
        // The files go with the first bytes.
        ancillary.clear();
    }
    Ok(())
}

/// Receives a line, without its end, with open files.
pub(super) fn receive(socket: &UnixStream) -> std::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut files = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    while line.last() != Some(&b'\n') {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut chunk)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                files.extend(received);
            }
        }
        line.extend_from_slice(&chunk[..received.bytes]);
        if received.bytes == 0 || line.len() > MAX_ENTRY {
            return Err(std::io::Error::other(
                "the control socket of the sandbox ended early",
            ));
        }
    }
    line.pop();
    Ok((line, files))
}

/// Writes a line to standard error, which may be closed.
#[expect(
    clippy::disallowed_methods,
    reason = "a supervisor reads this stream, and no terminal does"
)]
pub(super) fn eprintln_raw(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}
