//! A line at the bottom of the terminal that says what is going on, and is redrawn while it is shown.
//!
//! `indicatif` fills such a line up to the right edge, so the `^C` that the terminal echoes begins another line, and the
//! first one stays on the screen for ever.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::terminal::{Piece, Stream};
use console::{measure_text_width, truncate_str};
use kugetsu_engine::duration::print_duration;

/// The interval between two redraws.
const REDRAW: Duration = Duration::from_millis(120);
const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
/// The columns that stay free at the right edge for `^C`.
const MARGIN: usize = 3;

/// The line. It is drawn by a thread of its own, and removed when this value is dropped.
#[derive(Debug)]
pub(super) struct StatusLine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    began: Instant,
    text: String,
    wanted: bool,
    /// The width of what was drawn last; none if nothing of it is on the screen.
    drawn: Option<usize>,
    frame: usize,
    ended: bool,
}

impl StatusLine {
    /// A line that is not shown yet.
    pub(super) fn start() -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                began: Instant::now(),
                text: String::new(),
                wanted: false,
                drawn: None,
                frame: 0,
                ended: false,
            }),
            ended: Condvar::new(),
        });
        let thread = std::thread::Builder::new().spawn({
            let shared = Arc::clone(&shared);
            move || shared.draw_until_ended()
        });
        Self {
            shared,
            // Without the thread, the line is drawn only when its text changes.
            thread: thread.ok(),
        }
    }

    pub(super) fn ender(&self) -> StatusLineEnder {
        StatusLineEnder(Arc::clone(&self.shared))
    }

    /// Shows the line with this text, and the time that has passed since `began`.
    pub(super) fn show(&self, began: Instant, text: String) {
        let mut state = self.shared.state();
        state.began = began;
        state.text = text;
        state.wanted = true;
        state.draw();
    }

    /// Removes the line until the next [`StatusLine::show`].
    pub(super) fn hide(&self) {
        let mut state = self.shared.state();
        state.wanted = false;
        state.clear();
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.ender().end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Ends a status line from another thread.
#[derive(Clone, Debug)]
pub(super) struct StatusLineEnder(Arc<Shared>);

impl StatusLineEnder {
    /// Removes the line for good.
    pub(super) fn end(&self) {
        let mut state = self.0.state();
        state.ended = true;
        state.clear();
        self.0.ended.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw_until_ended(&self) {
        let mut state = self.state();
        while !state.ended {
            if state.wanted {
                state.frame += 1;
                state.draw();
            }
            (state, _) = self
                .ended
                .wait_timeout(state, REDRAW)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn draw(&mut self) {
        if self.ended {
            return;
        }
        let frame = FRAMES[self.frame % FRAMES.len()];
        let seconds = Duration::from_secs(self.began.elapsed().as_secs());
        let text = Stream::Stderr.text(&self.text);
        let line = format!("{frame} {} · {text}", print_duration(seconds));
        let room = columns().saturating_sub(MARGIN);
        let line = truncate_str(&line, room, "…");
        let mut pieces = self.clearing();
        pieces.push(Piece::Text(&line));
        let _ = Stream::Stderr.write(&pieces);
        self.drawn = Some(measure_text_width(&line));
    }

    fn clear(&mut self) {
        let _ = Stream::Stderr.write(&self.clearing());
        self.drawn = None;
    }

    /// The sequences that remove what was drawn last. In a terminal that has become narrower, that may be on several
    /// rows now.
    fn clearing(&self) -> Vec<Piece<'static>> {
        let Some(width) = self.drawn else {
            return Vec::new();
        };
        let rows = width.saturating_sub(1) / columns().max(1);
        let mut pieces = vec![Piece::Own("\r\x1b[2K")];
        pieces.resize(1 + rows, Piece::Own("\x1b[1A\x1b[2K"));
        pieces
    }
}

fn columns() -> usize {
    Stream::Stderr.columns()
}
