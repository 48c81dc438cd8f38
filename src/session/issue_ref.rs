//! Issue references (interface only, to be filled).

use serde::{Deserialize, Serialize};

/// A repository on a forge: `instance/owner[/group...]/repo`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoRef(String);

/// An issue (or pull request) of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IssueRef {
    repo: RepoRef,
    number: u64,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad ref")]
pub struct RefError;

impl TryFrom<String> for RepoRef {
    type Error = RefError;
    fn try_from(s: String) -> Result<Self, RefError> {
        Ok(Self(s))
    }
}
impl From<RepoRef> for String {
    fn from(r: RepoRef) -> Self {
        r.0
    }
}
impl TryFrom<String> for IssueRef {
    type Error = RefError;
    fn try_from(s: String) -> Result<Self, RefError> {
        let (a, b) = s.split_once('#').ok_or(RefError)?;
        Ok(Self {
            repo: RepoRef(a.into()),
            number: b.parse().map_err(|_| RefError)?,
        })
    }
}
impl From<IssueRef> for String {
    fn from(r: IssueRef) -> Self {
        format!("{}#{}", r.repo.0, r.number)
    }
}
impl IssueRef {
    /// repo
    pub fn repo(&self) -> &RepoRef {
        &self.repo
    }
    /// number
    pub fn number(&self) -> u64 {
        self.number
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
