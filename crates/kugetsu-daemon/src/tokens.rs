//! Tokens for the API: 256 random bits, of which only a hash is kept.

use std::collections::HashMap;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use kugetsu_api::{RepoRef, Scope, TokenView};
use kugetsu_engine::files::{FsError, write_atomic};
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
/// How exactly the last use of a token is recorded.
const USE: SignedDuration = SignedDuration::from_mins(1);
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
    /// The file cannot be replaced.
    #[error(transparent)]
    Unwritten(#[from] FsError),
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

/// A token that is to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// The repositories that it is limited to; all of them if there is none.
    pub repos: Vec<RepoRef>,
    /// When it expires, if ever.
    pub expires: Option<Timestamp>,
}

impl Tokens {
    /// The tokens of this home.
    pub fn of(home: &Path) -> Self {
        Self {
            path: home.join(FILE),
        }
    }

    /// Makes a token, and returns it. It cannot be shown again.
    pub fn create(&self, token: NewToken) -> Result<String, TokenError> {
        let NewToken {
            name,
            scope,
            repos,
            expires,
        } = token;
        let _alone = self.lock()?;
        let mut stored = self.read()?;
        if stored.tokens.iter().any(|token| token.view.name == name) {
            return Err(TokenError::Exists(name));
        }
        if stored.tokens.len() >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        let random = random().map_err(|source| self.failed("make a token for", source))?;
        let token = format!("{PREFIX}{random}");
        stored.tokens.push(StoredToken {
            view: TokenView {
                name,
                scope,
                repos,
                created: Timestamp::now(),
                expires,
                last_used: None,
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

    /// Held while the file is changed.
    fn lock(&self) -> Result<std::fs::File, TokenError> {
        let lock = self.lock_file()?;
        lock.lock().map_err(|source| self.failed("lock", source))?;
        Ok(lock)
    }

    /// [`Tokens::lock`], or `None` if somebody else holds it.
    fn try_lock(&self) -> Result<Option<std::fs::File>, TokenError> {
        let lock = self.lock_file()?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(source)) => Err(self.failed("lock", source)),
        }
    }

    fn lock_file(&self) -> Result<std::fs::File, TokenError> {
        let home = self.path.parent().unwrap_or(Path::new("/"));
        let lock = crate::place::open_for_owner(home, LOCK);
        lock.map_err(|source| self.failed("lock", source))
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
        let text = serde_json::to_vec_pretty(stored);
        let mut text = text.map_err(|error| self.failed("write", error.into()))?;
        text.push(b'\n');
        if text.len() as u64 > MAX_FILE {
            return Err(TokenError::TooMany);
        }
        Ok(write_atomic(&self.path, &text)?)
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> TokenError {
        TokenError::File {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

/// What the text of a token is.
#[derive(Debug)]
pub(crate) enum Checked {
    /// A token.
    Known(TokenView),
    /// A token that has expired at this time.
    Expired(TokenView, Timestamp),
    /// Nothing.
    Unknown,
}

/// The tokens as a daemon knows them: they are read again when the file has changed, and their use is written some time
/// after it.
pub(crate) struct KnownTokens {
    tokens: Tokens,
    known: Mutex<Option<(Stamp, Arc<Vec<StoredToken>>)>>,
    /// The last use by the hash of the token, as far as it is not in the file.
    uses: Mutex<HashMap<String, Timestamp>>,
}

/// What changes whenever the file is replaced.
type Stamp = (u64, i64, i64, u64);

impl KnownTokens {
    pub(crate) fn of(home: &Path) -> Self {
        Self {
            tokens: Tokens::of(home),
            known: Mutex::default(),
            uses: Mutex::default(),
        }
    }

    /// What this text is. Reads the file if it has changed.
    pub(crate) fn check(&self, text: &str, now: Timestamp) -> Result<Checked, TokenError> {
        let asked = digest(text);
        let mut found = None;
        let known = self.known()?;
        // All are compared, so that the time tells nothing.
        for token in known.iter() {
            if bool::from(token.sha256.as_bytes().ct_eq(asked.as_bytes())) {
                found = Some(token);
            }
        }
        let Some(token) = found else {
            return Ok(Checked::Unknown);
        };
        if let Some(at) = token.view.expires.filter(|at| *at <= now) {
            return Ok(Checked::Expired(token.view.clone(), at));
        }
        let recorded = token.view.last_used;
        if recorded.is_none_or(|recorded| now.duration_since(recorded) >= USE) {
            locked(&self.uses).insert(asked, now);
        }
        Ok(Checked::Known(token.view.clone()))
    }

    /// Whether a token that was known still opens something.
    pub(crate) fn opens(&self, token: &TokenView, now: Timestamp) -> Result<bool, TokenError> {
        // Another token may have the name by now.
        let is_it =
            |other: &StoredToken| other.view.name == token.name && other.view.created == token.created;
        let is_known = self.known()?.iter().any(is_it);
        Ok(is_known && token.expires.is_none_or(|at| at > now))
    }

    fn known(&self) -> Result<Arc<Vec<StoredToken>>, TokenError> {
        let stamp = match self.tokens.path.symlink_metadata() {
            Ok(now) => (now.ino(), now.mtime(), now.mtime_nsec(), now.size()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(source) => return Err(self.tokens.failed("read", source)),
        };
        let mut known = locked(&self.known);
        match known.as_ref() {
            Some((of, tokens)) if *of == stamp => Ok(Arc::clone(tokens)),
            _ => {
                let tokens = Arc::new(self.tokens.read()?.tokens);
                *known = Some((stamp, Arc::clone(&tokens)));
                Ok(tokens)
            }
        }
    }

    /// Writes when tokens were used, if there is something new.
    pub(crate) fn write_uses(&self) -> Result<(), TokenError> {
        let uses = locked(&self.uses).clone();
        if uses.is_empty() {
            return Ok(());
        }
        // Somebody else changes the tokens: the next time will do.
        let Some(alone) = self.tokens.try_lock()? else {
            return Ok(());
        };
        let mut stored = self.tokens.read()?;
        let minute = TimestampRound::new()
            .smallest(Unit::Minute)
            .mode(RoundMode::Trunc);
        for token in &mut stored.tokens {
            if let Some(at) = uses.get(&token.sha256) {
                token.view.last_used = at.round(minute).ok().or(Some(*at));
            }
        }
        self.tokens.write(&stored)?;
        drop(alone);
        // A use that came meanwhile stays.
        locked(&self.uses).retain(|token, at| uses.get(token) != Some(at));
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 256 random bits in hexadecimal.
pub(crate) fn random() -> std::io::Result<String> {
    let mut random = [0_u8; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(hex::encode(random))
}

/// The hash of a token, in hexadecimal.
pub(crate) fn digest(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, expires: Option<Timestamp>) -> NewToken {
        NewToken {
            name: name.to_owned(),
            scope: Scope::Submit,
            repos: Vec::new(),
            expires,
        }
    }

    fn is_known(tokens: &KnownTokens, text: &str) -> bool {
        matches!(tokens.check(text, Timestamp::now()).unwrap(), Checked::Known(_))
    }

    #[test]
    fn a_token_is_known_until_it_is_revoked_and_only_its_hash_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let (tokens, known) = (Tokens::of(home.path()), KnownTokens::of(home.path()));
        assert!(!is_known(&known, "kugetsu_"));
        let token = tokens.create(named("ci", None)).unwrap();
        assert!(matches!(
            tokens.create(named("ci", None)),
            Err(TokenError::Exists(_))
        ));
        let kept = std::fs::read_to_string(home.path().join(FILE)).unwrap();
        assert!(!kept.contains(&token) && kept.contains("\"ci\""), "{kept}");
        assert!(is_known(&known, &token));
        assert!(!is_known(&known, &format!("{token}0")));
        tokens.revoke("ci").unwrap();
        assert!(!is_known(&known, &token));
        assert!(matches!(tokens.revoke("ci"), Err(TokenError::Missing(_))));
    }

    #[test]
    fn a_stream_goes_on_with_its_own_token_only() {
        let home = tempfile::tempdir().unwrap();
        let (tokens, known) = (Tokens::of(home.path()), KnownTokens::of(home.path()));
        let end: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let before = end - SignedDuration::from_secs(1);
        tokens.create(named("ci", Some(end))).unwrap();
        let token = tokens.list().unwrap().remove(0);
        assert!(known.opens(&token, before).unwrap());
        assert!(!known.opens(&token, end).unwrap());
        tokens.revoke("ci").unwrap();
        assert!(!known.opens(&token, before).unwrap());
        tokens.create(named("ci", None)).unwrap();
        assert!(
            !known.opens(&token, before).unwrap(),
            "another token has the name"
        );
    }

    #[test]
    fn a_token_expires_and_its_last_use_is_written_later() {
        let home = tempfile::tempdir().unwrap();
        let (tokens, known) = (Tokens::of(home.path()), KnownTokens::of(home.path()));
        let end: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let token = tokens.create(named("ci", Some(end))).unwrap();
        let last_used = || tokens.list().unwrap()[0].last_used;
        let used: Timestamp = "2026-11-30T11:58:42Z".parse().unwrap();
        assert!(matches!(known.check(&token, used).unwrap(), Checked::Known(_)));
        assert_eq!(last_used(), None);
        known.write_uses().unwrap();
        assert_eq!(
            last_used().map(|at| at.to_string()).as_deref(),
            Some("2026-11-30T11:58:00Z")
        );
        // Within the minute, nothing is written.
        let soon = used + SignedDuration::from_secs(10);
        assert!(matches!(known.check(&token, soon).unwrap(), Checked::Known(_)));
        assert!(locked(&known.uses).is_empty());
        // An expired token is not used.
        assert!(matches!(known.check(&token, end).unwrap(), Checked::Expired(_, at) if at == end));
        assert!(locked(&known.uses).is_empty());
    }
}
