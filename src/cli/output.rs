//! Writing to stdout and stderr. A reader that has gone away is no error; a full disk is.

use std::io::{IsTerminal as _, Write};
use std::sync::OnceLock;

use schemars::JsonSchema;
use serde::Serialize;

use super::CommandError;
use kugetsu_api::ErrorCode;
use kugetsu_api::output::{Document, OUTPUT_SCHEMA};

/// Where and how to print.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) json: bool,
    colour: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json,
            colour: !plain && std::io::stdout().is_terminal(),
        }
    }

    /// Text for people, on stdout.
    pub(super) fn text(self, text: impl AsRef<str>) {
        let mut stdout = std::io::stdout().lock();
        written(writeln!(stdout, "{}", text.as_ref()).and_then(|()| stdout.flush()));
    }

    /// An object for programs, on one line of stdout, with the schema.
    pub(super) fn object<T: Serialize + JsonSchema>(self, body: T) {
        self.document(&Document::new(body));
    }

    /// An object that has its schema already, on one line of stdout; its fields are in the order of the alphabet.
    pub(super) fn document<T: Serialize + JsonSchema>(self, document: &T) {
        match serde_json::to_value(document) {
            Ok(value) => self.text(value.to_string()),
            // Such as a path that is not UTF-8.
            Err(error) => written(Err(error.into())),
        }
    }

    /// The same for an object with a field of so many rows that they go out as they come.
    pub(super) fn long_object(self, field: &str) -> LongObject {
        LongObject {
            head: Some(format!("{{\"schema\":{OUTPUT_SCHEMA},\"{field}\":[")),
        }
    }

    /// A whole file for another program, on stdout; with `--json` as an object.
    pub(super) fn file<T: Serialize + JsonSchema>(self, bytes: &[u8], object: impl FnOnce(String) -> T) {
        if self.json {
            return self.object(object(String::from_utf8_lossy(bytes).into_owned()));
        }
        let mut stdout = std::io::stdout().lock();
        written(stdout.write_all(bytes).and_then(|()| stdout.flush()));
    }

    /// Something beside the result, on stderr.
    pub(super) fn note(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
    }

    /// An error: on stderr for people, and on stdout for programs.
    pub(super) fn error(self, error: &CommandError) {
        self.note(error.for_people());
        if self.json {
            self.error_object(error);
        }
    }

    /// An error for programs alone.
    pub(super) fn error_object(self, error: &CommandError) {
        self.document(&error.for_programs());
    }

    /// A table for people: columns, no lines, so that it can be cut and grepped.
    pub(super) fn table(self, head: &[&str], rows: Vec<Vec<String>>) {
        use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(head.iter().map(|title| {
                let cell = Cell::new(title);
                if self.colour {
                    cell.add_attribute(Attribute::Bold)
                } else {
                    cell
                }
            }));
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        for row in rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let text = table.to_string();
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        self.text(lines.join("\n"));
    }
}

/// An object that is being printed. Nothing is, before its first row or its end.
pub(super) struct LongObject {
    /// Until it is printed.
    head: Option<String>,
}

impl LongObject {
    /// Some rows, which are JSON already, each with a comma before it; or none.
    pub(super) fn rows(&mut self, rows: &str) {
        if rows.is_empty() {
            return;
        }
        match self.head.take() {
            Some(head) => {
                let rows = rows.strip_prefix(',').unwrap_or(rows);
                written(Unlined.write_all((head + rows).as_bytes()));
            }
            None => written(Unlined.write_all(rows.as_bytes())),
        }
    }

    /// The fields after the rows; `rest` must have some.
    pub(super) fn end(self, rest: &impl Serialize) {
        let head = self.head.unwrap_or_default();
        let rest = serde_json::to_string(rest).unwrap_or_default();
        let rest = rest.strip_prefix('{').unwrap_or("}");
        written(Unlined.write_all(format!("{head}],{rest}\n").as_bytes()));
    }
}

/// Stdout without the search for the ends of lines, which megabytes would all be read for.
struct Unlined;

impl Write for Unlined {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(rustix::io::write(rustix::stdio::stdout(), bytes)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// Takes note of what could not be written to stdout. Threads print as well as this one, so the place is the process's.
pub(super) fn written(result: std::io::Result<()>) {
    if let Err(error) = result
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        // The first tells why.
        let _ = UNWRITTEN.set(error.to_string());
    }
}

/// Why something that should be on stdout is not.
pub(super) fn unwritten() -> Option<CommandError> {
    let message = format!("the output could not be written to stdout: {}", UNWRITTEN.get()?);
    let error = CommandError::new(ErrorCode::OutputUnwritable, message);
    Some(error.hint("what was done is done and on record; see: kugetsu show, kugetsu logs"))
}

/// Costs are fractions of a cent as often as dollars.
pub(super) fn money(usd: f64) -> String {
    if usd == 0.0 {
        "$0".to_owned()
    } else if usd < 0.01 {
        format!("${usd:.6}")
    } else {
        format!("${usd:.2}")
    }
}

/// `1 step`, `2 steps`.
pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Asks on the terminal. Anything but a clear yes is a no. A line is read, and not a key: dialoguer's question for a key
/// hides the cursor, and Ctrl-C would leave it so.
pub(super) fn confirm(question: &str) -> bool {
    let answer = dialoguer::Input::<String>::new()
        .with_prompt(format!("{question} [y/N]"))
        .allow_empty(true)
        .interact();
    answer.is_ok_and(|answer| ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// kugetsu's own trace: warnings to stderr, everything into the log where there is one.
pub(super) fn trace_to(log: std::fs::File) {
    use tracing_subscriber::fmt;
    let _ = fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(std::sync::Mutex::new(log))
        .try_init();
}
