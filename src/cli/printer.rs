//! Prints a turn by following its file. Problems with stdout never affect the turn.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::sync::mpsc;
use std::time::Duration;

use super::live::LiveView;
use super::markdown::Markdown;
use super::output::note_write_error;
use super::status_line::StatusLineEnder;
use crate::terminal::{Piece, Stream, one_line};
use kugetsu_api::{EventsSchema, StreamEvent, StreamLine};
use kugetsu_engine::Redactor;
use kugetsu_engine::turn::stream::{Feed, describe, tool_label};

/// How long, after the turn is over, a reader of stdout may read nothing before the rest is left in the file.
const PATIENCE: Duration = Duration::from_secs(30);

/// The output on stdout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// The answer's text.
    Text,
    /// The answer's text, and a line for each tool.
    Transcript,
    /// The lines of the stream.
    Lines(Lines),
    /// The lines of another file, as they are.
    Raw,
    /// Nothing.
    Nothing,
}

/// Lines of the stream for programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lines {
    /// Only lines of these types; all of them if this is empty.
    pub(super) types: Vec<String>,
    /// The names of the types.
    pub(super) schema: EventsSchema,
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
    progress: mpsc::Receiver<()>,
    status_line: Option<StatusLineEnder>,
}

impl Printer {
    pub(super) fn start(feed: Feed, mut screen: Screen) -> Self {
        let (progress_sender, progress) = mpsc::channel();
        let status_line = screen.view.ender();
        let printing =
            std::thread::Builder::new().spawn(move || follow(&feed, &mut screen, &progress_sender));
        // The turn goes on, and its log has what is not printed.
        note_write_error(printing.map(drop));
        Self {
            progress,
            status_line,
        }
    }

    /// Waits until everything is printed, as long as there is a reader.
    pub(super) fn finish(self) {
        // The channel is closed as soon as everything is printed.
        while self.progress.recv_timeout(PATIENCE).is_ok() {}
        self.abandon();
    }

    /// Removes the status line. What is still printed on stdout may be lost.
    pub(super) fn abandon(&self) {
        if let Some(line) = &self.status_line {
            line.end();
        }
    }
}

fn follow(feed: &Feed, screen: &mut Screen, progress_sender: &mpsc::Sender<()>) {
    let Ok(file) = File::open(&feed.path) else {
        return;
    };
    let mut reader = BufReader::new(file);
    let mut read = 0;
    let mut line = Vec::new();
    loop {
        let (length, over) = feed.growth.wait(read, screen.until_tick());
        screen.tick();
        while read < length {
            line.clear();
            match reader.by_ref().take(length - read).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(bytes) => read += bytes as u64,
            }
            screen.line(&line);
            let _ = progress_sender.send(());
        }
        if over {
            screen.end();
            return;
        }
    }
}

/// The output of a turn on stdout, and the live view on stderr, which may share a terminal with it.
pub(super) struct Screen {
    show: Show,
    verbosity: Option<Verbosity>,
    view: LiveView,
    current_message: String,
    line_open: bool,
    /// Renders the answer, on a terminal that can show styles.
    markdown: Option<Markdown>,
    /// Whether stdout is a terminal. A terminal gets no characters that it would obey.
    terminal: bool,
    /// Whether stdout has failed. A vanished reader only ends the printing.
    closed: bool,
}

impl Screen {
    pub(super) fn new(show: Show, verbosity: Option<Verbosity>, view: LiveView, plain: bool) -> Self {
        let stdout = Stream::Stdout;
        let terminal = stdout.is_terminal();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let markdown = (terminal && !dumb && !plain).then(|| Markdown::new(stdout.takes_colours()));
        Self {
            markdown,
            show,
            verbosity,
            view,
            current_message: String::new(),
            line_open: false,
            terminal,
            closed: false,
        }
    }

    /// How long to wait for the next line before [`Screen::tick`].
    pub(super) fn until_tick(&self) -> Duration {
        self.view.until_tick().min(Duration::from_secs(1))
    }

    pub(super) fn tick(&mut self) {
        if self.view.is_due() && self.terminal {
            self.end_line();
        }
        self.view.tick();
    }

    /// What ends the status line from another thread, if there is one.
    pub(super) fn ender(&self) -> Option<StatusLineEnder> {
        self.view.ender()
    }

    /// Whether stdout has failed, so that further lines are not printed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes up a line of the stream.
    pub(super) fn line(&mut self, line: &[u8]) {
        // Lines that are only passed on need not be parsed.
        let passed_on = matches!(self.show, Show::Lines(_) | Show::Raw | Show::Nothing);
        let parsed = if passed_on && self.verbosity.is_none() && self.view.shows_nothing() {
            None
        } else {
            parsed(line)
        };
        let event = parsed.as_ref().map(|line| &line.event);
        if let Some(parsed) = &parsed {
            // The answer is on the same screen already.
            let repeats = self.terminal
                && self.show == Show::Text
                && matches!(parsed.event, StreamEvent::MessageEnd { reasoning: false, .. });
            if self.verbosity == Some(Verbosity::Lines)
                && !repeats
                && let Some(description) = describe(&parsed.event, &Redactor::default())
            {
                if self.terminal {
                    self.end_line();
                }
                note(&description);
            }
            self.view.line(parsed);
            if let StreamEvent::Notice { level, message } = &parsed.event
                && level == "note"
                && matches!(self.show, Show::Text | Show::Transcript)
            {
                self.view.hide();
                note(message);
            }
        }
        if !self.closed
            && let Err(error) = self.write(line, event)
        {
            self.closed = true;
            note_write_error(Err(error));
        }
        // Nothing can be shown below a line that is still open. These events take time, so it is ended.
        let takes_time = matches!(
            event,
            Some(
                StreamEvent::StepStart { .. }
                    | StreamEvent::ToolExecutionStart { .. }
                    | StreamEvent::Request { .. }
                    | StreamEvent::Notice { .. }
            )
        );
        if takes_time && self.terminal {
            self.end_line();
        } else if matches!(event, Some(StreamEvent::MessageEnd { .. })) {
            self.finish_markdown();
        }
        if parsed.is_some() && !self.line_open {
            self.view.show();
        }
    }

    /// Ends the output: removes the live view and ends the last line.
    pub(super) fn end(&mut self) {
        self.end_line();
        self.view.hide();
    }

    fn end_line(&mut self) {
        self.finish_markdown();
        if self.line_open {
            self.view.hide();
        }
        if std::mem::take(&mut self.line_open) && !self.closed {
            note_write_error(Stream::Stdout.write(&[Piece::Own("\n")]));
        }
    }

    /// Prints the rest of an answer that is rendered.
    fn finish_markdown(&mut self) {
        let rest = self.markdown.as_mut().map(Markdown::finish).unwrap_or_default();
        if !self.closed {
            note_write_error(self.print_rendered(&rest));
        }
    }

    /// Prints whole lines in the place of the live view.
    fn print_rendered(&self, lines: &str) -> std::io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.view.hide();
        Stream::Stdout.write(&[Piece::Rendered(lines)])?;
        self.view.show();
        Ok(())
    }

    fn write(&mut self, line: &[u8], event: Option<&StreamEvent>) -> std::io::Result<()> {
        match (&self.show, event) {
            (Show::Lines(lines), _) => {
                let line = lines.schema.line(line);
                let wanted = |event_type: &String| has_type(&line, event_type);
                if !lines.types.is_empty() && !lines.types.iter().any(wanted) {
                    return Ok(());
                }
                Stream::Stdout.write(&[Piece::Json(&line)])
            }
            (Show::Raw, _) => Stream::Stdout.write_unescaped(line),
            (Show::Text | Show::Transcript, None) => self.text(line),
            (
                Show::Transcript,
                Some(StreamEvent::ToolExecutionEnd {
                    tool, title, error, ..
                }),
            ) => {
                let label = one_line(&tool_label(tool, title, &serde_json::Value::Null));
                let failure = error
                    .as_ref()
                    .map_or_else(String::new, |error| format!(" failed: {}", cut(&one_line(error))));
                self.view.hide();
                self.end_line();
                Stream::Stdout.write(&[
                    Piece::Own("> "),
                    Piece::Text(&label),
                    Piece::Text(&failure),
                    Piece::Own("\n"),
                ])
            }
            _ => Ok(()),
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
            if let Some(markdown) = &mut self.markdown {
                let before = if message == self.current_message {
                    String::new()
                } else {
                    markdown.finish()
                };
                let text = before + &markdown.push(&delta);
                self.current_message = message;
                return self.print_rendered(&text);
            }
            self.view.hide();
            let between = if self.line_open && message != self.current_message {
                "\n"
            } else {
                ""
            };
            Stream::Stdout.write(&[Piece::Own(between), Piece::Text(&delta)])?;
            if !delta.is_empty() {
                self.line_open = !delta.ends_with('\n');
            }
            self.current_message = message;
        }
        Ok(())
    }
}

/// Prints a line on stderr.
fn note(text: &str) {
    let _ = Stream::Stderr.write(&[
        Piece::Own("kugetsu: "),
        Piece::Text(&one_line(text)),
        Piece::Own("\n"),
    ]);
}

/// The beginning of a text that may be long.
fn cut(text: &str) -> &str {
    const MOST: usize = 200;
    text.char_indices()
        .nth(MOST)
        .map_or(text, |(end, _)| &text[..end])
}

/// Parses a line. Pieces of text make up most of a stream and are not parsed.
fn parsed(line: &[u8]) -> Option<StreamLine> {
    let head = &line[..line.len().min(400)];
    let piece = b"\"type\":\"message_update\"";
    if head.windows(piece.len()).any(|window| window == piece) {
        return None;
    }
    serde_json::from_slice(line).ok()
}

fn has_type(line: &[u8], event_type: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Typed<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
    }
    serde_json::from_slice::<Typed<'_>>(line).is_ok_and(|typed| typed.kind == event_type)
}
