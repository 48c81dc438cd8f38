//! opencode's version.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A version as in semantic versioning; a pre-release comes before its release.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(semver::Version);

impl Version {
    /// A release.
    pub const fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self(semver::Version::new(major, minor, patch))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

/// A text that is not a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version such as 1.18.33")]
pub struct VersionError(String);

/// Also accepts `v1.18.33`. Ignores build metadata, which does not distinguish versions.
impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let parsed = semver::Version::parse(text.strip_prefix('v').unwrap_or(text));
        let mut version = parsed.map_err(|_| VersionError(text.chars().take(40).collect()))?;
        version.build = semver::BuildMetadata::EMPTY;
        Ok(Self(version))
    }
}
