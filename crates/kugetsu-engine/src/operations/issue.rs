//! Reads an issue from its forge. Finds the forge's kind and API, and a token that may be sent to it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kugetsu_api::{Issue, IssueRef};
use kugetsu_forge::{Connection, ForgeError, ForgeKind, ProxySettings, Token};
use uuid::Uuid;

use super::{Engine, EngineError};
use crate::process::{self, GuardSpec, Sink};
use crate::settings::ForgeSettings;

/// How long `gh auth token` may take. It may ask a keyring, which may ask a person.
const GH_LIMIT: Duration = Duration::from_secs(10);
/// The variables with a token for github.com.
const OF_GITHUB: [&str; 2] = ["GH_TOKEN", "GITHUB_TOKEN"];
/// The variables with a token for other hosts with GitHub.
const OF_ENTERPRISE: [&str; 2] = ["GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN"];
/// The variable with a token for GitLab.
const OF_GITLAB: [&str; 1] = ["GITLAB_TOKEN"];
/// The variables with a token for Forgejo and Gitea.
const OF_FORGEJO: [&str; 2] = ["FORGEJO_TOKEN", "GITEA_TOKEN"];
/// The shortest value of such a variable that is masked. Real tokens are longer, and a placeholder may be any word.
const SHORTEST_TOKEN: usize = 16;

impl Engine {
    /// The issue or pull request, with its newest comments if `comments` is true. Blocks.
    pub fn issue(&self, issue: &IssueRef, comments: bool) -> Result<Issue, EngineError> {
        let host = issue.instance();
        let settings = self.settings.forges.get(host);
        let api_url = settings
            .and_then(|forge| forge.api_url.clone())
            .unwrap_or_default();
        let mut connection = Connection {
            proxy: self.proxy(&api_url),
            api_url,
            token: None,
            until: Instant::now() + self.settings.forge_timeout,
            limit: self.settings.forge_timeout,
        };
        let error = |source: ForgeError| EngineError::Forge {
            issue: issue.clone(),
            source: source.of(host),
        };
        let known = settings
            .and_then(|forge| forge.kind)
            .or_else(|| ForgeKind::of_known_host(host));
        let kind = match known {
            Some(kind) => kind,
            None => ForgeKind::ask(host, &connection).map_err(error)?,
        };
        if connection.api_url.is_empty() {
            connection.api_url = kind.api_url(host);
        }
        let asked = Instant::now();
        connection.token = self.forge_token(kind, host, settings);
        // `gh` has a limit of its own.
        connection.until += asked.elapsed();
        kugetsu_forge::open(kind, connection)
            .and_then(|forge| forge.issue(issue, comments))
            .map_err(error)
    }

    /// The tokens of forges in settings and environment, which are masked in everything that is written.
    pub(super) fn forge_tokens(&self) -> Vec<String> {
        let of_settings = self.settings.forges.values();
        let of_settings = of_settings.filter_map(|forge| forge.token.clone());
        let variables = OF_GITHUB
            .iter()
            .chain(&OF_ENTERPRISE)
            .chain(&OF_GITLAB)
            .chain(&OF_FORGEJO);
        let of_variables = variables.filter_map(|name| {
            let token = self.environment.get(name)?.to_str()?.trim();
            (token.len() >= SHORTEST_TOKEN).then(|| token.to_owned())
        });
        of_settings.chain(of_variables).collect()
    }

    /// The token for a host: that of its settings, of the environment, or of `gh`.
    ///
    /// A variable names no host. So a token from a variable is sent only to the public forge of its kind and to hosts
    /// that the user has named: an address that somebody else wrote must not lead it to any other host.
    fn forge_token(&self, kind: ForgeKind, host: &str, settings: Option<&ForgeSettings>) -> Option<Token> {
        if let Some(secret) = settings.and_then(|forge| forge.token.clone()) {
            let source = format!("config.toml, [forges.\"{host}\"]");
            return Some(Token { secret, source });
        }
        let is_known = ForgeKind::of_known_host(host) == Some(kind);
        let is_trusted = is_known || settings.is_some() || self.settings.instance.as_deref() == Some(host);
        let variables: &[&str] = match kind {
            _ if !is_trusted => &[],
            ForgeKind::Github if is_known => &OF_GITHUB,
            ForgeKind::Github => &OF_ENTERPRISE,
            ForgeKind::Gitlab => &OF_GITLAB,
            ForgeKind::Forgejo => &OF_FORGEJO,
        };
        let of_variable = variables.iter().find_map(|name| {
            Some(Token {
                secret: self.environment.get(name)?.to_str()?.trim().to_owned(),
                source: (*name).to_owned(),
            })
        });
        match of_variable {
            None if kind == ForgeKind::Github => self.gh_token(host),
            token => token,
        }
    }

    /// The token with which `gh` is logged in to a host. `gh` need not be installed.
    fn gh_token(&self, host: &str) -> Option<Token> {
        let mut containment = self.containment(Uuid::now_v7());
        containment.grace = Duration::from_secs(1);
        let spec = GuardSpec {
            program: "gh".into(),
            args: vec!["auth".into(), "token".into(), format!("--hostname={host}").into()],
            cwd: Path::new("/").to_owned(),
            set_env: vec![("GH_PROMPT_DISABLED".into(), "1".into())],
            // `gh` prints the token of a variable for any host that it is asked for (`gh help environment`).
            remove_env: [OF_GITHUB, OF_ENTERPRISE]
                .concat()
                .into_iter()
                .map(Into::into)
                .collect(),
            stdin: Arc::from([]),
            sandbox: None,
            containment,
            stdout: Sink::Piped,
            stderr: Sink::Piped,
        };
        let output = process::run_until_cancelled(spec, GH_LIMIT, &self.cancel).ok()?;
        let secret = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.exit.success() && !secret.is_empty()).then(|| Token {
            secret,
            source: format!("gh auth token --hostname={host}"),
        })
    }

    /// The proxy of the environment for the API. `HTTP_PROXY` in capitals is not read: a CGI server sets it from a request.
    fn proxy(&self, api_url: &str) -> ProxySettings {
        let variable = |name: &str| {
            let value = self.environment.get(name)?.to_str()?;
            Some((name.to_owned(), value.to_owned()))
        };
        let any = |names: &[&str]| names.iter().find_map(|name| variable(name));
        ProxySettings {
            proxy: if api_url.starts_with("http:") {
                any(&["http_proxy", "all_proxy", "ALL_PROXY"])
            } else {
                any(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
            },
            except: any(&["no_proxy", "NO_PROXY"])
                .map(|(_, hosts)| hosts)
                .unwrap_or_default(),
        }
    }
}

/// What to do about an error of a forge, apart from waiting.
pub(super) fn hints(issue: &IssueRef, error: &ForgeError) -> Vec<String> {
    let host = issue.instance();
    let give = || {
        vec![
            format!("give a token in config.toml: [forges.\"{host}\"] token = \"...\""),
            match ForgeKind::of_known_host(host) {
                Some(ForgeKind::Github) => "or in the environment: GH_TOKEN or GITHUB_TOKEN".to_owned(),
                Some(ForgeKind::Gitlab) => "or in the environment: GITLAB_TOKEN".to_owned(),
                Some(ForgeKind::Forgejo) => "or in the environment: FORGEJO_TOKEN or GITEA_TOKEN".to_owned(),
                None => format!(
                    "or name the host in config.toml with [forges.\"{host}\"], and give the token in the environment: \
                     GH_ENTERPRISE_TOKEN, GITLAB_TOKEN, FORGEJO_TOKEN or GITEA_TOKEN"
                ),
            },
            match ForgeKind::of_known_host(host) {
                Some(ForgeKind::Github) => "or log in with GitHub's own program: gh auth login".to_owned(),
                _ => format!(
                    "or, if it is GitHub, log in with its own program: gh auth login --hostname {host}"
                ),
            },
        ]
    };
    match error {
        ForgeError::NotFound { token: None, .. } | ForgeError::Refused { token: None, .. } => give(),
        ForgeError::RateLimit {
            with_token: false, ..
        } => {
            let mut hints = vec!["with a token, more requests are answered".to_owned()];
            hints.extend(give());
            hints
        }
        ForgeError::NotFound { .. } => vec![format!("look at it in a browser: {}", issue.url())],
        ForgeError::Refused { .. } => vec!["give the token the right to read issues".to_owned()],
        ForgeError::TokenRefused { .. } | ForgeError::TokenInvalid(_) => {
            vec!["it may have expired: make a new one, or remove it if the repository is public".to_owned()]
        }
        ForgeError::UnknownKind { .. } => vec![format!(
            "say what it is in config.toml: [forges.\"{host}\"] kind = \"github\", \"gitlab\" or \"forgejo\""
        )],
        ForgeError::Redirected { to, .. } => vec![format!(
            "if that is the forge, use its own name, or set [forges.\"{host}\"] api_url in config.toml; it leads to {to}"
        )],
        ForgeError::TooLarge { .. } => vec!["try it without comments: --no-comments".to_owned()],
        ForgeError::Answer { .. } => vec![format!(
            "check kind and api_url of [forges.\"{host}\"] in config.toml, and the proxy"
        )],
        ForgeError::Tls { .. } => vec![
            "if the host has a certificate of an authority of your own, name that in SSL_CERT_FILE"
                .to_owned(),
        ],
        ForgeError::Slow { .. } => vec!["try again later, or raise forge_timeout".to_owned()],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::Environment;
    use crate::settings::Settings;

    #[test]
    fn a_token_of_a_variable_goes_to_hosts_that_the_user_has_named() {
        let names = [
            "GITHUB_TOKEN",
            "GH_ENTERPRISE_TOKEN",
            "GITLAB_TOKEN",
            "FORGEJO_TOKEN",
        ];
        let variables = names.map(|name| (name.into(), format!("of-{name}").into()));
        let instance = ("KUGETSU_INSTANCE".into(), "git.example.org".into());
        let variables = variables.into_iter().chain([instance]);
        let environment = Environment::new(variables, "/".into(), "/nowhere/kugetsu".into());
        let settings = Settings::load(Path::new("/dev/null"), &environment).unwrap();
        let engine = Engine::open("/nowhere".into(), settings, environment);
        let named = ForgeSettings::default();
        for (kind, host, settings, source) in [
            (ForgeKind::Github, "github.com", None, Some("GITHUB_TOKEN")),
            (ForgeKind::Gitlab, "gitlab.com", None, Some("GITLAB_TOKEN")),
            (ForgeKind::Forgejo, "codeberg.org", None, Some("FORGEJO_TOKEN")),
            (ForgeKind::Github, "evil.example", None, None),
            (ForgeKind::Gitlab, "evil.example", None, None),
            (ForgeKind::Forgejo, "evil.example", None, None),
            (
                ForgeKind::Github,
                "git.example.org",
                None,
                Some("GH_ENTERPRISE_TOKEN"),
            ),
            (ForgeKind::Gitlab, "git.example.org", None, Some("GITLAB_TOKEN")),
            (
                ForgeKind::Forgejo,
                "other.example",
                Some(&named),
                Some("FORGEJO_TOKEN"),
            ),
        ] {
            let token = engine.forge_token(kind, host, settings);
            let found = token.as_ref().map(|token| token.source.as_str());
            assert_eq!(found, source, "{kind} on {host}");
            if let Some(token) = token {
                assert_eq!(token.secret, format!("of-{}", token.source));
                assert!(!format!("{token:?}").contains(&token.secret));
            }
        }
    }
}
