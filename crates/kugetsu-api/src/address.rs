//! An address names a session and thereby all its files.
//!
//! An address is an issue (`REPO#14`), a role of an issue (`REPO#14/review`), or a session that has no issue
//! (`REPO~nightly`). Like repositories, roles and session names are case-insensitive and stored in lower case.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::issue_ref::{MAX_BYTES, Piece, number, origin, repo, repo_in_full, scheme};
use crate::{IssueRef, RefContext, RefError, RepoRef};

/// The longest role or name, in bytes. Together with the longest number it stays short enough for a file name.
const MAX_NAME_BYTES: usize = 64;
/// The longest canonical address, in bytes: an issue, `/` and a role.
const MAX_ADDRESS_BYTES: usize = MAX_BYTES + 1 + MAX_NAME_BYTES;

/// The address of a session. Equality, order and file names use the canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// The session of an issue: `instance/owner/repo#14`.
    Issue(IssueRef),
    /// A further session of an issue: `instance/owner/repo#14/review`.
    Role(IssueRef, AddressName),
    /// A session that has no issue: `instance/owner/repo~nightly`.
    Named(RepoRef, AddressName),
}

/// A role of an issue, or the name of a session without an issue.
///
/// It has 1 to 64 ASCII letters (kept in lower case), digits, `.`, `-` and `_`, and begins with a letter or a digit,
/// so that it is never taken for an option or a hidden file. A dot is followed by a digit, as in `1.2`: the endings of
/// files (`.json`, `.lock`) and `..` are not possible.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressName(String);

impl Address {
    /// Reads every form that a person may write: those of [`IssueRef::parse`], an issue followed by `/ROLE`, and
    /// `instance/owner/repo~NAME`, `owner/repo~NAME` or `~NAME`.
    pub fn parse(text: &str, context: &RefContext) -> Result<Self, RefError> {
        if scheme(text).is_some() {
            return IssueRef::parse(text, context).map(Self::Issue);
        }
        let piece = Piece::whole_up_to(text, MAX_ADDRESS_BYTES)?;
        if let Some((issue, role)) = role_of(piece) {
            let issue = IssueRef::read(issue, context)?;
            return Ok(Self::Role(issue, AddressName::read(role, ROLE)?));
        }
        if let Some((before, name)) = name_of(piece) {
            let repo = if before.is_empty() {
                origin(before, context)?
            } else {
                repo(before, context)?
            };
            return Ok(Self::Named(repo, AddressName::read(name, NAME)?));
        }
        IssueRef::parse(text, context).map(Self::Issue)
    }

    /// The repository.
    pub fn repo(&self) -> &RepoRef {
        match self {
            Self::Issue(issue) | Self::Role(issue, _) => issue.repo(),
            Self::Named(repo, _) => repo,
        }
    }

    /// The issue that the session works on, if it has one.
    pub fn issue(&self) -> Option<&IssueRef> {
        match self {
            Self::Issue(issue) | Self::Role(issue, _) => Some(issue),
            Self::Named(..) => None,
        }
    }

    /// The role, if the address has one.
    pub fn role(&self) -> Option<&AddressName> {
        match self {
            Self::Role(_, role) => Some(role),
            Self::Issue(_) | Self::Named(..) => None,
        }
    }

    /// The name, if the session has no issue.
    pub fn name(&self) -> Option<&AddressName> {
        match self {
            Self::Named(_, name) => Some(name),
            Self::Issue(_) | Self::Role(..) => None,
        }
    }

    /// The forge's host, with its port if it has one.
    pub fn instance(&self) -> &str {
        self.repo().instance()
    }

    /// Owner, groups and repository, in order.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.repo().segments()
    }

    /// Whether a text takes its repository from the current clone: `14`, `#14`, `14/review`, `~NAME`.
    pub fn needs_clone(text: &str) -> bool {
        let name = text.strip_prefix('~');
        // In `~owner/repo#14`, the owner begins with `~`.
        if text.starts_with('#') || name.is_some_and(|name| !name.contains(['/', '#', '~'])) {
            return true;
        }
        let number = text.split_once('/').map_or(text, |(number, _)| number);
        !text.contains(['#', '~']) && is_number(number)
    }
}

const ROLE: &str = "role";
const NAME: &str = "session name";

/// The issue and the role, if the text has a role. A number with nothing before it needs no `#`.
fn role_of(piece: Piece<'_>) -> Option<(Piece<'_>, Piece<'_>)> {
    let at = match piece.find('#') {
        Some(hash) => hash + piece[hash..].find('/')?,
        None if piece.contains('~') => return None,
        None => piece.find('/').filter(|slash| is_number(&piece[..*slash]))?,
    };
    Some((piece.part(0, at), piece.part(at + 1, piece.len() - at - 1)))
}

/// The repository, which may be left out, and the name. Repositories and groups may contain `~`; names may not.
fn name_of(piece: Piece<'_>) -> Option<(Piece<'_>, Piece<'_>)> {
    if piece.contains('#') {
        return None;
    }
    let (before, name) = piece.rsplit_once('~')?;
    // `~owner/repo`, `host/~owner`: a repository, and no number.
    (!name.contains('/') && !before.ends_with('/')).then_some((before, name))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl AddressName {
    /// Reads a role or a name, in any case.
    pub fn new(text: &str) -> Result<Self, RefError> {
        Self::read(
            Piece {
                whole: text,
                start: 0,
                text,
            },
            "role or session name",
        )
    }

    /// The role or name, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn read(piece: Piece<'_>, part: &'static str) -> Result<Self, RefError> {
        let bad = |why| {
            Err(RefError::BadName {
                text: piece.whole.to_owned(),
                name: piece.text.to_owned(),
                part,
                why,
            })
        };
        if piece.is_empty() {
            return bad("it is empty");
        }
        piece.check_characters(part, "`.`, `-`, `_`", |character| {
            character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_')
        })?;
        if piece.len() > MAX_NAME_BYTES {
            return bad("it is longer than 64 characters");
        }
        if !piece.as_bytes()[0].is_ascii_alphanumeric() {
            return bad("it does not begin with a letter or a digit");
        }
        if piece
            .split('.')
            .skip(1)
            .any(|part| !part.starts_with(|first: char| first.is_ascii_digit()))
        {
            return bad("a dot needs a digit behind it, as in 1.2");
        }
        Ok(Self(piece.to_ascii_lowercase()))
    }
}

impl From<IssueRef> for Address {
    fn from(issue: IssueRef) -> Self {
        Self::Issue(issue)
    }
}

/// Reads the canonical form, as records have it.
impl TryFrom<String> for Address {
    type Error = RefError;

    fn try_from(text: String) -> Result<Self, RefError> {
        let piece = Piece::whole_up_to(&text, MAX_ADDRESS_BYTES)?;
        let Some((before, after)) = piece.split_once('#') else {
            let Some((before, name)) = name_of(piece) else {
                return Err(RefError::NoNumber { text });
            };
            return Ok(Self::Named(repo_in_full(before)?, AddressName::read(name, NAME)?));
        };
        let repo = repo_in_full(before)?;
        Ok(match after.split_once('/') {
            None => Self::Issue(IssueRef::new(repo, number(after)?)?),
            Some((digits, role)) => Self::Role(
                IssueRef::new(repo, number(digits)?)?,
                AddressName::read(role, ROLE)?,
            ),
        })
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Issue(issue) => issue.fmt(f),
            Self::Role(issue, role) => write!(f, "{issue}/{role}"),
            Self::Named(repo, name) => write!(f, "{repo}~{name}"),
        }
    }
}

impl std::fmt::Display for AddressName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// By repository. Within one, issues by number, each before its roles, then sessions without an issue.
impl Ord for Address {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        fn rank(address: &Address) -> (bool, Option<&IssueRef>, Option<&AddressName>) {
            let of_issue = address.role().or(address.name());
            (address.issue().is_none(), address.issue(), of_issue)
        }
        (self.repo(), rank(self)).cmp(&(other.repo(), rank(other)))
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
