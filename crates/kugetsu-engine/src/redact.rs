//! Keeps secrets out of all written output, even if a tool prints one or the model repeats it.

use std::borrow::Cow;
use std::ops::Range;

use aho_corasick::AhoCorasick;

/// The replacement for a secret.
const MASK: &str = "***";
/// The shortest secret. Masking shorter values would mask ordinary words.
pub const SHORTEST: usize = 4;

/// Replaces secrets in text, including their forms inside JSON strings.
#[derive(Clone, Default)]
pub struct Redactor {
    forms: Vec<String>,
    /// Finds all forms in one pass; `None` if there are no secrets.
    matcher: Option<AhoCorasick>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} forms)", self.forms.len())
    }
}

impl Redactor {
    /// A redactor of these values.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a String>) -> Self {
        let mut forms = Vec::new();
        for secret in secrets {
            if secret.len() < SHORTEST {
                continue;
            }
            let quoted = serde_json::Value::from(secret.as_str()).to_string();
            let inner = quoted[1..quoted.len() - 1].to_owned();
            if inner != *secret {
                // A JSON document may be nested inside a JSON string.
                let twice = serde_json::Value::from(inner.as_str()).to_string();
                forms.push(twice[1..twice.len() - 1].to_owned());
                forms.push(inner);
            }
            forms.push(secret.clone());
            // Logs are written line by line, so each line of a key or certificate is a secret of its own.
            if secret.contains('\n') {
                forms.extend(
                    secret
                        .lines()
                        .filter(|line| line.len() >= 2 * SHORTEST)
                        .map(str::to_owned),
                );
            }
        }
        // Fails only if the forms have more bytes than an automaton has states: gigabytes.
        let matcher = AhoCorasick::new(&forms).expect("secrets fit into memory many times over");
        Self {
            matcher: (!forms.is_empty()).then_some(matcher),
            forms,
        }
    }

    /// Whether there are no secrets.
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// The ranges that hold secrets, in order. Overlapping forms are merged into one range, so that no part of either
    /// remains visible.
    fn secrets_in(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        // The matches arrive in the order of their ends.
        for found in self
            .matcher
            .iter()
            .flat_map(|matcher| matcher.find_overlapping_iter(bytes))
        {
            let mut range = found.range();
            while let Some(last) = ranges.pop_if(|last| last.end > range.start) {
                range.start = range.start.min(last.start);
            }
            ranges.push(range);
        }
        ranges
    }

    /// The text with secrets masked.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let secrets = self.secrets_in(text.as_bytes());
        if secrets.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut clean = String::with_capacity(text.len());
        let mut at = 0;
        for secret in secrets {
            clean.push_str(&text[at..secret.start]);
            clean.push_str(MASK);
            at = secret.end;
        }
        clean.push_str(&text[at..]);
        Cow::Owned(clean)
    }

    /// The bytes of a line with secrets masked.
    pub fn clean_bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let secrets = self.secrets_in(bytes);
        if secrets.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let mut clean = Vec::with_capacity(bytes.len());
        let mut at = 0;
        for secret in secrets {
            clean.extend_from_slice(&bytes[at..secret.start]);
            clean.extend_from_slice(MASK.as_bytes());
            at = secret.end;
        }
        clean.extend_from_slice(&bytes[at..]);
        Cow::Owned(clean)
    }

    /// The number of bytes at the end of the text that might be the beginning of a secret.
    pub(crate) fn undecided(&self, text: &str) -> usize {
        let longest = self.forms.iter().map(String::len).max().unwrap_or(0);
        let from = text.floor_char_boundary(text.len().saturating_sub(longest.saturating_sub(1)));
        text[from..]
            .char_indices()
            .map(|(at, _)| &text[from + at..])
            .find(|tail| self.forms.iter().any(|form| form.starts_with(tail)))
            .map_or(0, str::len)
    }
}

/// Redacts text that arrives in pieces: text that might be the beginning of a secret is held back.
#[derive(Debug, Default)]
pub struct Pieces {
    held: String,
}

impl Pieces {
    /// Takes a piece and returns the text that is safe to pass on.
    pub fn push(&mut self, redactor: &Redactor, piece: &str) -> String {
        if redactor.is_empty() {
            return piece.to_owned();
        }
        self.held.push_str(piece);
        let clean = redactor.clean(&self.held).into_owned();
        let keep = redactor.undecided(&clean);
        let (pass, held) = clean.split_at(clean.len() - keep);
        let pass = pass.to_owned();
        self.held = held.to_owned();
        pass
    }

    /// Returns the remaining text after the last piece.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_pieces_is_masked_wherever_it_is_cut() {
        let secret = "s3cr\"et-töken".to_owned();
        let redactor = Redactor::new([&secret]);
        let text = format!("before {secret} after s3cr and s3");
        for cut in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
            let mut pieces = Pieces::default();
            let mut out = pieces.push(&redactor, &text[..cut]);
            out += &pieces.push(&redactor, &text[cut..]);
            out += &pieces.finish();
            assert_eq!(out, "before *** after s3cr and s3", "cut at {cut}");
        }
    }

    #[test]
    fn nothing_of_secrets_that_overlap_is_left() {
        let secrets = ["abcdef".to_owned(), "defghij".to_owned(), "efgh".to_owned()];
        let redactor = Redactor::new(&secrets);
        for (text, clean) in [
            ("xabcdefghijx", "x***x"),
            ("abcdefgh", "***"),
            ("abcdefefgh", "******"),
            ("abcdef abcde", "*** abcde"),
            ("", ""),
        ] {
            assert_eq!(redactor.clean(text), clean);
            assert_eq!(&*redactor.clean_bytes(text.as_bytes()), clean.as_bytes());
        }
        let line = [b"\xff".as_slice(), b"defghij", b"\xfe"].concat();
        assert_eq!(&*redactor.clean_bytes(&line), b"\xff***\xfe");
    }

    #[test]
    fn the_form_inside_json_is_masked_as_well() {
        let secret = "line one\nline \"two\"".to_owned();
        let redactor = Redactor::new([&secret]);
        let once = serde_json::json!({"output": secret}).to_string();
        let twice = serde_json::json!({"output": once}).to_string();
        for text in [once, twice] {
            let clean = redactor.clean(&text).into_owned();
            assert!(!clean.contains("line one"), "{clean}");
        }
    }
}
