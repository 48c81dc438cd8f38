//! Tokens for the API: 256 random bits, of which only a hash is kept.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kugetsu_api::{RepoRef, Scope, TokenView};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The file, below the home.
const FILE: &str = "tokens.json";
/// The lock of the file, below `run/`.
const LOCK: &str = "tokens.lock";
/// What a token begins with, so that people and scanners know one when they see it.
const PREFIX: &str = "kugetsu_";
/// The size limit of the file.
const MAX_FILE: u64 = 1 << 20;
/// How many tokens there may be.
const MAX_TOKENS: usize = 1000;

/// The tokens of a home.
#[derive(Clone, Debug)]
pub struct Tokens {
    path: PathBuf,
}

/// Why the tokens cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The failed action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not what kugetsu writes.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// Another token has the name.
    #[error("there is a token with the name `{0}` already")]
    Exists(String),
    /// No token has the name.
    #[error("there is no token with the name `{0}`")]
    Missing(String),
    /// There are too many.
    #[error("there are {MAX_TOKENS} tokens, and no more may be made")]
    TooMany,
}

#[derive(Default, Serialize, Deserialize)]
struct Stored {
    tokens: Vec<StoredToken>,
}

#[derive(Clone, Serialize, Deserialize)]
struct StoredToken {
    #[serde(flatten)]
    view: TokenView,
    /// SHA-256 of the token in hexadecimal. The token is random, so nobody can find it by guessing.
    sha256: String,
}

impl Tokens {
    /// The tokens of this home.
    pub fn of(home: &Path) -> Self {
        Self {
            path: home.join(FILE),
        }
    }

    /// Makes a token, and returns it. It cannot be shown again.
    pub fn create(&self, name: &str, scope: Scope, repos: Vec<RepoRef>) -> Result<String, TokenError> {
        let _alone = self.lock()?;
        let mut stored = self.read()?;
        if stored.tokens.iter().any(|token| token.view.name == name) {
            return Err(TokenError::Exists(name.to_owned()));
        }
        if stored.tokens.len() >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        let mut random = [0_u8; 32];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut random))
            .map_err(|source| self.failed("make a token for", source))?;
        let token = format!("{PREFIX}{}", hex::encode(random));
        stored.tokens.push(StoredToken {
            view: TokenView {
                name: name.to_owned(),
                scope,
                repos,
                created: Timestamp::now(),
            },
            sha256: digest(&token),
        });
        self.write(&stored)?;
        Ok(token)
    }

    /// Every token, oldest first.
    pub fn list(&self) -> Result<Vec<TokenView>, TokenError> {
        let stored = self.read()?;
        Ok(stored.tokens.into_iter().map(|token| token.view).collect())
    }

    /// Removes a token. It opens nothing from now on.
    pub fn revoke(&self, name: &str) -> Result<(), TokenError> {
        let _alone = self.lock()?;
        let mut stored = self.read()?;
        let before = stored.tokens.len();
        stored.tokens.retain(|token| token.view.name != name);
        if stored.tokens.len() == before {
            return Err(TokenError::Missing(name.to_owned()));
        }
        self.write(&stored)
    }

    /// The token that this text is, if it is one.
    pub(crate) fn check(&self, text: &str) -> Result<Option<TokenView>, TokenError> {
        let asked = digest(text);
        let mut found = None;
        // All are compared, so that the time tells nothing.
        for token in self.read()?.tokens {
            if bool::from(token.sha256.as_bytes().ct_eq(asked.as_bytes())) {
                found = Some(token.view);
            }
        }
        Ok(found)
    }

    /// Held while the file is changed.
    fn lock(&self) -> Result<std::fs::File, TokenError> {
        let home = self.path.parent().unwrap_or(Path::new("/"));
        let lock = crate::place::open_for_owner(home, LOCK);
        let lock = lock.map_err(|source| self.failed("lock", source))?;
        lock.lock().map_err(|source| self.failed("lock", source))?;
        Ok(lock)
    }

    fn read(&self) -> Result<Stored, TokenError> {
        let file = std::fs::File::options()
            .read(true)
            .custom_flags(crate::place::NOFOLLOW)
            .open(&self.path);
        let file = match file {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Stored::default()),
            other => other.map_err(|source| self.failed("read", source))?,
        };
        let mut text = String::new();
        file.take(MAX_FILE)
            .read_to_string(&mut text)
            .map_err(|source| self.failed("read", source))?;
        serde_json::from_str(&text).map_err(|error| TokenError::Damaged {
            path: self.path.clone(),
            problem: error.to_string(),
        })
    }

    fn write(&self, stored: &Stored) -> Result<(), TokenError> {
        let failed = |source| self.failed("write", source);
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let mut text = serde_json::to_vec_pretty(stored).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        // It has the mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        let folder = std::fs::File::open(folder).map_err(failed)?;
        folder.sync_all().map_err(failed)
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> TokenError {
        TokenError::File {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

fn digest(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_until_it_is_revoked_and_only_its_hash_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let tokens = Tokens::of(home.path());
        assert!(tokens.check("kugetsu_").unwrap().is_none());
        let token = tokens.create("ci", Scope::Submit, Vec::new()).unwrap();
        assert!(matches!(
            tokens.create("ci", Scope::Read, Vec::new()),
            Err(TokenError::Exists(_))
        ));
        let kept = std::fs::read_to_string(home.path().join(FILE)).unwrap();
        assert!(!kept.contains(&token) && kept.contains("\"ci\""), "{kept}");
        assert_eq!(tokens.check(&token).unwrap().unwrap().scope, Scope::Submit);
        assert!(tokens.check(&format!("{token}0")).unwrap().is_none());
        tokens.revoke("ci").unwrap();
        assert!(tokens.check(&token).unwrap().is_none());
        assert!(matches!(tokens.revoke("ci"), Err(TokenError::Missing(_))));
    }
}
