//! Links that open the page once, and the logins of browsers that they begin. Both are in memory only, and so are the
//! secrets: their hashes are kept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::rejection::JsonRejection;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::{Extension, Json};
use jiff::{SignedDuration, Timestamp};
use kugetsu_api::{ErrorCode, PageLink};
use serde::Deserialize;

use super::Shared;
use super::access::{self, Peer};
use super::problem::{Answer, Problem};
use crate::app::App;
use crate::tokens::{digest, random};

/// How long a link opens the page.
const LINK: Duration = Duration::from_mins(1);
/// How long a login lasts.
const LOGIN: Duration = Duration::from_hours(12);
/// How many links and how many logins there may be; the oldest one goes.
const MOST: usize = 100;

/// The cookie where only TLS carries it. A browser takes a cookie with such a name only from the host itself.
const COOKIE: &str = "__Host-kugetsu";
/// The cookie over loopback without TLS.
const PLAIN_COOKIE: &str = "kugetsu";

/// Secrets by their hashes, each with its end.
type Secrets = HashMap<String, Instant>;

/// Links and logins.
#[derive(Default)]
pub(crate) struct Logins {
    links: Mutex<Secrets>,
    logins: Mutex<Secrets>,
}

impl Logins {
    /// The secret of a new link.
    fn new_link(&self) -> std::io::Result<String> {
        add(&self.links, LINK)
    }

    /// Uses a link up, and returns the secret of a new login if the link was good.
    fn redeem(&self, link: &str) -> std::io::Result<Option<String>> {
        let end = locked(&self.links).remove(&digest(link));
        if end.is_none_or(|end| end <= Instant::now()) {
            return Ok(None);
        }
        add(&self.logins, LOGIN).map(Some)
    }

    /// Whether a login with this hash goes on.
    pub(super) fn knows(&self, hash: &str) -> bool {
        let logins = locked(&self.logins);
        logins.get(hash).is_some_and(|end| *end > Instant::now())
    }

    fn end(&self, login: &str) {
        locked(&self.logins).remove(&digest(login));
    }
}

fn add(secrets: &Mutex<Secrets>, lasts: Duration) -> std::io::Result<String> {
    let secret = random()?;
    let now = Instant::now();
    let mut secrets = locked(secrets);
    secrets.retain(|_, end| *end > now);
    if secrets.len() >= MOST {
        let oldest = secrets.iter().min_by_key(|(_, end)| **end);
        let oldest = oldest.map(|(hash, _)| hash.clone());
        if let Some(hash) = oldest {
            secrets.remove(&hash);
        }
    }
    secrets.insert(digest(&secret), now + lasts);
    Ok(secret)
}

fn locked(secrets: &Mutex<Secrets>) -> MutexGuard<'_, Secrets> {
    secrets.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of the cookie that a request may have. On Linux, none over loopback without TLS: the system tells who the
/// owner is, and a browser would send the cookie to the servers of other users on this machine as well.
fn cookie_of(app: &App, headers: &HeaderMap) -> Option<&'static str> {
    if app.has_tls || access::is_forwarded(app, headers) {
        return Some(COOKIE);
    }
    (!cfg!(target_os = "linux")).then_some(PLAIN_COOKIE)
}

fn login_in<'a>(app: &App, headers: &'a HeaderMap) -> Option<&'a str> {
    let name = cookie_of(app, headers)?;
    let cookies = headers.get_all(header::COOKIE).iter();
    cookies
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(own, value)| (own == name).then_some(value))
}

/// The hash of the login, if a request comes from a browser that the owner has logged in. Refuses one that another site
/// has made.
pub(super) fn login_of(app: &App, method: &Method, headers: &HeaderMap) -> Answer<Option<String>> {
    let hash = login_in(app, headers).map(digest);
    let Some(hash) = hash.filter(|hash| app.logins.knows(hash)) else {
        return Ok(None);
    };
    check_site(method, headers)?;
    Ok(Some(hash))
}

/// Refuses a request that the page of another site may have made.
fn check_site(method: &Method, headers: &HeaderMap) -> Answer<()> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let only_reads = *method == Method::GET || *method == Method::HEAD;
    let is_own = match (text("sec-fetch-site"), text("origin")) {
        (Some("same-origin"), _) => true,
        // A person has typed the address.
        (Some("none"), _) => only_reads,
        (Some(_), _) => false,
        (None, None) => only_reads,
        (None, Some(origin)) => {
            let host = text("x-forwarded-host").or(text("host"));
            let from = origin.split_once("://").map(|(_, from)| from);
            from.is_some() && from == host
        }
    };
    if !is_own {
        return Err(Problem::forbidden("the request comes from another site"));
    }
    let is_json = text("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    if only_reads || is_json {
        return Ok(());
    }
    Err(Problem::usage("the body must be declared as application/json")
        .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// Refuses to log a browser in or out for another site.
pub(super) async fn same_site(
    State(app): Shared,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Answer<Response> {
    check_site(request.method(), request.headers())?;
    access::check_own_names(&app, peer, request.headers())?;
    let request = access::with_body(request).await?;
    Ok(next.run(request).await)
}

/// Makes a link, over the socket.
pub(super) async fn new_link(State(app): Shared) -> Answer<Json<PageLink>> {
    let code = app.logins.new_link().map_err(|error| no_secret(&error))?;
    let lasts = SignedDuration::try_from(LINK).unwrap_or_default();
    Ok(Json(PageLink {
        code,
        expires: Timestamp::now() + lasts,
    }))
}

/// What a browser has of a link.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    code: String,
}

/// Logs a browser in that has a link.
pub(super) async fn log_in(
    State(app): Shared,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    request: Result<Json<Login>, JsonRejection>,
) -> Answer<Response> {
    let Json(request) = request?;
    let Some(login) = app
        .logins
        .redeem(&request.code)
        .map_err(|error| no_secret(&error))?
    else {
        access::count_failure(&app, peer, &headers)?;
        return Err(Problem::unauthorized("the link was used already, or is too old")
            .hint("make another one: kugetsu daemon open"));
    };
    match cookie_of(&app, &headers) {
        Some(name) => Ok(with_cookie(name, &login, LOGIN)),
        // The system knows the owner.
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// Ends the login of a browser.
pub(super) async fn log_out(State(app): Shared, headers: HeaderMap) -> Response {
    if let Some(login) = login_in(&app, &headers) {
        app.logins.end(login);
    }
    match cookie_of(&app, &headers) {
        Some(name) => with_cookie(name, "", Duration::ZERO),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

fn with_cookie(name: &str, value: &str, lasts: Duration) -> Response {
    let secure = if name == COOKIE { "; Secure" } else { "" };
    let seconds = lasts.as_secs();
    let cookie = format!("{name}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict{secure}");
    let cookies = AppendHeaders([(header::SET_COOKIE, cookie)]);
    (StatusCode::NO_CONTENT, cookies).into_response()
}

fn no_secret(error: &std::io::Error) -> Problem {
    Problem::new(
        ErrorCode::System,
        format!("the system gives no random bytes: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_works_once_and_not_for_long() {
        let logins = Logins::default();
        let link = logins.new_link().unwrap();
        assert!(logins.redeem("0").unwrap().is_none());
        let login = logins.redeem(&link).unwrap().unwrap();
        let knows = |secret: &str| logins.knows(&digest(secret));
        assert!(knows(&login) && !knows(&link));
        assert!(logins.redeem(&link).unwrap().is_none());
        logins.end(&login);
        assert!(!knows(&login));
        let late = add(&logins.links, Duration::ZERO).unwrap();
        assert!(logins.redeem(&late).unwrap().is_none());
        for _ in 0..2 * MOST {
            logins.new_link().unwrap();
        }
        assert_eq!(locked(&logins.links).len(), MOST);
    }

    #[test]
    fn a_cookie_is_of_no_use_to_another_site() {
        let allows = |method: Method, fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
            }
            check_site(&method, &headers).is_ok()
        };
        let json = ("content-type", "application/json");
        let host = ("host", "kugetsu.example");
        assert!(allows(Method::GET, &[host]));
        assert!(allows(Method::GET, &[("sec-fetch-site", "none")]));
        assert!(allows(Method::POST, &[("sec-fetch-site", "same-origin"), json]));
        assert!(allows(
            Method::POST,
            &[host, ("origin", "https://kugetsu.example"), json]
        ));
        let behind = [
            ("x-forwarded-host", "kugetsu.example"),
            ("host", "127.0.0.1:7878"),
        ];
        let [forwarded, inner] = behind;
        assert!(allows(
            Method::POST,
            &[forwarded, inner, ("origin", "https://kugetsu.example"), json]
        ));
        assert!(!allows(Method::POST, &[host, json]));
        assert!(!allows(Method::POST, &[("sec-fetch-site", "none"), json]));
        assert!(!allows(
            Method::POST,
            &[("sec-fetch-site", "same-origin"), ("content-type", "text/plain")]
        ));
        assert!(!allows(
            Method::POST,
            &[host, ("origin", "https://evil.example"), json]
        ));
        assert!(!allows(Method::POST, &[host, ("origin", "null"), json]));
        for site in ["cross-site", "same-site"] {
            assert!(!allows(Method::GET, &[("sec-fetch-site", site)]));
            assert!(!allows(Method::POST, &[("sec-fetch-site", site), json]));
        }
    }
}
