//! opencode's version.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A version as in semantic versioning; a pre-release comes before its release.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    major: u64,
    minor: u64,
    patch: u64,
    pre: String,
}

impl Version {
    /// A release.
    pub const fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self {
            major,
            minor,
            patch,
            pre: String::new(),
        }
    }

    /// The first number.
    pub fn major(&self) -> u64 {
        self.major
    }

    /// The second number.
    pub fn minor(&self) -> u64 {
        self.minor
    }

    /// The third number.
    pub fn patch(&self) -> u64 {
        self.patch
    }

    fn key(&self) -> (u64, u64, u64) {
        (self.major, self.minor, self.patch)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key()
            .cmp(&other.key())
            .then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                _ => compare_pre(&self.pre, &other.pre),
            })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Identifier by identifier; numbers as numbers and before words, the shorter list first.
fn compare_pre(a: &str, b: &str) -> Ordering {
    let key = |part: &str| match part.parse::<u64>() {
        Ok(number) => (0, number, String::new()),
        Err(_) => (1, 0, part.to_owned()),
    };
    // Different spellings of a number (`01`) must not be equal: `Eq` compares the text.
    a.split('.')
        .map(key)
        .cmp(b.split('.').map(key))
        .then_with(|| a.cmp(b))
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if self.pre.is_empty() {
            Ok(())
        } else {
            write!(f, "-{}", self.pre)
        }
    }
}

/// A text that is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no version such as 1.18.33")]
pub struct VersionError(String);

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let parse = || {
            let (text, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
            let (numbers, pre) = text.split_once('-').map_or((text, None), |(a, b)| (a, Some(b)));
            let identifiers = |list: &str| {
                list.split('.').all(|part| {
                    !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                })
            };
            if !pre.is_none_or(identifiers) || !build.is_none_or(identifiers) {
                return None;
            }
            let mut numbers = numbers
                .strip_prefix('v')
                .unwrap_or(numbers)
                .split('.')
                .map(|number| {
                    number
                        .bytes()
                        .all(|b| b.is_ascii_digit())
                        .then(|| number.parse::<u64>().ok())
                        .flatten()
                });
            let mut next = || numbers.next().flatten();
            let version = Self {
                major: next()?,
                minor: next()?,
                patch: next()?,
                pre: pre.unwrap_or("").to_owned(),
            };
            numbers.next().is_none().then_some(version)
        };
        parse().ok_or_else(|| VersionError(text.chars().take(40).collect()))
    }
}
