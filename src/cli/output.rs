//! Output to stdout and stderr. A reader that has closed its end is not an error; a full disk is.

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::Serialize;

use super::CommandError;
use super::table::{self, Cell, Column};
use super::tone::Tone;
use crate::terminal::{Piece, Stream};
use kugetsu_api::ErrorCode;
use kugetsu_api::json;
use kugetsu_api::output::{Document, OUTPUT_SCHEMA};

/// Where and how to print.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints text for people on stdout.
    pub(super) fn text(self, text: impl AsRef<str>) {
        print(&[Piece::Text(text.as_ref())]);
    }

    /// Prints a line of pieces for people on stdout, each in its tone.
    pub(super) fn line(self, pieces: &[(Tone, &str)]) {
        let pieces: Vec<_> = pieces.iter().map(|(tone, text)| tone.of(text)).collect();
        print(&pieces);
    }

    /// Prints a line of JSON on stdout.
    pub(super) fn json_line(self, line: &[u8]) {
        print(&[Piece::Json(line)]);
    }

    /// Prints an object for programs on one line of stdout, with the schema.
    pub(super) fn object<T: Serialize + JsonSchema>(self, body: T) {
        self.document(&Document::new(body));
    }

    /// Prints an object that already contains its schema on one line of stdout. Its fields are in alphabetical order.
    pub(super) fn document<T: Serialize + JsonSchema>(self, document: &T) {
        match serde_json::to_value(document).and_then(|value| json::to_string(&value)) {
            Ok(text) => self.json_line(text.as_bytes()),
            // For example a path that is not UTF-8.
            Err(error) => note_write_error(Err(error.into())),
        }
    }

    /// Begins an object with a field of so many rows that each block of rows is printed as it arrives.
    pub(super) fn long_object(self, field: &str) -> LongObject {
        LongObject {
            head: Some(format!("{{\"schema\":{OUTPUT_SCHEMA},\"{field}\":[")),
        }
    }

    /// Prints a whole file for another program on stdout, with `--json` as an object.
    pub(super) fn file<T: Serialize + JsonSchema>(self, bytes: &[u8], object: impl FnOnce(String) -> T) {
        if self.json {
            return self.object(object(String::from_utf8_lossy(bytes).into_owned()));
        }
        note_write_error(Stream::Stdout.write(&[Piece::Bytes(bytes)]));
    }

    /// Prints a note that is not part of the result on stderr.
    pub(super) fn note(self, text: impl AsRef<str>) {
        let _ = Stream::Stderr.write(&[Piece::Text(text.as_ref()), Piece::Own("\n")]);
    }

    /// Prints a note of pieces on stderr, each in its tone.
    pub(super) fn note_line(self, pieces: &[(Tone, &str)]) {
        let pieces = pieces.iter().map(|(tone, text)| tone.of(text));
        let pieces: Vec<_> = pieces.chain([Piece::Own("\n")]).collect();
        let _ = Stream::Stderr.write(&pieces);
    }

    /// Rings the bell of the terminal, if there is one.
    pub(super) fn bell(self) {
        if Stream::Stderr.is_terminal() {
            let _ = Stream::Stderr.write(&[Piece::Own("\x07")]);
        }
    }

    /// Prints an error on stderr for people and, with JSON output, on stdout for programs.
    pub(super) fn error(self, error: &CommandError) {
        let text = error.for_people();
        match text.split_once(' ') {
            Some((name, rest)) => {
                self.note_line(&[(Tone::Bad, name), (Tone::Plain, " "), (Tone::Plain, rest)]);
            }
            None => self.note(text),
        }
        if self.json {
            self.error_object(error);
        }
    }

    /// Prints an error for programs only.
    pub(super) fn error_object(self, error: &CommandError) {
        self.document(&error.for_programs());
    }

    /// Prints a table for people, on a terminal in its width.
    pub(super) fn table<C: Into<Cell>>(self, columns: &[Column], rows: Vec<Vec<C>>) {
        let stdout = Stream::Stdout;
        let width = stdout.is_terminal().then(|| stdout.columns());
        let coloured = !self.json && stdout.takes_colours();
        let table = table::render(columns, rows, width, coloured, |text| {
            stdout.text(text).into_owned()
        });
        print(&[Piece::Rendered(&table)]);
    }
}

/// Prints a line on stdout.
fn print(pieces: &[Piece<'_>]) {
    note_write_error(Stream::Stdout.write(&[pieces, &[Piece::Own("\n")]].concat()));
}

/// An object that is printed in parts. Nothing is printed before its first row or its end.
pub(super) struct LongObject {
    /// The beginning of the object, until it is printed.
    head: Option<String>,
}

impl LongObject {
    /// Prints rows, which are JSON with a comma before each row. `rows` may be empty.
    pub(super) fn rows(&mut self, rows: &str) {
        if rows.is_empty() {
            return;
        }
        match self.head.take() {
            Some(head) => write_part(&(head + rows.strip_prefix(',').unwrap_or(rows))),
            None => write_part(rows),
        }
    }

    /// Prints the fields after the rows; `rest` must have at least one.
    pub(super) fn end(self, rest: &impl Serialize) {
        let head = self.head.unwrap_or_default();
        let rest = json::to_string(rest).unwrap_or_default();
        let rest = rest.strip_prefix('{').unwrap_or("}");
        write_part(&format!("{head}],{rest}\n"));
    }
}

fn write_part(json: &str) {
    note_write_error(Stream::Stdout.write(&[Piece::Json(json.as_bytes())]));
}

static WRITE_ERROR: OnceLock<String> = OnceLock::new();
/// Whether the reader of stdout has closed its end.
static READER_GONE: AtomicBool = AtomicBool::new(false);

/// Records a failed write to stdout. The place is global because other threads print as well.
pub(super) fn note_write_error(result: std::io::Result<()>) {
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            READER_GONE.store(true, Ordering::Relaxed);
        }
        Err(error) => {
            // The first error is the cause.
            let _ = WRITE_ERROR.set(error.to_string());
        }
    }
}

/// Whether nothing more can be written to stdout.
pub(super) fn is_closed() -> bool {
    READER_GONE.load(Ordering::Relaxed) || WRITE_ERROR.get().is_some()
}

/// The error if a write to stdout has failed.
pub(super) fn write_error() -> Option<CommandError> {
    let message = format!(
        "the output could not be written to stdout: {}",
        WRITE_ERROR.get()?
    );
    let error = CommandError::new(ErrorCode::OutputUnwritable, message);
    Some(error.hint("the operation itself is done and on record; see: kugetsu show, kugetsu logs"))
}

/// A size in decimal units: `812 B`, `1.2 MB`.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 || unit == "GB" {
            let digits = usize::from(unit != "B" && value < 9.95);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{bytes} B")
}

/// A number with its noun: `1 step`, `2 steps`.
pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Whether a person can be asked: a question goes to stderr, and the answer comes from stdin.
pub(super) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && Stream::Stderr.is_terminal()
}

/// Asks a yes-or-no question on the terminal. Any answer except a clear yes counts as no.
pub(super) fn confirm(question: &str) -> bool {
    let _ = Stream::Stderr.write(&[Piece::Text(question), Piece::Own(" [y/N]: ")]);
    let mut answer = String::new();
    // The terminal ends a line at 4096 bytes.
    match std::io::stdin().read_line(&mut answer) {
        Ok(1..) => ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()),
        Ok(0) | Err(_) => {
            let _ = Stream::Stderr.write(&[Piece::Own("\n")]);
            false
        }
    }
}

/// Writes kugetsu's own trace to the log.
pub(super) fn trace_to(log: std::fs::File) {
    use tracing_subscriber::fmt;
    let _ = fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        // On a full disk, telling of it on stderr would panic.
        .log_internal_errors(false)
        .with_writer(std::sync::Mutex::new(log))
        .try_init();
}
