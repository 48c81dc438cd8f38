//! Prints a turn while it runs, by following its file. Whatever becomes of stdout, the turn does not notice.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::turn::stream::{Feed, StreamEvent, StreamLine};

/// How long a reader of stdout may take nothing after the turn is over, before the rest is left in the file.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the stream is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// The answer's text.
    Text,
    /// Every line as it is.
    Lines,
}

/// A thread that prints.
#[derive(Debug)]
pub(super) struct Printer {
    thread: JoinHandle<()>,
    progress: mpsc::Receiver<()>,
}

impl Printer {
    pub(super) fn start(feed: Feed, show: Show) -> Self {
        let (moved, progress) = mpsc::channel();
        let thread = std::thread::spawn(move || follow(&feed, show, &moved));
        Self { thread, progress }
    }

    /// Waits until everything is printed, for as long as somebody reads.
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

fn follow(feed: &Feed, show: Show, moved: &mpsc::Sender<()>) {
    let Ok(file) = File::open(&feed.path) else { return };
    let mut reader = BufReader::new(file);
    let mut writer = Writer::new(show);
    let mut read = 0;
    loop {
        let (length, over) = feed.growth.wait(read, Duration::from_secs(1));
        while read < length {
            let mut line = Vec::new();
            match reader.by_ref().take(length - read).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(bytes) => read += bytes as u64,
            }
            if writer.line(&line).is_err() {
                return;
            }
            let _ = moved.send(());
        }
        if over {
            let _ = writer.end();
            return;
        }
    }
}

/// Writes lines of the stream to stdout.
pub(super) struct Writer {
    show: Show,
    part: String,
    open: bool,
}

impl Writer {
    pub(super) fn new(show: Show) -> Self {
        Self {
            show,
            part: String::new(),
            open: false,
        }
    }

    pub(super) fn line(&mut self, line: &[u8]) -> std::io::Result<()> {
        let mut stdout = std::io::stdout().lock();
        if self.show == Show::Lines {
            stdout.write_all(line)?;
            return stdout.flush();
        }
        let Ok(line) = serde_json::from_slice::<StreamLine>(line) else {
            return Ok(());
        };
        if let StreamEvent::MessageUpdate {
            message,
            reasoning: false,
            delta,
        } = line.event
        {
            if self.open && message != self.part {
                stdout.write_all(b"\n")?;
            }
            stdout.write_all(delta.as_bytes())?;
            self.open = !delta.ends_with('\n');
            self.part = message;
            stdout.flush()?;
        }
        Ok(())
    }

    /// Ends the last line.
    pub(super) fn end(&mut self) -> std::io::Result<()> {
        if std::mem::take(&mut self.open) && self.show == Show::Text {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(b"\n")?;
            return stdout.flush();
        }
        Ok(())
    }
}
