//! Who may do what.
//!
//! The socket is the owner's: the system tells the user of every connection. A connection over loopback is the owner's
//! if the system says so too, which it does on Linux; then the names in `Host` and `Origin` are checked as well, because
//! a browser of the owner sends requests that a web site has written. Everybody else needs a token, and so does every
//! request that came through a proxy, whoever the proxy is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use jiff::Timestamp;
use kugetsu_api::{ErrorCode, RepoRef, Scope, TokenView};
use tokio::net::{TcpStream, UnixStream};

use super::logins;
use super::problem::{Answer, Problem};
use super::rates::{Client, counted_as};
use super::room::{Guest, Seat};
use crate::app::App;
use crate::tokens::Checked;

/// How long the body of a request may take to arrive.
const BODY: Duration = Duration::from_secs(30);
/// When to ask for a stream of events again that there was no room for.
const NEXT_STREAM: Duration = Duration::from_secs(10);

/// How long a stream goes on after its token was revoked or its login has ended.
const REVOKED: Duration = Duration::from_secs(2);

/// The port that a URL need not name.
const HTTP: u16 = 80;

/// Headers that proxies add.
const FORWARDED: [&str; 5] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-real-ip",
];

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process of the owner, over the socket.
    Socket,
    /// A process of the owner, over loopback to this address.
    Loopback(SocketAddr),
    /// Anybody, from this address.
    Other(IpAddr),
}

impl Peer {
    /// Whether a connection over the socket is the owner's. Root may do what the owner may.
    pub(super) fn is_owners(stream: &UnixStream) -> bool {
        let owner = rustix::process::geteuid().as_raw();
        stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == owner || peer.uid() == 0)
    }

    /// The other end of a connection to an address.
    pub(super) fn of(stream: &TcpStream, other: SocketAddr) -> Self {
        let owner = rustix::process::geteuid().as_raw();
        match stream.local_addr() {
            Ok(own) if other.ip().is_loopback() && user_of(other, own) == Some(owner) => Self::Loopback(own),
            _ => Self::Other(other.ip()),
        }
    }
}

/// The user whose process has the other end of a connection on this machine. The format is that of `proc(5)`.
fn user_of(other: SocketAddr, own: SocketAddr) -> Option<u32> {
    let table = if other.is_ipv4() {
        "/proc/self/net/tcp"
    } else {
        "/proc/self/net/tcp6"
    };
    user_in(&std::fs::read_to_string(table).ok()?, other, own)
}

fn user_in(table: &str, other: SocketAddr, own: SocketAddr) -> Option<u32> {
    let (other, own) = (in_table(other), in_table(own));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote) = (fields.next()?, fields.next()?);
        // The system forgets the user of a connection that its process has closed.
        if local != other || remote != own || fields.next()? != ESTABLISHED {
            return None;
        }
        // Queues, timer and retransmissions are between.
        fields.nth(3)?.parse().ok()
    })
}

/// An address as the table has it: groups of four bytes in the order of the machine, then the port.
fn in_table(address: SocketAddr) -> String {
    let bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let groups = bytes.chunks_exact(4);
    let words = groups.map(|group| u32::from_ne_bytes([group[0], group[1], group[2], group[3]]));
    let mut text = String::new();
    for word in words {
        text.push_str(&format!("{word:08X}"));
    }
    text.push_str(&format!(":{:04X}", address.port()));
    text
}

/// The state of a connection that both ends have open.
const ESTABLISHED: &str = "01";

/// What a request may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    scope: Scope,
    /// The repositories that it may see; all of them if there is none.
    repos: Vec<RepoRef>,
    credential: Credential,
}

/// What a request has its access by.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Credential {
    /// The owner's process makes it.
    Process,
    /// A browser that the owner has logged in; the hash of its login.
    Login(String),
    /// A token.
    Token(TokenView),
}

impl Access {
    const OWNER: Self = Self {
        scope: Scope::Admin,
        repos: Vec::new(),
        credential: Credential::Process,
    };

    /// Permits a stream of events, if there is room for one more.
    pub(super) fn stream(&self, app: &Arc<App>) -> Answer<StreamPermit> {
        let guest = match &self.credential {
            Credential::Process | Credential::Login(_) => Guest::Owner,
            Credential::Token(token) => Guest::Other(Client::Token(token.name.clone())),
        };
        match app.streams.enter(guest) {
            Some(seat) => Ok(StreamPermit {
                app: Arc::clone(app),
                credential: self.credential.clone(),
                seat,
            }),
            None => Err(Problem::too_many(
                NEXT_STREAM,
                "as many streams of events are open as may be",
            )),
        }
    }

    /// Whether the request may see this repository.
    pub(crate) fn covers(&self, repo: &RepoRef) -> bool {
        self.repos.is_empty() || self.repos.contains(repo)
    }

    /// Refuses a repository that the request may not see.
    pub(crate) fn require(&self, repo: &RepoRef) -> Answer<()> {
        if self.covers(repo) {
            return Ok(());
        }
        Err(Problem::forbidden(format!("the token does not cover {repo}")))
    }

    /// Whether the request sees everything.
    pub(crate) fn covers_all(&self) -> bool {
        self.repos.is_empty()
    }

    /// Refuses a request that may see some repositories only what is of all of them.
    pub(crate) fn require_all(&self) -> Answer<()> {
        if self.covers_all() {
            return Ok(());
        }
        Err(Problem::forbidden(
            "the token covers some repositories, and this is of all of them",
        ))
    }
}

/// Permits one stream of events, which counts as open until this is dropped.
pub(super) struct StreamPermit {
    app: Arc<App>,
    credential: Credential,
    seat: Seat<Client>,
}

impl StreamPermit {
    /// The place of the stream, and a future that waits until its token was revoked or has expired, or its login has ended.
    pub(super) fn split(self) -> (Seat<Client>, impl Future<Output = ()> + Send + 'static) {
        let Self {
            app,
            credential,
            seat,
        } = self;
        (seat, async move {
            // Nothing can end the access of the owner's process, so nothing is asked again and again.
            if credential == Credential::Process {
                return std::future::pending().await;
            }
            while credential.opens(&app).await {
                tokio::time::sleep(REVOKED).await;
            }
        })
    }
}

impl Credential {
    /// Whether it still gives access. In doubt, it does.
    async fn opens(&self, app: &Arc<App>) -> bool {
        match self {
            Self::Process => true,
            Self::Login(hash) => app.logins.knows(hash),
            Self::Token(token) => {
                let (app, token) = (Arc::clone(app), token.clone());
                let opens = move || app.tokens.opens(&token, Timestamp::now());
                !matches!(tokio::task::spawn_blocking(opens).await, Ok(Ok(false)))
            }
        }
    }
}

/// The access of a group of paths.
pub(super) async fn check(
    State((app, scope)): State<(Arc<App>, Scope)>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Answer<Response> {
    let access = access_of(&app, peer, request.method(), request.headers()).await?;
    if access.scope < scope {
        return Err(Problem::forbidden(format!(
            "the token allows to {}, and this needs one that allows to {scope}",
            access.scope
        )));
    }
    // Nothing of the body is read before.
    let mut request = with_body(request).await?;
    request.extensions_mut().insert(access);
    Ok(next.run(request).await)
}

/// Paths that everybody may use, but not without end.
pub(super) async fn visit(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Answer<Response> {
    if !is_owners(&app, peer, request.headers()) {
        let address = address_of(&app, peer, request.headers());
        count(&app, &Client::Address(address))?;
    }
    Ok(next.run(request).await)
}

/// The request with its whole body, which has to arrive in time.
pub(super) async fn with_body(request: Request) -> Answer<Request> {
    with_body_within(request, BODY).await
}

async fn with_body_within(request: Request, limit: Duration) -> Answer<Request> {
    let (parts, body) = request.into_parts();
    // The extension that limits the length is among the parts.
    let whole = Request::from_parts(parts.clone(), body);
    match tokio::time::timeout(limit, Bytes::from_request(whole, &())).await {
        Ok(body) => Ok(Request::from_parts(parts, Body::from(body?))),
        Err(_) => Err(Problem::too_slow(limit)),
    }
}

async fn access_of(app: &Arc<App>, peer: Peer, method: &Method, headers: &HeaderMap) -> Answer<Access> {
    let is_owners = is_owners(app, peer, headers);
    // A proxy in front of the page may have a password of its own, which browsers send on.
    let is_for_proxy = !is_owners && scheme_in(headers).is_some_and(|(scheme, _)| is(scheme, "basic"));
    if headers.contains_key(header::AUTHORIZATION) && !is_for_proxy {
        return access_by_token(app, peer, headers).await;
    }
    if is_owners {
        check_own_names(app, peer, headers)?;
        return Ok(Access::OWNER);
    }
    if let Some(login) = logins::login_of(app, method, headers)? {
        return Ok(Access {
            credential: Credential::Login(login),
            ..Access::OWNER
        });
    }
    count(app, &Client::Address(address_of(app, peer, headers)))?;
    Err(
        Problem::unauthorized("a token is needed: authorization: Bearer TOKEN")
            .hint("make one: kugetsu daemon token create NAME")
            .hint("for the page, make a link instead: kugetsu daemon open"),
    )
}

/// Checks the names of a request that a browser of the owner may have made over loopback.
pub(super) fn check_own_names(app: &App, peer: Peer, headers: &HeaderMap) -> Answer<()> {
    match peer {
        Peer::Loopback(own) if !is_forwarded(app, headers) => check_names(headers, own),
        _ => Ok(()),
    }
}

async fn access_by_token(app: &Arc<App>, peer: Peer, headers: &HeaderMap) -> Answer<Access> {
    let token = token_in(headers).unwrap_or_default().to_owned();
    let checking = Arc::clone(app);
    let checked = tokio::task::spawn_blocking(move || checking.tokens.check(&token, Timestamp::now())).await;
    let problem = match checked {
        Ok(Ok(Checked::Known(token))) => {
            count(app, &Client::Token(token.name.clone()))?;
            return Ok(Access {
                scope: token.scope,
                repos: token.repos.clone(),
                credential: Credential::Token(token),
            });
        }
        Ok(Ok(Checked::Expired(token, at))) => Problem::unauthorized(format!(
            "the token `{}` expired at {}",
            token.name,
            at.strftime("%F %T UTC")
        ))
        .hint("make another one: kugetsu daemon token create NAME"),
        Ok(Ok(_)) => Problem::unauthorized("the token is not known, or was revoked"),
        // Whether it is known cannot be told.
        Ok(Err(error)) => return Err(Problem::new(ErrorCode::StoreUnwritable, error.to_string())),
        Err(error) => return Err(Problem::new(ErrorCode::Internal, error.to_string())),
    };
    count_failure(app, peer, headers)?;
    Err(problem)
}

/// Counts a request of somebody else than the owner that has a wrong secret.
pub(super) fn count_failure(app: &App, peer: Peer, headers: &HeaderMap) -> Answer<()> {
    if is_owners(app, peer, headers) {
        return Ok(());
    }
    let counted = app.rates.failure(address_of(app, peer, headers));
    counted.map_err(|wait| Problem::too_many(wait, "too many requests with a wrong token"))
}

/// Counts a request of somebody else than the owner.
fn count(app: &App, client: &Client) -> Answer<()> {
    let counted = app.rates.request(client);
    counted.map_err(|wait| Problem::too_many(wait, "too many requests"))
}

/// Whether a request comes through a proxy.
pub(super) fn is_forwarded(app: &App, headers: &HeaderMap) -> bool {
    app.behind_proxy || names_a_proxy(headers)
}

fn names_a_proxy(headers: &HeaderMap) -> bool {
    FORWARDED.iter().any(|name| headers.contains_key(*name))
}

/// Whether a process of the owner makes the request itself.
fn is_owners(app: &App, peer: Peer, headers: &HeaderMap) -> bool {
    match peer {
        Peer::Socket => !names_a_proxy(headers),
        Peer::Loopback(_) => !is_forwarded(app, headers),
        Peer::Other(_) => false,
    }
}

/// The address that a request counts for. What a proxy says is believed if it is the owner's, or was announced.
fn address_of(app: &App, peer: Peer, headers: &HeaderMap) -> IpAddr {
    let (address, is_trusted) = match peer {
        Peer::Socket => (Ipv4Addr::LOCALHOST.into(), false),
        Peer::Loopback(own) => (own.ip(), true),
        Peer::Other(address) => (address, app.behind_proxy),
    };
    let told = is_trusted.then(|| told_by_proxy(headers)).flatten();
    counted_as(told.unwrap_or(address))
}

/// The address that the nearest proxy has seen. What comes before it in the header may be made up.
fn told_by_proxy(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back();
    let text = last.or_else(|| headers.get("x-real-ip"))?.to_str().ok()?;
    let text = text.rsplit(',').next()?.trim();
    let with_port = || text.parse().map(|address: SocketAddr| address.ip());
    text.parse().or_else(|_| with_port()).ok()
}

fn token_in(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = scheme_in(headers)?;
    is(scheme, "bearer").then_some(token.trim())
}

/// How a request tells who makes it, and what it tells.
fn scheme_in(headers: &HeaderMap) -> Option<(&str, &str)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.split_once(' ')
}

fn is(scheme: &str, name: &str) -> bool {
    scheme.eq_ignore_ascii_case(name)
}

/// Refuses a request that a browser may have been told to make: its `Host` is a name that leads here by an attacker's
/// DNS, or its `Origin` is another site.
fn check_names(headers: &HeaderMap, own: SocketAddr) -> Answer<()> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &header::HeaderValue| value.to_str().ok())
    };
    let mut names = vec![format!("localhost:{}", own.port()), own.to_string()];
    if own.port() == HTTP {
        // Clients leave this port out.
        names.extend([
            "localhost".to_owned(),
            own.ip().to_string(),
            format!("[{}]", own.ip()),
        ]);
    }
    let host = text(header::HOST).unwrap_or_default();
    if !names.iter().any(|name| host.eq_ignore_ascii_case(name)) {
        return Err(Problem::forbidden(format!(
            "the request is for the host `{host}`, and this daemon is {}",
            names.join(" or ")
        )));
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or_default();
    if origin == format!("http://{host}") {
        return Ok(());
    }
    Err(Problem::forbidden(format!(
        "the request comes from another site: {origin}"
    )))
}

#[cfg(test)]
mod tests {
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    #[tokio::test]
    async fn a_body_that_comes_too_slowly_is_not_waited_for() {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let begun: Result<Bytes, std::io::Error> = Ok(Bytes::from_static(b"{"));
        sender.send(begun).await.unwrap();
        let request = Request::new(Body::from_stream(ReceiverStream::new(receiver)));
        let refused = with_body_within(request, Duration::from_millis(50))
            .await
            .unwrap_err();
        assert_eq!(axum::response::IntoResponse::into_response(refused).status(), 408);
        // It is there at once.
        let request = Request::new(Body::from("{}"));
        assert!(with_body(request).await.is_ok());
    }

    #[test]
    fn the_address_of_a_client_is_what_the_nearest_proxy_says() {
        let told = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            told_by_proxy(&headers).map(|address| address.to_string())
        };
        assert_eq!(told(&["192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(told(&["10.0.0.1, 192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(
            told(&["10.0.0.1", "[2001:db8::1]:443"]).as_deref(),
            Some("2001:db8::1")
        );
        assert_eq!(told(&["unknown"]), None);
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn the_user_of_a_connection_is_found_in_the_systems_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1EC6 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n\
             1: 0100007F:1EC6 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1\n\
             2: 0100007F:C350 0100007F:1EC6 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1\n\
             3: 0100007F:C351 0100007F:1EC6 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1\n";
        let own: SocketAddr = "127.0.0.1:7878".parse().unwrap();
        let found = |port: u16| user_in(table, SocketAddr::new(own.ip(), port), own);
        assert_eq!(found(50000), Some(1000));
        assert_eq!(found(50001), None);
        assert_eq!(
            in_table("[::1]:80".parse().unwrap()),
            format!("{}{:08X}:0050", "0".repeat(24), u32::from_ne_bytes([0, 0, 0, 1]))
        );
    }

    #[test]
    fn a_request_that_a_web_site_has_written_is_refused() {
        let own = "127.0.0.1:7878".parse().unwrap();
        let allowed = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            check_names(&headers, own).is_ok()
        };
        assert!(allowed("127.0.0.1:7878", None));
        assert!(allowed("localhost:7878", Some("http://localhost:7878")));
        assert!(!allowed("evil.example:7878", None));
        assert!(!allowed("127.0.0.1", None));
        assert!(!allowed("127.0.0.1:7878", Some("http://evil.example")));
        assert!(!allowed("127.0.0.1:7878", Some("null")));
    }
}
