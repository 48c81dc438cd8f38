//! `--host`: runs the same command on another host.
//!
//! A tether on that host runs it. Arguments and stdin travel as frames; stdout and stderr come back unchanged, but for what a
//! terminal here would obey.

mod line;

use std::io::Write as _;
use std::io::{IsTerminal as _, Read as _};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use clap::{ArgMatches, Command};
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::signal::unix::{SignalKind, signal};

use line::{Argument, Input, Line, Local};

use super::CommandError;
use super::context::Context;
use crate::ssh::{Frame, Host};
use crate::terminal::{Piece, Relay, Stream};
use kugetsu_api::ErrorCode;
use kugetsu_api::exit::ExitStatus;

/// ssh's own exit status for a failed or lost connection.
const SSH_FAILED: u8 = 255;
/// How long the rest of the output may take after ssh has ended.
const REST: Duration = Duration::from_secs(5);
/// How many signals are passed on. The next one gives up the connection, because the other host may not respond.
const PASSED_ON: u32 = 2;

impl Local for Context {
    fn address(&self, text: &str) -> Result<String, CommandError> {
        Ok(self.address(text)?.to_string())
    }

    fn repo(&self) -> Result<String, CommandError> {
        Ok(self.repo(None)?.to_string())
    }
}

/// Runs the command line on a host. Returns its exit status there.
pub(super) fn run(command: &Command, matches: &ArgMatches, name: &str) -> Result<u8, CommandError> {
    let context = Context::from_environment(false)?;
    let settings = context.engine.settings().hosts.get(name);
    let host = Host::new(name, settings).map_err(|error| {
        CommandError::usage(
            error.to_string(),
            "or name it in config.toml: [hosts.NAME] address = \"user@host\"",
        )
    })?;
    let mut line = Line::read(command, matches, &context)?;
    if line.terminal {
        return on_terminal(&host, &line);
    }
    let turn = line.turn.clone();
    let mut written = line.written.take().map(|written| written.on_host(name));
    if let (Some(written), Some(turn)) = (&mut written, &turn) {
        written.may_have_begun(turn);
    }
    let run = || {
        let (status, asked) = runtime()?.block_on(tether(&host, line)).map_err(no_ssh)?;
        verdict(&host, status, asked, turn.as_deref())
    };
    // A status cannot tell whether a turn has begun there.
    match (run(), written) {
        (Err(error), Some(written)) => Err(written.keep_after(error)),
        (Ok(status), Some(written)) if status != 0 => {
            written.keep();
            Ok(status)
        }
        (result, _) => result,
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    super::signals::event_loop().map_err(|error| {
        CommandError::new(ErrorCode::System, "the system provides no event loop").caused_by(error)
    })
}

fn no_ssh(error: std::io::Error) -> CommandError {
    CommandError::new(ErrorCode::SshUnavailable, "ssh cannot be run").caused_by(error)
}

/// Runs the line through a tether and passes signals on. Returns ssh's exit status and the status for the first signal.
async fn tether(host: &Host, line: Line) -> std::io::Result<(u8, Option<ExitStatus>)> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    super::signals::take_over();
    let (stdin, pipe) = std::io::pipe()?;
    let mut command = host.tether(Stream::Stderr.is_terminal());
    command.stdin(stdin);
    // A command there writes to a pipe, so it leaves out nothing that a terminal here would obey.
    let to_terminal = [Stream::Stdout, Stream::Stderr].map(Stream::is_terminal);
    if to_terminal[0] {
        command.stdout(Stdio::piped());
    }
    if to_terminal[1] {
        command.stderr(Stdio::piped());
    }
    let mut command = tokio::process::Command::from(command);
    let mut child = command.spawn()?;
    drop(command);
    let copies = [
        child.stdout.take().map(|from| relay(from, Stream::Stdout)),
        child.stderr.take().map(|from| relay(from, Stream::Stderr)),
    ];
    let frames = send(line, pipe)?;
    let (mut asked, mut signals) = (None, 0);
    loop {
        let (number, status) = tokio::select! {
            status = child.wait() => {
                let status = status?;
                for copy in copies.into_iter().flatten() {
                    // The pipe may outlive ssh, in a process that ssh has started to share its connection.
                    let _ = tokio::time::timeout(REST, copy).await;
                }
                return Ok((code_of(status), asked));
            }
            _ = interrupt.recv() => (Signal::INT, ExitStatus::Interrupted),
            _ = terminate.recv() => (Signal::TERM, ExitStatus::Terminated),
            _ = hangup.recv() => (Signal::HUP, ExitStatus::Terminated),
        };
        asked.get_or_insert(status);
        signals += 1;
        if signals > PASSED_ON {
            child.start_kill()?;
        } else {
            // Signal numbers are below 128.
            let _ = frames.send(Frame::Signal(number.as_raw() as u8));
        }
    }
}

/// Copies text to a terminal, escaped.
fn relay(mut from: impl AsyncRead + Send + Unpin + 'static, to: Stream) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut relay = Relay::default();
        let mut piece = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut piece).await {
            if to.write(&[Piece::Text(&relay.push(&piece[..read]))]).is_err() {
                return;
            }
        }
        let _ = to.write(&[Piece::Text(&relay.finish())]);
    })
}

/// Sends the line and then all later frames. The connection's stdin stays open as long as the returned sender exists.
fn send(line: Line, mut pipe: std::io::PipeWriter) -> std::io::Result<mpsc::Sender<Frame>> {
    let (frames, waiting) = mpsc::channel();
    for word in line.words {
        let _ = frames.send(match word {
            Argument::Plain(word) => Frame::Argument(word),
            Argument::File { option, content } => Frame::File {
                option: option.into(),
                content,
            },
        });
    }
    let _ = frames.send(Frame::Run);
    match line.input {
        Input::Nothing => {
            let _ = frames.send(Frame::EndOfInput);
        }
        Input::Bytes(bytes) => {
            for piece in bytes.chunks(64 * 1024) {
                let _ = frames.send(Frame::Input(piece.to_vec()));
            }
            let _ = frames.send(Frame::EndOfInput);
        }
        Input::Live => {
            let frames = frames.clone();
            std::thread::Builder::new().spawn(move || read_stdin(&frames))?;
        }
    }
    std::thread::Builder::new().spawn(move || {
        for frame in waiting {
            // ssh itself reports why there is no connection.
            if frame.write(&mut pipe).is_err() || pipe.flush().is_err() {
                return;
            }
        }
    })?;
    Ok(frames)
}

fn read_stdin(frames: &mpsc::Sender<Frame>) {
    let mut stdin = std::io::stdin().lock();
    let mut piece = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = stdin.read(&mut piece) {
        if frames.send(Frame::Input(piece[..count].to_vec())).is_err() {
            return;
        }
    }
    let _ = frames.send(Frame::EndOfInput);
}

fn on_terminal(host: &Host, line: &Line) -> Result<u8, CommandError> {
    if !(std::io::stdin().is_terminal() && Stream::Stdout.is_terminal()) {
        return Err(super::attach::no_terminal());
    }
    let words: Vec<_> = line
        .words
        .iter()
        .filter_map(|word| match word {
            Argument::Plain(word) => Some(word.clone()),
            Argument::File { .. } => None,
        })
        .collect();
    let status = host.on_terminal(&words).status().map_err(no_ssh)?;
    verdict(host, code_of(status), None, None)
}

/// ssh's exit status. A killed ssh, whether by us after the third signal or by someone else, counts as a lost
/// connection.
fn code_of(status: std::process::ExitStatus) -> u8 {
    status
        .code()
        .map_or(SSH_FAILED, |code| u8::try_from(code).unwrap_or(SSH_FAILED))
}

/// Distinguishes the exit statuses of ssh and of the remote shell from those of kugetsu.
fn verdict(
    host: &Host,
    status: u8,
    asked: Option<ExitStatus>,
    turn: Option<&str>,
) -> Result<u8, CommandError> {
    let name = &host.name;
    match (status, asked) {
        (SSH_FAILED, Some(asked)) => Ok(asked.code()),
        (SSH_FAILED, None) => Err(CommandError::new(
            ErrorCode::ConnectionLost,
            format!("{name} cannot be reached, or the connection was lost; a command there was ended"),
        )
        .hint(match turn {
            Some(turn) => format!("the same command with --turn-id {turn} runs the turn at most once"),
            None => format!("try it alone: ssh {name} true"),
        })),
        (126 | 127, _) => Err(CommandError::new(
            ErrorCode::RemoteMissing,
            format!("{} cannot be run on {name}", host.program().display()),
        )
        .hint(format!(
            "say where it is, in config.toml: [hosts.{name}] kugetsu = \"~/.cargo/bin/kugetsu\""
        ))),
        _ => Ok(status),
    }
}
