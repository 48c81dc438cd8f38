//! Why an issue could not be read.

use std::time::Duration;

use jiff::Timestamp;
use kugetsu_api::IssueRef;

/// Why an issue could not be read. Texts of the forge in it have a limited length and are on one line.
#[derive(Debug, thiserror::Error)]
pub enum ForgeError {
    /// The name of the host is unknown, nothing answers there, or the connection broke.
    #[error("{host} cannot be reached: {problem}")]
    Unreachable {
        /// The host.
        host: String,
        /// Why.
        problem: String,
    },
    /// The forge did not answer in time.
    #[error("{host} did not answer within {} s", .limit.as_secs_f64())]
    Slow {
        /// The host.
        host: String,
        /// The time limit of all requests together.
        limit: Duration,
    },
    /// The forge has an error of its own (5xx).
    #[error("{host} has an error of its own ({status})")]
    Server {
        /// The host.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// The forge answers no more requests for a while.
    #[error("{host} answers no more requests {}", again(*.until))]
    RateLimit {
        /// The host.
        host: String,
        /// When it answers again, if it says so.
        until: Option<Timestamp>,
        /// Whether the request had a token. Without one, the limit is lower.
        with_token: bool,
    },
    /// The issue does not exist, or not for this token.
    #[error("{host} has no issue {issue}{}", shown_to(.token.as_deref()))]
    NotFound {
        /// The host.
        host: String,
        /// The issue.
        issue: IssueRef,
        /// Where the token came from, if there is one.
        token: Option<String>,
    },
    /// The forge does not accept the token (401).
    #[error("{host} does not accept the token of {token}")]
    TokenRefused {
        /// The host.
        host: String,
        /// Where the token came from.
        token: String,
    },
    /// The token, or nobody, may not read the issue (403).
    #[error("{host} refuses to show {issue}: {problem}")]
    Refused {
        /// The host.
        host: String,
        /// The issue.
        issue: IssueRef,
        /// What the forge says.
        problem: String,
        /// Where the token came from, if there is one.
        token: Option<String>,
    },
    /// A token that cannot be sent.
    #[error("the token of {0} cannot be sent: it has spaces or characters that are not ASCII, or is empty")]
    TokenInvalid(String),
    /// The forge sends the request to another host, where no token must go.
    #[error("{host} redirects the request to {to}, which is not followed")]
    Redirected {
        /// The host.
        host: String,
        /// The other address.
        to: String,
    },
    /// An answer that is longer than any issue.
    #[error("an answer of {host} has more than {} MiB", .limit >> 20)]
    TooLarge {
        /// The host.
        host: String,
        /// The longest accepted answer, in bytes.
        limit: u64,
    },
    /// An answer that is not what the API describes.
    #[error("{host} does not answer like a {what}: {problem}")]
    Answer {
        /// The host.
        host: String,
        /// What was expected.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The certificate of the host is not valid, or TLS failed.
    #[error("no secure connection to {host}: {problem}")]
    Tls {
        /// The host.
        host: String,
        /// Why.
        problem: String,
    },
    /// The host is none of the known kinds of forges.
    #[error("{host} does not answer like GitHub, GitLab, Forgejo or Gitea")]
    UnknownKind {
        /// The host.
        host: String,
    },
    /// The proxy cannot be used.
    #[error("the proxy of {0} cannot be used: it must be http://HOST:PORT")]
    Proxy(String),
    /// The address of the API cannot be used.
    #[error("`{0}` is not the address of an API")]
    Address(String),
}

fn again(until: Option<Timestamp>) -> String {
    match until {
        Some(until) => format!("before {}", until.strftime("%F %T UTC")),
        None => "at the moment".to_owned(),
    }
}

fn shown_to(token: Option<&str>) -> String {
    match token {
        Some(token) => format!(", or does not show it to the owner of the token of {token}"),
        None => ", or does not show it without a token".to_owned(),
    }
}

impl ForgeError {
    /// The error of a request to an API, as that of the forge with this name. An API may have a host of its own.
    #[must_use]
    pub fn of(mut self, name: &str) -> Self {
        match &mut self {
            Self::Server { host, .. }
            | Self::RateLimit { host, .. }
            | Self::NotFound { host, .. }
            | Self::TokenRefused { host, .. }
            | Self::Refused { host, .. }
            | Self::Answer { host, .. } => name.clone_into(host),
            _ => {}
        }
        self
    }
}
