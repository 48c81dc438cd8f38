//! Prints a turn while it runs by following its file. Problems with stdout never affect the turn.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::live::LiveView;
use super::output::note_write_error;
use super::terminal::safe;
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
    pub(super) fn start(feed: Feed, show: Show, verbosity: Option<Verbosity>, view: LiveView) -> Self {
        let (progress_sender, progress) = mpsc::channel();
        let thread = std::thread::spawn(move || follow(&feed, show, verbosity, view, &progress_sender));
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

fn follow(
    feed: &Feed,
    show: Show,
    verbosity: Option<Verbosity>,
    mut view: LiveView,
    progress_sender: &mpsc::Sender<()>,
) {
    let Ok(file) = File::open(&feed.path) else {
        return;
    };
    let mut reader = BufReader::new(file);
    let mut writer = Writer::new(show);
    let mut read = 0;
    let mut closed = false;
    let mut line = Vec::new();
    loop {
        let (length, over) = feed
            .growth
            .wait(read, view.until_tick().min(Duration::from_secs(1)));
        view.tick();
        while read < length {
            line.clear();
            match reader.by_ref().take(length - read).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(bytes) => read += bytes as u64,
            }
            let event = event_of(&line);
            if verbosity == Some(Verbosity::Lines)
                && let Some(event) = &event
                && let Some(description) = describe(event, &Redactor::default())
            {
                let _ = writeln!(std::io::stderr().lock(), "kugetsu: {}", safe(&description));
            }
            if let Some(event) = &event {
                view.event(event);
                // Nothing can be shown below a line that is still open.
                if !closed && writer.shares_terminal() {
                    note_write_error(writer.end());
                }
                view.show();
            } else if writer.shares_terminal() {
                view.hide();
            }
            // A vanished reader only ends the printing.
            if !closed && let Err(error) = writer.line(&line) {
                closed = true;
                note_write_error(Err(error));
            }
            let _ = progress_sender.send(());
        }
        if over {
            view.hide();
            if !closed {
                note_write_error(writer.end());
            }
            return;
        }
    }
}

/// The event of a line. Pieces of text make up most of a stream and are not parsed.
fn event_of(line: &[u8]) -> Option<StreamEvent> {
    let head = &line[..line.len().min(400)];
    let piece = b"\"type\":\"message_update\"";
    if head.windows(piece.len()).any(|window| window == piece) {
        return None;
    }
    Some(serde_json::from_slice::<StreamLine>(line).ok()?.event)
}

/// Writes lines of the stream to stdout.
pub(super) struct Writer {
    show: Show,
    current_message: String,
    line_open: bool,
    /// Whether stdout is a terminal. A terminal gets no characters that it would obey.
    terminal: bool,
}

impl Writer {
    pub(super) fn new(show: Show) -> Self {
        Self {
            show,
            current_message: String::new(),
            line_open: false,
            terminal: std::io::stdout().is_terminal(),
        }
    }

    /// Whether this writer prints text where the status line is.
    fn shares_terminal(&self) -> bool {
        self.terminal && self.show == Show::Text
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
            let delta = if self.terminal {
                safe(&delta)
            } else {
                Cow::Borrowed(&*delta)
            };
            stdout.write_all(delta.as_bytes())?;
            if !delta.is_empty() {
                self.line_open = !delta.ends_with('\n');
            }
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
