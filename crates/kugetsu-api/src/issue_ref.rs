//! References to issues and repositories, as people and records write them.
//!
//! Equality, order, hashes and files go by the canonical form, `instance/owner[/group...]/repo#number` in lower
//! case: no forge tells two repositories apart by case alone. Every accepted character is plain ASCII and safe in
//! a file name, so a reference can never lead outside the folder that it is resolved in.

mod error;
#[cfg(test)]
mod tests;
mod url;

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

pub use error::RefError;
pub(crate) use url::scheme;

/// The longest canonical form of an issue, in bytes.
pub(crate) const MAX_BYTES: usize = 1000;
/// The longest canonical form of a repository: leaves room for `#` and the largest number.
const MAX_REPO_BYTES: usize = MAX_BYTES - 21;
/// The longest segment, in bytes: leaves room for endings in a file name of 255.
const MAX_SEGMENT_BYTES: usize = 200;
/// The most segments after the instance.
const MAX_SEGMENTS: usize = 20;

/// A repository on a forge: `instance/owner[/group...]/repo`, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoRef(String);

/// An issue (or pull request) of a repository: `instance/owner[/group...]/repo#number`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IssueRef {
    repo: RepoRef,
    number: u64,
}

/// What completes a short reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefContext {
    /// The instance of `owner/repo#14`.
    pub default_instance: Option<String>,
    /// The repository of `#14` and `14`: that of the clone.
    pub origin: Option<RepoRef>,
}

impl IssueRef {
    /// The issue's address in a browser. Forges forward it where they use another form, such as GitLab's `/-/issues/`,
    /// or if the number belongs to a pull request.
    pub fn url(&self) -> String {
        format!("https://{}/issues/{}", self.repo(), self.number())
    }

    /// The issue `number`, which is at least 1, of `repo`.
    pub fn new(repo: RepoRef, number: u64) -> Result<Self, RefError> {
        if number == 0 {
            let text = format!("{repo}#0");
            return Err(RefError::BadNumber {
                text,
                number: "0".to_owned(),
            });
        }
        Ok(Self { repo, number })
    }

    /// Reads every form that a person may write: the canonical one in any case, `owner/repo#14`, `#14`, `14`, and
    /// the URL of an issue or pull request on GitHub, GitLab, Gitea, Forgejo or Codeberg.
    pub fn parse(text: &str, context: &RefContext) -> Result<Self, RefError> {
        if let Some(scheme) = scheme(text) {
            return url::issue(text, scheme);
        }
        Self::read(Piece::whole(text)?, context)
    }

    /// As [`IssueRef::parse`], except that it may be part of a longer text and is not a URL.
    pub(crate) fn read(piece: Piece<'_>, context: &RefContext) -> Result<Self, RefError> {
        if !piece.is_empty() && piece.bytes().all(|byte| byte.is_ascii_digit()) {
            return Self::new(origin(piece, context)?, number(piece)?);
        }
        match piece.split_once('#') {
            None => {
                repo(piece, context)?;
                Err(RefError::NoNumber {
                    text: piece.whole.to_owned(),
                })
            }
            Some((before, after)) if before.is_empty() => {
                let number = number(after)?;
                Self::new(origin(piece, context)?, number)
            }
            Some((before, after)) => {
                let repo = repo(before, context)?;
                Self::new(repo, number(after)?)
            }
        }
    }

    /// The repository.
    pub fn repo(&self) -> &RepoRef {
        &self.repo
    }

    /// The issue's number, at least 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The forge's host, with its port if it has one.
    pub fn instance(&self) -> &str {
        self.repo.instance()
    }

    /// Owner, groups and repository, in order.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.repo.segments()
    }

    /// The repository's own name: the last segment.
    pub fn name(&self) -> &str {
        self.repo.name()
    }
}

impl RepoRef {
    /// Reads `instance/owner/repo`, `owner/repo`, the repository's web address or its git remote.
    pub fn parse(text: &str, context: &RefContext) -> Result<Self, RefError> {
        if let Some(scheme) = scheme(text) {
            return match scheme {
                "http" | "https" => url::repo(text, scheme),
                _ => url::remote(text),
            };
        }
        if text.contains('@') {
            return url::remote(text);
        }
        if text.contains('#') {
            return Err(RefError::NotARepo {
                text: text.to_owned(),
            });
        }
        repo(Piece::whole(text)?, context)
    }

    /// Reads the address of a git remote: `https://host/owner/repo.git`, `ssh://git@host/owner/repo.git`,
    /// `git@host:owner/repo.git`, `git://host/owner/repo`.
    ///
    /// A port of an `ssh://` or `git://` address is dropped: it is not the port that the forge's web pages have, which
    /// is the one that belongs to an instance. The special hosts that some forges have for ssh over port 443
    /// (`ssh.github.com`) stand for the forge itself.
    pub fn from_remote_url(url: &str) -> Result<Self, RefError> {
        url::remote(url)
    }

    /// The forge's host, with its port if it has one.
    pub fn instance(&self) -> &str {
        self.0
            .split_once('/')
            .map_or(self.0.as_str(), |(instance, _)| instance)
    }

    /// Owner, groups and repository, in order: at least two.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.0.split('/').skip(1).collect::<Vec<_>>().into_iter()
    }

    /// The repository's own name: the last segment.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(_, name)| name)
    }

    /// The canonical form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks every part and joins the parts in lower case. Drops `.git` at the end: git names the folder so, and
    /// forges refuse it in a name.
    fn assemble(instance: &str, segments: &[Piece<'_>]) -> Result<Self, RefError> {
        let Some(last) = segments.last() else {
            return Err(RefError::TooFewSegments { text: String::new() });
        };
        let text = || last.whole.to_owned();
        if segments.len() < 2 {
            return Err(RefError::TooFewSegments { text: text() });
        }
        if segments.len() > MAX_SEGMENTS {
            let count = segments.len();
            return Err(RefError::TooManySegments {
                text: text(),
                count,
                max: MAX_SEGMENTS,
            });
        }
        let mut canonical = String::with_capacity(last.whole.len() + instance.len());
        canonical.push_str(instance);
        for (index, segment) in segments.iter().enumerate() {
            let mut segment = *segment;
            if index + 1 == segments.len() {
                while segment.len() >= 4
                    && segment.as_bytes()[segment.len() - 4..].eq_ignore_ascii_case(b".git")
                {
                    segment.text = &segment.text[..segment.len() - 4];
                }
            }
            segment.check()?;
            canonical.push('/');
            canonical.push_str(segment.text);
        }
        canonical.make_ascii_lowercase();
        if canonical.len() > MAX_REPO_BYTES {
            let bytes = canonical.len();
            return Err(RefError::TooLong {
                text: text(),
                bytes,
                max: MAX_REPO_BYTES,
            });
        }
        Ok(Self(canonical))
    }
}

/// A piece of the text, with its position for the messages.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub(crate) whole: &'a str,
    pub(crate) start: usize,
    pub(crate) text: &'a str,
}

impl std::ops::Deref for Piece<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.text
    }
}

impl<'a> Piece<'a> {
    /// The whole text, when it is neither empty nor too long.
    fn whole(text: &'a str) -> Result<Self, RefError> {
        Self::whole_up_to(text, MAX_BYTES)
    }

    /// As [`Piece::whole`], with a limit in bytes.
    pub(crate) fn whole_up_to(text: &'a str, max: usize) -> Result<Self, RefError> {
        if text.is_empty() {
            return Err(RefError::Empty);
        }
        if text.len() > max {
            return Err(RefError::TooLong {
                text: text.to_owned(),
                bytes: text.len(),
                max,
            });
        }
        Ok(Self {
            whole: text,
            start: 0,
            text,
        })
    }

    /// `length` bytes from `offset` on; both on character boundaries.
    pub(crate) fn part(self, offset: usize, length: usize) -> Self {
        Self {
            whole: self.whole,
            start: self.start + offset,
            text: &self.text[offset..offset + length],
        }
    }

    pub(crate) fn split_once(self, separator: char) -> Option<(Self, Self)> {
        let at = self.text.find(separator)?;
        let after = at + separator.len_utf8();
        Some((self.part(0, at), self.part(after, self.text.len() - after)))
    }

    pub(crate) fn rsplit_once(self, separator: char) -> Option<(Self, Self)> {
        let at = self.text.rfind(separator)?;
        let after = at + separator.len_utf8();
        Some((self.part(0, at), self.part(after, self.text.len() - after)))
    }

    fn segments(self) -> Vec<Self> {
        let mut offset = 0;
        self.text
            .split('/')
            .map(|segment| {
                let piece = self.part(offset, segment.len());
                offset += segment.len() + 1;
                piece
            })
            .collect()
    }

    /// The position of the byte `offset` in the whole text, in characters from 1.
    fn position(self, offset: usize) -> usize {
        self.whole[..self.start + offset].chars().count() + 1
    }

    /// Refuses the first character that `good` does not accept.
    pub(crate) fn check_characters(
        self,
        part: &'static str,
        allowed: &'static str,
        good: impl Fn(char) -> bool,
    ) -> Result<(), RefError> {
        match self.text.char_indices().find(|(_, character)| !good(*character)) {
            None => Ok(()),
            Some((offset, character)) => Err(RefError::BadCharacter {
                text: self.whole.to_owned(),
                character,
                position: self.position(offset),
                part,
                allowed,
            }),
        }
    }

    /// Checks a segment after the instance.
    fn check(self) -> Result<(), RefError> {
        self.check_characters(
            "owner, group or repository",
            "`.`, `_`, `-`, `~`, `+`",
            |character| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-' | '~' | '+'),
        )?;
        if matches!(self.text, "" | "." | "..") {
            let segment = self.text.to_owned();
            return Err(RefError::BadSegment {
                text: self.whole.to_owned(),
                segment,
                position: self.position(0),
            });
        }
        self.check_length()
    }

    fn check_length(self) -> Result<(), RefError> {
        if self.text.len() > MAX_SEGMENT_BYTES {
            return Err(RefError::SegmentTooLong {
                text: self.whole.to_owned(),
                position: self.position(0),
                bytes: self.text.len(),
                max: MAX_SEGMENT_BYTES,
            });
        }
        Ok(())
    }
}

/// Checks a host with an optional port. Returns it in lower case, and the port without leading zeros.
fn instance(piece: Piece<'_>) -> Result<String, RefError> {
    let bad = |why| RefError::BadInstance {
        text: piece.whole.to_owned(),
        instance: piece.text.to_owned(),
        why,
    };
    let (host, port) = match piece.split_once(':') {
        None => (piece, None),
        Some((host, port)) => (host, Some(port)),
    };
    host.check_characters("host", "`.`, `-`", |character| {
        character.is_ascii_alphanumeric() || matches!(character, '.' | '-')
    })?;
    if host
        .split('.')
        .any(|label| label.is_empty() || label.starts_with('-') || label.ends_with('-'))
    {
        return Err(bad("a part of the host is empty or begins or ends with `-`"));
    }
    piece.check_length()?;
    let mut canonical = host.to_ascii_lowercase();
    match port {
        Some(port) => {
            port.check_characters("port", "nothing else", |character| character.is_ascii_digit())?;
            match port.parse::<u16>() {
                Ok(port) if port != 0 => {
                    canonical.push(':');
                    canonical.push_str(&port.to_string());
                }
                _ => return Err(bad("the port is not a number from 1 to 65535")),
            }
        }
        None if canonical.contains('.') || canonical == "localhost" => {}
        None => return Err(bad("it has neither a dot nor a port")),
    }
    Ok(canonical)
}

/// Whether a first segment counts as an instance: no owner has a port, and few have a dot.
fn looks_like_instance(segment: &str) -> bool {
    segment.contains(['.', ':']) || segment.eq_ignore_ascii_case("localhost")
}

/// Reads `instance/owner/repo` and `owner/repo`.
pub(crate) fn repo(piece: Piece<'_>, context: &RefContext) -> Result<RepoRef, RefError> {
    let text = || piece.whole.to_owned();
    let segments = piece.segments();
    if let Some(empty) = segments.iter().find(|segment| segment.is_empty()) {
        return Err(RefError::BadSegment {
            text: text(),
            segment: String::new(),
            position: empty.position(0),
        });
    }
    let first = segments[0];
    let default = context.default_instance.as_deref();
    match segments.len() {
        1 => {
            first.check()?;
            Err(RefError::TooFewSegments { text: text() })
        }
        2 => {
            let names_instance = first.contains(':')
                || ["localhost"]
                    .into_iter()
                    .chain(default)
                    .any(|known| first.eq_ignore_ascii_case(known));
            if names_instance {
                return Err(RefError::TooFewSegments { text: text() });
            }
            for segment in &segments {
                segment.check()?;
            }
            let default = default.ok_or_else(|| RefError::NoDefaultInstance { text: text() })?;
            RepoRef::assemble(&instance(Piece::whole(default)?)?, &segments)
        }
        _ if looks_like_instance(&first) => RepoRef::assemble(&instance(first)?, &segments[1..]),
        _ => {
            for segment in &segments {
                segment.check()?;
            }
            Err(RefError::NoInstance {
                text: text(),
                first: first.text.to_owned(),
            })
        }
    }
}

pub(crate) fn origin(piece: Piece<'_>, context: &RefContext) -> Result<RepoRef, RefError> {
    context.origin.clone().ok_or_else(|| RefError::NotInClone {
        text: piece.whole.to_owned(),
    })
}

/// Reads an issue's number. Ignores leading zeros.
pub(crate) fn number(piece: Piece<'_>) -> Result<u64, RefError> {
    let bad = || RefError::BadNumber {
        text: piece.whole.to_owned(),
        number: piece.text.to_owned(),
    };
    // `parse` alone would accept a plus sign.
    if !piece.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    match piece.parse() {
        Ok(0) | Err(_) => Err(bad()),
        Ok(number) => Ok(number),
    }
}

thread_local! {
    /// The repository that was read last. Ten thousand records of one repository name it twice each, and repeated
    /// checks would take a tenth of the time of a listing.
    static LAST: RefCell<Option<RepoRef>> = const { RefCell::new(None) };
}

/// Reads the full form of a repository, as files contain it.
pub(crate) fn repo_in_full(piece: Piece<'_>) -> Result<RepoRef, RefError> {
    LAST.with_borrow_mut(|last| match last {
        // A canonical text is already parsed.
        Some(last) if last.0 == piece.text => Ok(last.clone()),
        _ => {
            let repo = repo(piece, &RefContext::default())?;
            *last = Some(repo.clone());
            Ok(repo)
        }
    })
}

impl TryFrom<String> for RepoRef {
    type Error = RefError;

    fn try_from(text: String) -> Result<Self, RefError> {
        repo_in_full(Piece::whole(&text)?)
    }
}

impl TryFrom<String> for IssueRef {
    type Error = RefError;

    fn try_from(text: String) -> Result<Self, RefError> {
        let Some((before, after)) = Piece::whole(&text)?.split_once('#') else {
            return Err(RefError::NoNumber { text });
        };
        Self::new(repo_in_full(before)?, number(after)?)
    }
}

impl From<RepoRef> for String {
    fn from(repo: RepoRef) -> Self {
        repo.0
    }
}

impl From<IssueRef> for String {
    fn from(issue: IssueRef) -> Self {
        issue.to_string()
    }
}

impl std::fmt::Display for RepoRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for IssueRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.repo, self.number)
    }
}
