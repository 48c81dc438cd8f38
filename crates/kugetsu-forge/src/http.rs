//! Requests to the API of a forge: bounded in time and length, and with the token for its own host only.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use kugetsu_api::IssueRef;
use kugetsu_api::json::without_lone_surrogates;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Proxy, Timeout};

use crate::{ForgeError, line};

/// The longest answer. A page of the longest comments of GitHub has 6 MiB of text.
const MAX_ANSWER: u64 = 16 << 20;
/// How many redirects are followed: GitHub redirects requests for a renamed repository and for a moved issue.
const MAX_REDIRECTS: usize = 3;
/// How long the connection to the host may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A token, and where it came from. Its text is in no debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token.
    pub secret: String,
    /// Where it came from, such as `GH_TOKEN`.
    pub source: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({})", self.source)
    }
}

/// The proxy for requests.
#[derive(Clone, Debug, Default)]
pub struct ProxySettings {
    /// The variable, and the proxy's address, `http://HOST:PORT`.
    pub proxy: Option<(String, String)>,
    /// The hosts that need no proxy, as in the variable `NO_PROXY`.
    pub except: String,
}

/// How to reach a forge.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The address of the API, without a slash at its end.
    pub api_url: String,
    /// The token, if there is one.
    pub token: Option<Token>,
    /// The proxy.
    pub proxy: ProxySettings,
    /// When the last request must have ended, however many there are.
    pub until: Instant,
    /// The time between the first request and `until`, for errors.
    pub limit: Duration,
}

/// The answer of a forge.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: ureq::http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.header(name)?.trim().parse().ok()
    }

    /// Whether the forge refuses because of the number of requests.
    fn is_rate_limited(&self) -> bool {
        let used_up = ["x-ratelimit-remaining", "ratelimit-remaining"]
            .iter()
            .any(|name| self.number(name) == Some(0));
        match self.status {
            429 => true,
            403 => used_up || self.number("retry-after").is_some(),
            _ => false,
        }
    }

    /// When requests are answered again.
    fn answers_again(&self) -> Option<Timestamp> {
        let wait = self.number("retry-after").map(SignedDuration::from_secs);
        let after = wait.and_then(|wait| Timestamp::now().checked_add(wait).ok());
        after.or_else(|| {
            ["x-ratelimit-reset", "ratelimit-reset"]
                .iter()
                .find_map(|name| Timestamp::from_second(self.number(name)?).ok())
        })
    }

    /// The forge's own words.
    fn message(&self) -> String {
        #[derive(Deserialize)]
        struct Message {
            message: String,
        }
        let message = serde_json::from_slice::<Message>(&self.body).map(|body| line(&body.message));
        let mut message = message.unwrap_or_else(|_| format!("status {}", self.status));
        message.truncate(message.floor_char_boundary(200));
        message
    }
}

/// The API of a kind of forge, and what each request to it carries.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) client: Client,
    /// Its name, for errors.
    pub(crate) name: &'static str,
    /// The word before the token.
    pub(crate) scheme: &'static str,
    /// The headers, apart from the token.
    pub(crate) headers: &'static [(&'static str, &'static str)],
}

impl Api {
    /// What a path below the API gives for an issue.
    pub(crate) fn get<T: DeserializeOwned>(&self, issue: &IssueRef, path: &str) -> Result<T, ForgeError> {
        let token = self.client.connection.token.as_ref();
        let authorization = token.map(|token| format!("{} {}", self.scheme, token.secret));
        let authorization = authorization.as_deref().map(|text| ("authorization", text));
        let headers: Vec<_> = self.headers.iter().copied().chain(authorization).collect();
        let answer = self.client.send(path, &headers)?;
        let token = token.map(|token| token.source.clone());
        let host = self.client.host();
        if answer.is_rate_limited() {
            return Err(ForgeError::RateLimit {
                host,
                until: answer.answers_again(),
                with_token: token.is_some(),
            });
        }
        let issue = || issue.clone();
        match (answer.status, token) {
            (200, _) => {}
            (401, Some(token)) => return Err(ForgeError::TokenRefused { host, token }),
            (401 | 404 | 410, token) => {
                let issue = issue();
                return Err(ForgeError::NotFound { host, issue, token });
            }
            (403, token) => {
                return Err(ForgeError::Refused {
                    host,
                    issue: issue(),
                    problem: answer.message(),
                    token,
                });
            }
            (status @ 500.., _) => return Err(ForgeError::Server { host, status }),
            _ => {
                let problem = answer.message();
                return Err(ForgeError::Answer {
                    host,
                    what: self.name,
                    problem,
                });
            }
        }
        let body = without_lone_surrogates(&answer.body).unwrap_or(answer.body);
        serde_json::from_slice(&body).map_err(|error| ForgeError::Answer {
            host,
            what: self.name,
            problem: line(&error.to_string()),
        })
    }
}

/// The client of one API.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    connection: Connection,
    address: Uri,
}

impl Client {
    pub(crate) fn new(connection: Connection) -> Result<Self, ForgeError> {
        let wrong = || ForgeError::Address(connection.api_url.clone());
        let address: Uri = connection.api_url.parse().map_err(|_| wrong())?;
        if !["http", "https"].contains(&address.scheme_str().unwrap_or_default()) {
            return Err(wrong());
        }
        if let Some(token) = &connection.token
            && (token.secret.is_empty() || !token.secret.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(ForgeError::TokenInvalid(token.source.clone()));
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_LIMIT))
            .user_agent(concat!("kugetsu/", env!("CARGO_PKG_VERSION")))
            // Otherwise, it would be read from the environment.
            .proxy(proxy(&connection.proxy)?);
        if address.scheme_str() == Some("https") {
            config = config.tls_config(TlsConfig::builder().root_certs(trusted_roots()).build());
        }
        Ok(Self {
            agent: config.build().into(),
            connection,
            address,
        })
    }

    fn host(&self) -> String {
        self.address
            .authority()
            .map_or_else(String::new, ToString::to_string)
    }

    /// Sends a GET request for a path below the API, and follows redirects that stay on its host.
    pub(crate) fn send(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, ForgeError> {
        let mut url = format!("{}{path}", self.connection.api_url);
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send_once(&url, headers)?;
            if !(301..=308).contains(&answer.status) || answer.status == 304 {
                return Ok(answer);
            }
            let to = answer.header("location").unwrap_or_default();
            url = self.same_host(to).ok_or_else(|| ForgeError::Redirected {
                host: self.host(),
                to: line(to.split(['?', '#']).next().unwrap_or_default()),
            })?;
        }
        Err(ForgeError::Redirected {
            host: self.host(),
            to: "one address after the other".to_owned(),
        })
    }

    /// The address that a redirect leads to, if that is on the host of the API.
    fn same_host(&self, to: &str) -> Option<String> {
        let (scheme, authority) = (self.address.scheme_str()?, self.address.authority()?);
        if to.starts_with('/') && !to.starts_with("//") {
            return Some(format!("{scheme}://{authority}{to}"));
        }
        let target: Uri = to.parse().ok()?;
        let same = target.scheme_str() == Some(scheme) && target.authority() == Some(authority);
        same.then(|| to.to_owned())
    }

    fn send_once(&self, url: &str, headers: &[(&str, &str)]) -> Result<Answer, ForgeError> {
        let left = self.connection.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.slow());
        }
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.config().timeout_global(Some(left)).build();
        let mut response = request.call().map_err(|error| self.failed(error))?;
        let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let body = body.map_err(|error| self.failed(error))?;
        let (parts, _) = response.into_parts();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    }

    fn slow(&self) -> ForgeError {
        ForgeError::Slow {
            host: self.host(),
            limit: self.connection.limit,
        }
    }

    fn failed(&self, error: ureq::Error) -> ForgeError {
        use ureq::Error;
        let host = self.host();
        let unreachable = |problem: String| ForgeError::Unreachable {
            host: host.clone(),
            problem,
        };
        match error {
            Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                unreachable(format!("no connection within {} s", CONNECT_LIMIT.as_secs()))
            }
            Error::Timeout(_) => self.slow(),
            Error::HostNotFound => {
                unreachable("the name of the host is not known, or there is no network".to_owned())
            }
            Error::BodyExceedsLimit(limit) => ForgeError::TooLarge { host, limit },
            Error::Rustls(error) => ForgeError::Tls {
                host,
                problem: line(&error.to_string()),
            },
            Error::Io(error) if error.kind() == ErrorKind::InvalidData => ForgeError::Tls {
                host,
                problem: line(&error.to_string()),
            },
            Error::Io(error) => unreachable(line(&error.to_string())),
            Error::ConnectionFailed => unreachable("nothing accepts the connection".to_owned()),
            other => unreachable(line(&other.to_string())),
        }
    }
}

fn proxy(settings: &ProxySettings) -> Result<Option<Proxy>, ForgeError> {
    let Some((variable, address)) = &settings.proxy else {
        return Ok(None);
    };
    let wrong = |_| ForgeError::Proxy(variable.clone());
    let given = Proxy::new(address).map_err(wrong)?;
    let mut proxy = Proxy::builder(given.protocol())
        .host(given.host())
        .port(given.port());
    if let Some(user) = given.username() {
        proxy = proxy.username(user);
    }
    if let Some(password) = given.password() {
        proxy = proxy.password(password);
    }
    for except in settings
        .except
        .split(',')
        .map(str::trim)
        .filter(|host| !host.is_empty())
    {
        proxy = proxy.no_proxy(except);
    }
    proxy.build().map(Some).map_err(wrong)
}

/// The certificates that the system trusts, which may include those of a company; without a system's store, those that
/// browsers trust.
pub fn trusted_roots() -> RootCerts {
    let trusted: Vec<_> = rustls_native_certs::load_native_certs()
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    if trusted.is_empty() {
        RootCerts::WebPki
    } else {
        RootCerts::Specific(Arc::new(trusted))
    }
}
