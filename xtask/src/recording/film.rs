//! The pictures that a terminal shows, one after the other.

use std::time::Duration;

use avt::{Line, Terminal};

/// Pictures that stay for less than this are left out.
const SHORTEST: Duration = Duration::from_millis(90);

/// What a terminal shows from a point in time on.
#[derive(Debug, PartialEq)]
pub(super) struct Picture {
    /// The time since the beginning.
    pub(super) start: Duration,
    pub(super) lines: Vec<Line>,
    /// The column and the row of the cursor, unless it is hidden.
    pub(super) cursor: Option<(usize, usize)>,
}

/// The pictures in order, and the length of the film.
#[derive(Debug)]
pub(super) struct Pictures {
    pub(super) all: Vec<Picture>,
    pub(super) length: Duration,
}

/// A terminal with its clock.
pub(super) struct Film {
    terminal: Terminal,
    now: Duration,
    pictures: Vec<Picture>,
}

impl Film {
    pub(super) fn new(columns: usize, rows: usize) -> Self {
        Self {
            terminal: Terminal::new(columns, rows).expect("a terminal has columns and rows"),
            now: Duration::ZERO,
            pictures: Vec::new(),
        }
    }

    /// Prints on the terminal.
    pub(super) fn show(&mut self, text: &str) {
        self.terminal.feed(text);
        let screen = self.terminal.screen();
        let picture = Picture {
            start: self.now,
            lines: screen.visible_lines().cloned().collect(),
            cursor: self.terminal.cursor().position(),
        };
        match self.pictures.last_mut() {
            Some(last) if last.lines == picture.lines && last.cursor == picture.cursor => {}
            Some(last) if self.now.saturating_sub(last.start) < SHORTEST => {
                let start = last.start;
                *last = Picture { start, ..picture };
            }
            _ => self.pictures.push(picture),
        }
    }

    /// Lets time pass.
    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    pub(super) fn end(self) -> Pictures {
        Pictures {
            all: self.pictures,
            length: self.now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pictures: &Pictures) -> Vec<(u128, String)> {
        let text = |one: &Picture| one.lines.iter().map(Line::text).collect::<String>();
        let all = pictures.all.iter();
        all.map(|one| (one.start.as_millis(), text(one).trim().to_owned()))
            .collect()
    }

    #[test]
    fn a_picture_stays_until_another_is_to_be_seen() {
        let mut film = Film::new(20, 3);
        film.show("one");
        film.wait(Duration::from_secs(1));
        film.show("\x1b[0m");
        film.wait(Duration::from_secs(1));
        film.show("\rtwo");
        film.wait(Duration::from_millis(1));
        film.show("\rsix");
        film.wait(Duration::from_secs(1));
        film.show("!");
        film.wait(Duration::from_secs(1));
        let pictures = film.end();
        let expected = [(0, "one"), (2000, "six"), (3001, "six!")];
        assert_eq!(
            texts(&pictures),
            expected.map(|(time, text)| (time, text.to_owned()))
        );
        assert_eq!(pictures.length, Duration::from_millis(4001));
    }
}
