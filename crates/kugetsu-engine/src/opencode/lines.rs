//! Cuts a stream of bytes into lines with bounded memory.

/// The longest line that is kept whole, in bytes: an answer of a model is a line of `opencode run` and an event of a
/// server. A turn holds such a line a few times in memory.
pub const MAX_LINE: usize = 16 * 1024 * 1024;

/// The part of a line longer than [`MAX_LINE`] that is kept, in bytes.
pub const MAX_PREFIX: usize = 64 * 1024;

/// A line, without its line feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitLine<'a> {
    /// The whole line.
    Whole(&'a [u8]),
    /// A line of more than [`MAX_LINE`] bytes.
    TooLong {
        /// Its first [`MAX_PREFIX`] bytes.
        prefix: &'a [u8],
        /// The length of the line, in bytes.
        length: u64,
    },
}

/// Takes chunks of bytes and emits lines. A line within one chunk is emitted without a copy.
#[derive(Debug, Default)]
pub struct LineSplitter {
    /// The beginning of a line whose end has not arrived yet.
    partial: Vec<u8>,
    /// The length of that line so far, if the line is too long to be kept.
    overlong: Option<u64>,
}

impl LineSplitter {
    /// Takes the next bytes and passes each completed line to `each`.
    pub fn push(&mut self, mut chunk: &[u8], mut each: impl FnMut(SplitLine<'_>)) {
        while let Some(end) = chunk.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = (&chunk[..end], &chunk[end + 1..]);
            if self.partial.is_empty() && self.overlong.is_none() && line.len() <= MAX_LINE {
                each(SplitLine::Whole(line));
            } else {
                self.append(line);
                self.emit(&mut each);
            }
            chunk = rest;
        }
        self.append(chunk);
    }

    /// Emits the text after the last line feed, if there is any.
    pub fn finish(mut self, mut each: impl FnMut(SplitLine<'_>)) {
        if !self.partial.is_empty() {
            self.emit(&mut each);
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(length) = &mut self.overlong {
            *length += bytes.len() as u64;
        } else if self.partial.len() + bytes.len() <= MAX_LINE {
            self.partial.extend_from_slice(bytes);
        } else {
            self.overlong = Some((self.partial.len() + bytes.len()) as u64);
            let missing = MAX_PREFIX.saturating_sub(self.partial.len());
            self.partial.truncate(MAX_PREFIX);
            self.partial.extend_from_slice(&bytes[..missing.min(bytes.len())]);
            self.partial.shrink_to(MAX_PREFIX);
        }
    }

    fn emit(&mut self, each: &mut impl FnMut(SplitLine<'_>)) {
        each(match self.overlong.take() {
            None => SplitLine::Whole(&self.partial),
            Some(length) => SplitLine::TooLong {
                prefix: &self.partial,
                length,
            },
        });
        self.partial.clear();
        self.partial.shrink_to(MAX_PREFIX);
    }
}
