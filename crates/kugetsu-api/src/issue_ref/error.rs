//! Why a text is not a valid reference, and what to write instead.

/// Why a text is not a valid reference. Every message shows the text with everything unusual escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefError {
    /// The text is empty.
    #[error("the reference is empty; write instance/owner/repo#number, such as github.com/shoko/kugetsu#14")]
    Empty,
    /// The text is longer than any forge allows.
    #[error("`{}` is too long: {bytes} bytes, at most {max} are allowed", Shown(.text))]
    TooLong {
        /// The text.
        text: String,
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// One segment is longer than a file name may be.
    #[error("`{}` has a segment that is too long at character {position}: {bytes} bytes, at most {max} are allowed", Shown(.text))]
    SegmentTooLong {
        /// The text.
        text: String,
        /// The segment's position, in characters from 1.
        position: usize,
        /// The segment's length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The text has more segments than any forge allows.
    #[error("`{}` has {count} segments, at most {max} are allowed", Shown(.text))]
    TooManySegments {
        /// The text.
        text: String,
        /// How many there are.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A character that cannot be part of a reference.
    #[error("`{}` holds the character '{}' at position {position}, which no {part} may have: it takes ASCII letters, digits and {allowed}", Shown(.text), .character.escape_default())]
    BadCharacter {
        /// The text.
        text: String,
        /// The character.
        character: char,
        /// Its position, in characters from 1.
        position: usize,
        /// The part of the reference that it is in.
        part: &'static str,
        /// The other characters that this part may contain.
        allowed: &'static str,
    },
    /// An empty segment, `.` or `..`.
    #[error("`{}` has {} at character {position}; every segment between slashes needs a name", Shown(.text), if .segment.is_empty() { "an empty segment".to_owned() } else { format!("the segment `{}`", Shown(.segment)) })]
    BadSegment {
        /// The text.
        text: String,
        /// The segment.
        segment: String,
        /// Its position, in characters from 1.
        position: usize,
    },
    /// The first part is not a host with an optional port.
    #[error("`{}`: `{}` is not a valid instance: {why}; write the forge's host, such as github.com or git.example.org:3000", Shown(.text), Shown(.instance))]
    BadInstance {
        /// The text.
        text: String,
        /// The part in question.
        instance: String,
        /// Why it is not valid.
        why: &'static str,
    },
    /// Three or more segments, and the first is not an instance.
    #[error("`{}` does not begin with an instance (`{}` has no dot and no port); write the instance first, such as github.com/{}", Shown(.text), Shown(.first), Shown(.text))]
    NoInstance {
        /// The text.
        text: String,
        /// Its first segment.
        first: String,
    },
    /// Owner and repository only, and no default instance.
    #[error("`{}` has no instance, and no default instance is configured; write github.com/{}, or set `instance` in config.toml", Shown(.text), Shown(.text))]
    NoDefaultInstance {
        /// The text.
        text: String,
    },
    /// A number alone, outside a clone.
    #[error("`{}` alone needs a clone with a remote as the current directory; write the whole reference, such as github.com/shoko/kugetsu#14", Shown(.text))]
    NotInClone {
        /// The text.
        text: String,
    },
    /// Not enough segments for owner and repository.
    #[error("`{}` is not an issue or a repository: use 14, owner/repo#14 or its URL", Shown(.text))]
    TooFewSegments {
        /// The text.
        text: String,
    },
    /// A repository without an issue's number.
    #[error("`{}` has no issue number; write it after `#`, such as github.com/shoko/kugetsu#14, or give the issue's URL with https://", Shown(.text))]
    NoNumber {
        /// The text.
        text: String,
    },
    /// A number that no issue has.
    #[error("`{}`: `{}` is not a valid issue number; write digits only, from 1 to {}", Shown(.text), Shown(.number), u64::MAX)]
    BadNumber {
        /// The text.
        text: String,
        /// The part in question.
        number: String,
    },
    /// A role, or a session's name, that is not valid.
    #[error("`{}`: `{}` is not a valid {part}: {why}", Shown(.text), Shown(.name))]
    BadName {
        /// The text.
        text: String,
        /// The part in question.
        name: String,
        /// Which part it is.
        part: &'static str,
        /// Why it is not valid.
        why: &'static str,
    },
    /// An issue where a repository is meant.
    #[error("`{}` names an issue where a repository is asked for; leave out the `#` and what follows", Shown(.text))]
    NotARepo {
        /// The text.
        text: String,
    },
    /// A URL that is not one of an issue or a pull request.
    #[error("`{}` is not the address of an issue or a pull request; expected .../owner/repo/issues/14, .../pull/14 or .../-/issues/14", Shown(.text))]
    NotAnIssueUrl {
        /// The text.
        text: String,
    },
    /// A URL of another scheme.
    #[error("`{}` has the scheme `{}`, which leads to no forge; write an https:// address or instance/owner/repo", Shown(.text), Shown(.scheme))]
    Scheme {
        /// The text.
        text: String,
        /// Its scheme.
        scheme: String,
    },
    /// A remote that is a folder of this machine.
    #[error("the remote `{}` is a path on this machine and names no forge; write the whole reference, such as github.com/shoko/kugetsu#14", Shown(.text))]
    LocalRemote {
        /// The remote's address.
        text: String,
    },
}

/// Text from outside, made safe for a terminal and short enough for a line. A URL's user and password are not shown.
struct Shown<'a>(&'a str);

impl Shown<'_> {
    /// The text in three pieces, the middle one being what is hidden.
    fn pieces(&self) -> (&str, Option<&str>, &str) {
        if let Some(start) = self.0.find("://").map(|at| at + 3) {
            let authority = self.0[start..].split(['/', '?', '#']).next().unwrap_or_default();
            if let Some(at) = authority.rfind('@') {
                return (&self.0[..start], Some("***"), &self.0[start + at..]);
            }
        }
        (self.0, None, "")
    }
}

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const LIMIT: usize = 80;
        let (before, hidden, after) = self.pieces();
        let mut characters = before
            .chars()
            .chain(hidden.unwrap_or_default().chars())
            .chain(after.chars());
        for character in characters.by_ref().take(LIMIT) {
            write!(f, "{}", character.escape_default())?;
        }
        if characters.next().is_some() {
            f.write_str("...")?;
        }
        Ok(())
    }
}
