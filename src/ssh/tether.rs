//! The tether: runs a command of kugetsu for one on another host, and ends it with the connection.
//!
//! Without a terminal, sshd tells a command neither of Ctrl-C nor of a connection that is gone: it would run on.
//! The tether reads its stdin all the time, passes signals on, and takes the end of the stdin for a hang-up.
//! stdout and stderr are the command's own; nothing stands between them and ssh.

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

/// The exit status of a command line that cannot be meant so, `EX_USAGE`.
const USAGE: u8 = 64;
/// The exit status where the command cannot be started, `EX_UNAVAILABLE`.
const UNAVAILABLE: u8 = 69;

/// The main function of a tether. `program` is our own. Gives the command's exit status, 128 and its number after a
/// signal.
pub fn tether_main(program: &Path) -> u8 {
    match run(program) {
        Ok(status) => status,
        Err((status, problem)) => {
            // The one line that is not the command's own.
            let _ = writeln!(std::io::stderr().lock(), "kugetsu: {problem}");
            status
        }
    }
}

/// The command line as the frames gave it.
#[derive(Default)]
struct CommandLine {
    arguments: Vec<OsString>,
    files: Vec<SentFile>,
}

/// A file that came over the connection. It may hold secrets, so it is never on a disk: the command inherits a pipe, and
/// its argument names that.
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

    /// The command has the pipe. Nobody else keeps its reading end, so a command that ends without reading ends this too.
    fn write(self) {
        let Self {
            reader,
            mut writer,
            content,
        } = self;
        drop(reader);
        std::thread::spawn(move || writer.write_all(&content));
    }
}

enum Event {
    Signal(Signal),
    /// What is left of the way to the command's stdin comes with it: a stdin that was cut must not end, or half a
    /// prompt is taken for a whole one.
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
        .map_err(unavailable("the system gives no event loop"))?
        .block_on(supervise(command, line.files, frames, input))
        .map(status_of)
        .map_err(unavailable("the command cannot be started"))
}

fn command_line(frames: &mut impl Read) -> Result<CommandLine, FrameError> {
    let mut line = CommandLine::default();
    loop {
        match Frame::read(frames)? {
            Some(Frame::Argument(word)) => line.arguments.push(word),
            Some(Frame::File { option, content }) => {
                let file = SentFile::new(content)?;
                let mut word = option;
                word.push("=");
                word.push(file.path());
                line.arguments.push(word);
                line.files.push(file);
            }
            Some(Frame::Run) => return Ok(line),
            // A signal before the start: there is nothing to end, and nothing will be.
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
    // It holds the other end of the child's stdin.
    drop(command);
    files.into_iter().for_each(SentFile::write);
    let (events, mut received) = mpsc::unbounded_channel();
    std::thread::spawn(move || read_on(frames, input, &events));
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
                // Its last event is `Lost`.
                None => {
                    connected = false;
                    continue;
                }
            },
            _ = interrupt.recv() => Signal::INT,
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
        };
        // Its id is gone from `child` once it has been waited for, so this reaches nobody else.
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, number);
        }
    }
}

/// Reads frames until the connection ends. The input is written by a thread of its own, so that a command that does
/// not read it is still told of signals.
fn read_on(mut frames: impl Read, mut input: PipeWriter, events: &mpsc::UnboundedSender<Event>) {
    let (pieces, waiting) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        for piece in waiting {
            // A command may end its stdin unread.
            if input.write_all(&piece).is_err() {
                return;
            }
        }
    });
    let mut pieces = Some(pieces);
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
