//! The tether: runs a command of kugetsu on behalf of another host, and ends it with the connection.
//!
//! Without a terminal, sshd informs a command neither of Ctrl-C nor of a lost connection, so the command would keep
//! running. The tether reads its stdin all the time, passes signals on, and treats the end of stdin as a hang-up.
//! stdout and stderr belong to the command; nothing stands between them and ssh.

use std::ffi::OsString;
use std::io::{BufReader, PipeReader, PipeWriter, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Frame, FrameError};
use crate::terminal::{Piece, Stream};

/// The exit status for an invalid command line, `EX_USAGE`.
const USAGE: u8 = 64;
/// The exit status if the command cannot be started, `EX_UNAVAILABLE`.
const UNAVAILABLE: u8 = 69;

/// The main function of a tether. `program` is our own binary. Returns the command's exit status, or 128 plus the
/// number of the signal that ended it.
pub fn tether_main(program: &Path) -> u8 {
    match run(program) {
        Ok(status) => status,
        Err((status, problem)) => {
            // The only line that the command itself does not write.
            let _ = Stream::Stderr.write(&[Piece::Own("kugetsu: "), Piece::Text(&problem), Piece::Own("\n")]);
            status
        }
    }
}

/// The command line from the frames.
#[derive(Default)]
struct CommandLine {
    arguments: Vec<OsString>,
    files: Vec<SentFile>,
}

/// A file that arrived over the connection. It may hold secrets, so it is never on a disk: the command inherits a pipe,
/// and its argument names that pipe.
struct SentFile {
    reader: PipeReader,
    writer: PipeWriter,
    content: Vec<u8>,
}

impl SentFile {
    fn new(content: Vec<u8>) -> std::io::Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        fcntl_setfd(&reader, FdFlags::empty())?;
        Ok(Self {
            reader,
            writer,
            content,
        })
    }

    fn path(&self) -> String {
        format!("/dev/fd/{}", self.reader.as_raw_fd())
    }

    /// Writes the content after the command has inherited the pipe. No one else holds the reading end, so this also
    /// ends if the command exits without reading.
    fn write(self) -> std::io::Result<()> {
        let Self {
            reader,
            mut writer,
            content,
        } = self;
        drop(reader);
        let thread = std::thread::Builder::new();
        thread.spawn(move || writer.write_all(&content)).map(drop)
    }
}

enum Event {
    Signal(Signal),
    /// The connection ended. Carries the sender to the command's stdin, which must stay open: if stdin ended here, the
    /// command would take half a prompt for a whole one.
    Lost(Option<Sender<Vec<u8>>>),
}

fn run(program: &Path) -> Result<u8, (u8, String)> {
    let mut frames = BufReader::new(std::io::stdin());
    let line = command_line(&mut frames).map_err(|error| (USAGE, error.to_string()))?;
    let unavailable = |what: &'static str| move |error| (UNAVAILABLE, format!("{what}: {error}"));
    let (stdin, input) = std::io::pipe().map_err(unavailable("no pipe can be made"))?;
    let mut command = Command::new(program);
    command.arg0("kugetsu").args(&line.arguments).stdin(stdin);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(unavailable("the system provides no event loop"))?
        .block_on(supervise(command, line.files, frames, input))
        .map(status_of)
        .map_err(unavailable("the command cannot be started"))
}

fn command_line(frames: &mut impl Read) -> Result<CommandLine, FrameError> {
    let mut line = CommandLine::default();
    loop {
        match Frame::read(frames)? {
            Some(Frame::Argument(argument)) => line.arguments.push(argument),
            Some(Frame::File { option, content }) => {
                let file = SentFile::new(content)?;
                let mut argument = option;
                argument.push("=");
                argument.push(file.path());
                line.arguments.push(argument);
                line.files.push(file);
            }
            Some(Frame::Run) => return Ok(line),
            // A signal before the start: there is no command to end, and none will start.
            Some(Frame::Input(_) | Frame::EndOfInput | Frame::Signal(_)) | None => {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

async fn supervise(
    command: Command,
    files: Vec<SentFile>,
    frames: impl Read + Send + 'static,
    input: PipeWriter,
) -> std::io::Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut command = tokio::process::Command::from(command);
    let mut child = command.spawn()?;
    // `command` holds the other end of the child's stdin.
    drop(command);
    let (events, mut received) = mpsc::unbounded_channel();
    let threads = files.into_iter().try_for_each(SentFile::write).and_then(|()| {
        let thread = std::thread::Builder::new();
        thread.spawn(move || read_on(frames, input, &events)).map(drop)
    });
    if let Err(error) = threads {
        child.kill().await?;
        return Err(error);
    }
    let mut connected = true;
    let mut _cut = None;
    loop {
        let number = tokio::select! {
            status = child.wait() => return status,
            event = received.recv(), if connected => match event {
                Some(Event::Signal(number)) => number,
                Some(Event::Lost(pieces)) => {
                    connected = false;
                    _cut = pieces;
                    Signal::HUP
                }
                // The last event is always `Lost`.
                None => {
                    connected = false;
                    continue;
                }
            },
            _ = interrupt.recv() => Signal::INT,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
        };
        // `child` has no id after it has been waited for, so this never signals another process.
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, number);
        }
    }
}

/// Reads frames until the connection ends. A separate thread writes the input, so that a command that does not read its
/// stdin still receives signals.
fn read_on(mut frames: impl Read, mut input: PipeWriter, events: &mpsc::UnboundedSender<Event>) {
    let (pieces, waiting) = channel::<Vec<u8>>();
    let writing = std::thread::Builder::new().spawn(move || {
        for piece in waiting {
            // A command may close its stdin without reading it.
            if input.write_all(&piece).is_err() {
                return;
            }
        }
    });
    let mut pieces = Some(pieces);
    if writing.is_err() {
        let _ = events.send(Event::Lost(pieces));
        return;
    }
    loop {
        let event = match Frame::read(&mut frames) {
            Ok(Some(Frame::Input(bytes))) => {
                if let Some(pieces) = &pieces {
                    let _ = pieces.send(bytes);
                }
                continue;
            }
            Ok(Some(Frame::EndOfInput)) => {
                pieces = None;
                continue;
            }
            Ok(Some(Frame::Signal(number))) => match passed_on(number) {
                Some(signal) => Event::Signal(signal),
                None => continue,
            },
            Ok(Some(_)) => continue,
            Ok(None) | Err(_) => {
                let _ = events.send(Event::Lost(pieces));
                return;
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

/// The signals that a caller may send.
fn passed_on(number: u8) -> Option<Signal> {
    [Signal::INT, Signal::TERM, Signal::HUP]
        .into_iter()
        .find(|signal| signal.as_raw() == i32::from(number))
}

fn status_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}
