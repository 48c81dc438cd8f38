//! The only way to stdout and stderr.
//!
//! A terminal gets text that is escaped, and kugetsu's own control sequences. What is kugetsu's own is known by its type:
//! a style, or a string that is a part of the program. A pipe or a file gets from stdout the bytes as they are. stderr is
//! for people only, and often reaches a terminal by way of another program, so its text is always escaped.
//!
//! clippy forbids the streams of the standard library everywhere else.

mod escape;

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};

use anstream::AutoStream;
use anstyle::Style;
use rustix::fd::BorrowedFd;

pub(crate) use escape::{escape, escape_bytes};
pub(crate) use kugetsu_engine::text::one_line;

/// An output of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// A piece of output.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece<'a> {
    /// Text, whoever wrote it.
    Text(&'a str),
    /// The same in a style, where the stream takes colours.
    Styled(Style, &'a str),
    /// Text that may not be UTF-8, whoever wrote it.
    Bytes(&'a [u8]),
    /// JSON. On a terminal it keeps its value.
    Json(&'a [u8]),
    /// What a library has made of text that was escaped for this stream, with styles.
    Rendered(&'a str),
    /// A part of this program: a line feed, or a control sequence that only a terminal may get.
    Own(&'static str),
}

/// Keeps the pieces of one output together. The standard library's own locks are not used, because its buffer would have
/// to be searched for line ends.
static WRITING: Mutex<()> = Mutex::new(());

impl Stream {
    pub(crate) fn is_terminal(self) -> bool {
        self.with_fd(|fd| fd.is_terminal())
    }

    /// Whether the stream takes colours: `NO_COLOR`, `CLICOLOR_FORCE`, `CLICOLOR` and `TERM` decide, and for a pipe or a
    /// file only `CLICOLOR_FORCE`.
    #[expect(clippy::disallowed_methods, reason = "only asks")]
    pub(crate) fn takes_colours(self) -> bool {
        let choice = match self {
            Self::Stdout => AutoStream::choice(&std::io::stdout()),
            Self::Stderr => AutoStream::choice(&std::io::stderr()),
        };
        choice != anstream::ColorChoice::Never
    }

    /// The number of columns of the terminal.
    #[expect(clippy::disallowed_methods, reason = "only asks")]
    pub(crate) fn columns(self) -> usize {
        let term = match self {
            Self::Stdout => console::Term::stdout(),
            Self::Stderr => console::Term::stderr(),
        };
        usize::from(term.size().1)
    }

    /// Whether text is escaped.
    pub(crate) fn escapes(self) -> bool {
        self == Self::Stderr || self.is_terminal() || self.takes_colours()
    }

    /// The text as this stream may get it, to be measured or rendered before it is written.
    pub(crate) fn text(self, text: &str) -> Cow<'_, str> {
        if self.escapes() {
            escape(text)
        } else {
            Cow::Borrowed(text)
        }
    }

    /// Writes the pieces without anything in between.
    pub(crate) fn write(self, pieces: &[Piece<'_>]) -> std::io::Result<()> {
        match pieces {
            [one] => self.write_all(&one.shown(self.escapes(), self.takes_colours())),
            several => self.write_all(&self.shown(several)),
        }
    }

    /// The pieces as this stream may get them, for a program that writes to it, such as a pager.
    pub(crate) fn shown(self, pieces: &[Piece<'_>]) -> Vec<u8> {
        let (escapes, coloured) = (self.escapes(), self.takes_colours());
        let shown: Vec<_> = pieces
            .iter()
            .map(|piece| piece.shown(escapes, coloured))
            .collect();
        shown.concat()
    }

    /// Writes bytes to a terminal that obeys them, which a person has agreed to.
    pub(crate) fn write_unescaped(self, bytes: &[u8]) -> std::io::Result<()> {
        self.write_all(bytes)
    }

    fn write_all(self, bytes: &[u8]) -> std::io::Result<()> {
        let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        Unbuffered(self).write_all(bytes)
    }

    fn with_fd<T>(self, ask: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        ask(match self {
            Self::Stdout => rustix::stdio::stdout(),
            Self::Stderr => rustix::stdio::stderr(),
        })
    }
}

/// stdout as a file, for bytes that a person has redirected to one. The caller makes sure that it is no terminal.
pub(crate) fn stdout_file() -> std::io::Result<std::fs::File> {
    Ok(rustix::stdio::stdout().try_clone_to_owned()?.into())
}

impl<'a> Piece<'a> {
    fn shown(self, escapes: bool, coloured: bool) -> Cow<'a, [u8]> {
        match self {
            Self::Styled(style, text) if coloured => {
                bytes(format!("{style}{}{style:#}", escape(text)).into())
            }
            Self::Text(text) | Self::Styled(_, text) if escapes => bytes(escape(text)),
            Self::Bytes(text) if escapes => bytes(escape_bytes(text)),
            Self::Json(json) if escapes => match std::str::from_utf8(json) {
                Ok(json) => bytes(escape::escape_json(json)),
                Err(_) => bytes(escape_bytes(json)),
            },
            Self::Rendered(text) if escapes => bytes(escape::escape_all_but_styles(text).into()),
            Self::Text(text) | Self::Styled(_, text) | Self::Rendered(text) => Cow::Borrowed(text.as_bytes()),
            Self::Bytes(text) | Self::Json(text) => Cow::Borrowed(text),
            Self::Own(text) => Cow::Borrowed(text.as_bytes()),
        }
    }
}

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

struct Unbuffered(Stream);

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(self.0.with_fd(|fd| rustix::io::write(fd, bytes))?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Escapes text that arrives in pieces of bytes, which may end within a character.
#[derive(Debug, Default)]
pub(crate) struct Relay {
    pending: Vec<u8>,
}

impl Relay {
    /// The part of the text that can be written now.
    pub(crate) fn push(&mut self, piece: &[u8]) -> String {
        self.pending.extend_from_slice(piece);
        let last = self.pending.utf8_chunks().last();
        let part = last.map_or(&[][..], |chunk| chunk.invalid());
        let waits = std::str::from_utf8(part).is_err_and(|error| error.error_len().is_none());
        let whole = self.pending.len() - if waits { part.len() } else { 0 };
        // A line end of two characters stays whole.
        let whole = whole - usize::from(self.pending[..whole].ends_with(b"\r"));
        let ready: Vec<u8> = self.pending.drain(..whole).collect();
        escape_bytes(&ready).into_owned()
    }

    /// The rest of the text.
    pub(crate) fn finish(self) -> String {
        escape_bytes(&self.pending).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_kugetsus_own_sequences_reach_a_terminal() {
        let evil = "\u{1b}[31m\u{202e}";
        let style = anstyle::AnsiColor::Green.on_default();
        let pieces = [
            (Piece::Text(evil), "^[[31m<U+202E>"),
            (Piece::Styled(style, evil), "\u{1b}[32m^[[31m<U+202E>\u{1b}[0m"),
            (Piece::Bytes(b"\x9b\x1b"), "<9B>^["),
            (Piece::Json("\"\u{202e}\"".as_bytes()), "\"\\u202e\""),
            (Piece::Json(b"\x9b\x1b"), "<9B>^["),
            (Piece::Rendered("\u{1b}[2Jx"), "^[[2Jx"),
            (Piece::Own("\r\u{1b}[2K"), "\r\u{1b}[2K"),
        ];
        for (piece, expected) in pieces {
            assert_eq!(
                String::from_utf8_lossy(&piece.shown(true, true)),
                expected,
                "{piece:?}"
            );
        }
        assert_eq!(&*Piece::Text(evil).shown(false, false), evil.as_bytes());
        assert_eq!(&*Piece::Styled(style, evil).shown(false, false), evil.as_bytes());
    }

    proptest! {
        /// Whatever is in a piece, a terminal gets no control character but those of kugetsu's own style around it.
        #[test]
        fn no_piece_can_carry_a_control_to_a_terminal(
            bytes in prop_oneof![
                any::<Vec<u8>>(),
                any::<String>().prop_map(String::into_bytes),
                "[\u{0}-\u{9f}\u{2028}-\u{202e}\u{2066}-\u{2069}]{0,40}".prop_map(String::into_bytes),
            ],
            coloured: bool,
        ) {
            let text = String::from_utf8_lossy(&bytes);
            let style = anstyle::AnsiColor::Green.on_default();
            let pieces = [Piece::Text(&text), Piece::Styled(style, &text), Piece::Bytes(&bytes), Piece::Json(&bytes)];
            for piece in pieces {
                let shown = piece.shown(true, coloured).into_owned();
                let shown = String::from_utf8(shown).expect("a terminal gets UTF-8");
                let shown = shown.strip_prefix("\u{1b}[32m").unwrap_or(&shown);
                let shown = shown.strip_suffix("\u{1b}[0m").unwrap_or(shown);
                let is_control = |c: char| {
                    (c.is_control() && c != '\n' && c != '\t')
                        || ('\u{2028}'..='\u{202e}').contains(&c)
                        || ('\u{2066}'..='\u{2069}').contains(&c)
                };
                prop_assert!(!shown.contains(is_control), "{:?}: {:?}", piece, shown);
            }
        }

        /// A text is escaped in the same way in whatever pieces it arrives.
        #[test]
        fn a_relay_escapes_pieces_as_the_whole(
            pieces in prop::collection::vec(prop_oneof![
                any::<Vec<u8>>(),
                "[\u{80}-\u{9f}a\r\n\u{1b}\u{202e}]{0,6}".prop_map(String::into_bytes),
            ], 0..6)
        ) {
            let whole = pieces.concat();
            // A joiner knows the character before it only within a piece.
            prop_assume!(!String::from_utf8_lossy(&whole).contains(['\u{200c}', '\u{200d}']));
            prop_assume!(!String::from_utf8_lossy(&whole).contains(|c| ('\u{fe00}'..='\u{fe0f}').contains(&c)));
            let mut relay = Relay::default();
            let mut relayed = String::new();
            for piece in &pieces {
                relayed += &relay.push(piece);
            }
            relayed += &relay.finish();
            prop_assert_eq!(relayed, escape_bytes(&whole));
        }
    }
}
