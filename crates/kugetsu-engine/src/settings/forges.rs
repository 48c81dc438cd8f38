//! The settings of forges: the tables `[forges."HOST"]`.

use kugetsu_forge::ForgeKind;
use serde::{Deserialize, Deserializer, de};

/// A table `[forges."HOST"]` of `config.toml`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgeSettings {
    /// Which API the host has; if absent, the host is known or is asked.
    #[serde(default, deserialize_with = "kind")]
    pub kind: Option<ForgeKind>,
    /// The address of its API, without a slash at its end; if absent, the usual one for its kind.
    #[serde(default, deserialize_with = "api_url")]
    pub api_url: Option<String>,
    /// The token for its API, a secret.
    #[serde(default, deserialize_with = "token")]
    pub token: Option<String>,
}

impl std::fmt::Debug for ForgeSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForgeSettings")
            .field("kind", &self.kind)
            .field("api_url", &self.api_url)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .finish()
    }
}

fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ForgeKind>, D::Error> {
    let word = String::deserialize(deserializer)?;
    let problem = |problem| de::Error::custom(format!("`kind` is not valid: {problem}"));
    word.parse().map(Some).map_err(problem)
}

fn api_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let rest = text.strip_prefix("https://").or(text.strip_prefix("http://"));
    let plain = |rest: &str| {
        let host = rest.split('/').next().unwrap_or_default();
        !host.is_empty()
            && rest.bytes().all(|byte| byte.is_ascii_graphic())
            && !rest.contains(['@', '?', '#'])
    };
    if rest.is_some_and(plain) {
        return Ok(Some(text.trim_end_matches('/').to_owned()));
    }
    // The text may contain a password.
    Err(de::Error::custom(
        "`api_url` must be an address such as https://git.example.org/api/v1, without user, password or query",
    ))
}

/// Reads the token. The error does not show it.
fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)
        .map_err(|_| de::Error::custom("`token` must be a string in quotes"))?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(de::Error::custom("`token` must be ASCII text without spaces"));
    }
    Ok(Some(text))
}
