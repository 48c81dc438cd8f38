//! The kinds of forges, and how a host is recognised as one.

use std::str::FromStr;

use serde::Deserialize;

use crate::ForgeError;
use crate::http::{Answer, Client, Connection};

/// The kind of a forge: which API it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgeKind {
    /// github.com, GitHub Enterprise.
    Github,
    /// gitlab.com, GitLab.
    Gitlab,
    /// Forgejo and Gitea, such as codeberg.org.
    Forgejo,
}

impl ForgeKind {
    /// Every kind, in the order in which an unknown host is asked.
    const ALL: [Self; 3] = [Self::Forgejo, Self::Gitlab, Self::Github];

    /// The kind of a public forge.
    pub fn of_known_host(host: &str) -> Option<Self> {
        match host {
            "github.com" => Some(Self::Github),
            "gitlab.com" => Some(Self::Gitlab),
            "codeberg.org" | "gitea.com" => Some(Self::Forgejo),
            // GitHub Enterprise Cloud with data residency.
            _ if host.ends_with(".ghe.com") => Some(Self::Github),
            _ => None,
        }
    }

    /// The address of the API of a host of this kind.
    pub fn api_url(self, host: &str) -> String {
        match self {
            Self::Github if host == "github.com" || host.ends_with(".ghe.com") => {
                format!("https://api.{host}")
            }
            Self::Github => format!("https://{host}/api/v3"),
            Self::Gitlab => format!("https://{host}/api/v4"),
            Self::Forgejo => format!("https://{host}/api/v1"),
        }
    }

    /// Asks a host what it is, without a token. The connection's `api_url` is only used if it is not empty.
    pub fn ask(host: &str, connection: &Connection) -> Result<Self, ForgeError> {
        for kind in Self::ALL {
            let api_url = match connection.api_url.as_str() {
                "" => kind.api_url(host),
                url => url.to_owned(),
            };
            let client = Client::new(Connection {
                api_url,
                token: None,
                ..connection.clone()
            })?;
            let path = match kind {
                Self::Github => "/meta",
                Self::Gitlab | Self::Forgejo => "/version",
            };
            let answer = match client.send(path, &[]) {
                Ok(answer) => answer,
                // Another server than a forge may answer anything.
                Err(ForgeError::TooLarge { .. } | ForgeError::Redirected { .. }) => continue,
                Err(error) => return Err(error),
            };
            if kind.gave(&answer) {
                return Ok(kind);
            }
        }
        Err(ForgeError::UnknownKind {
            host: host.to_owned(),
        })
    }

    fn gave(self, answer: &Answer) -> bool {
        #[derive(Default, Deserialize)]
        struct About {
            version: Option<String>,
            revision: Option<String>,
            message: Option<String>,
        }
        let about: About = serde_json::from_slice(&answer.body).unwrap_or_default();
        match self {
            Self::Forgejo => answer.status == 200 && about.version.is_some() && about.revision.is_none(),
            Self::Gitlab if answer.status == 200 => about.revision.is_some(),
            Self::Gitlab => {
                answer.status == 401
                    && answer.header("x-github-request-id").is_none()
                    && about.message.is_some_and(|message| message.starts_with("401"))
            }
            Self::Github => answer.header("x-github-request-id").is_some(),
        }
    }
}

impl FromStr for ForgeKind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "github" => Ok(Self::Github),
            "gitlab" => Ok(Self::Gitlab),
            "forgejo" | "gitea" => Ok(Self::Forgejo),
            _ => Err("expected one of github, gitlab, forgejo, gitea".to_owned()),
        }
    }
}

impl std::fmt::Display for ForgeKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Forgejo => "forgejo",
        })
    }
}
