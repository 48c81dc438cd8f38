//! Prints a turn while it runs by following its file. Problems with stdout never affect the turn.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::output::note_write_error;
use kugetsu_api::{StreamEvent, StreamLine};
use kugetsu_engine::Redactor;
use kugetsu_engine::turn::stream::{Feed, describe};

/// How long, after the turn is over, a reader of stdout may read nothing before the rest is left in the file.
const PATIENCE: Duration = Duration::from_secs(30);

/// The output on stdout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// The answer's text.
    Text,
    /// The lines as they are: those of the given types, or all of them if none is given.
    Lines(Vec<String>),
    /// Nothing.
    Nothing,
}

/// The output on stderr during the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verbosity {
    /// One line per event.
    Lines,
}

/// A thread that prints a turn.
#[derive(Debug)]
pub(super) struct Printer {
    thread: JoinHandle<()>,
    progress: mpsc::Receiver<()>,
}

impl Printer {
    pub(super) fn start(feed: Feed, show: Show, verbosity: Option<Verbosity>) -> Self {
        let (progress_sender, progress) = mpsc::channel();
        let thread = std::thread::spawn(move || follow(&feed, show, verbosity, &progress_sender));
        Self { thread, progress }
    }

    /// Waits until everything is printed, as long as there is a reader.
    pub(super) fn finish(self) {
        while !self.thread.is_finished() {
            match self.progress.recv_timeout(PATIENCE) {
                Ok(()) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => return,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        let _ = self.thread.join();
    }
}

fn follow(feed: &Feed, show: Show, verbosity: Option<Verbosity>, progress_sender: &mpsc::Sender<()>) {
    let Ok(file) = File::open(&feed.path) else {
        return;
    };
    let mut reader = BufReader::new(file);
    let mut writer = Writer::new(show);
    let mut read = 0;
    let mut closed = false;
    let mut line = Vec::new();
    loop {
        let (length, over) = feed.growth.wait(read, Duration::from_secs(1));
        while read < length {
            line.clear();
            match reader.by_ref().take(length - read).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(bytes) => read += bytes as u64,
            }
            if verbosity == Some(Verbosity::Lines)
                && let Some(description) = describe_line(&line)
            {
                let _ = writeln!(std::io::stderr().lock(), "kugetsu: {description}");
            }
            // A vanished reader only ends the printing.
            if !closed && let Err(error) = writer.line(&line) {
                closed = true;
                note_write_error(Err(error));
            }
            let _ = progress_sender.send(());
        }
        if over {
            if !closed {
                note_write_error(writer.end());
            }
            return;
        }
    }
}

/// Describes a line for people. Pieces of text make up most of a stream and have no description, so they are not
/// parsed.
fn describe_line(line: &[u8]) -> Option<String> {
    let head = &line[..line.len().min(400)];
    let piece = b"\"type\":\"message_update\"";
    if head.windows(piece.len()).any(|window| window == piece) {
        return None;
    }
    let line = serde_json::from_slice::<StreamLine>(line).ok()?;
    describe(&line.event, &Redactor::default())
}

/// Writes lines of the stream to stdout.
pub(super) struct Writer {
    show: Show,
    current_message: String,
    line_open: bool,
}

impl Writer {
    pub(super) fn new(show: Show) -> Self {
        Self {
            show,
            current_message: String::new(),
            line_open: false,
        }
    }

    pub(super) fn line(&mut self, line: &[u8]) -> std::io::Result<()> {
        match &self.show {
            Show::Nothing => Ok(()),
            Show::Lines(types) => {
                if !types.is_empty() && !types.iter().any(|event_type| has_type(line, event_type)) {
                    return Ok(());
                }
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(line)?;
                stdout.flush()
            }
            Show::Text => self.text(line),
        }
    }

    fn text(&mut self, line: &[u8]) -> std::io::Result<()> {
        let Ok(line) = serde_json::from_slice::<StreamLine>(line) else {
            return Ok(());
        };
        if let StreamEvent::MessageUpdate {
            message,
            reasoning: false,
            delta,
        } = line.event
        {
            let mut stdout = std::io::stdout().lock();
            if self.line_open && message != self.current_message {
                stdout.write_all(b"\n")?;
            }
            stdout.write_all(delta.as_bytes())?;
            self.line_open = !delta.ends_with('\n');
            self.current_message = message;
            stdout.flush()?;
        }
        Ok(())
    }

    /// Ends the last line.
    pub(super) fn end(&mut self) -> std::io::Result<()> {
        if std::mem::take(&mut self.line_open) && self.show == Show::Text {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(b"\n")?;
            return stdout.flush();
        }
        Ok(())
    }
}

fn has_type(line: &[u8], event_type: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Typed<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
    }
    serde_json::from_slice::<Typed<'_>>(line).is_ok_and(|typed| typed.kind == event_type)
}
