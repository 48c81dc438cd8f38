//! Who may do what.
//!
//! The socket is the owner's: the system tells the user of every connection. A connection over loopback is the owner's
//! if the system says so too, which it does on Linux; then the names in `Host` and `Origin` are checked as well, because
//! a browser of the owner sends requests that a web site has written. Everybody else needs a token, and so does every
//! request that came through a proxy, whoever the proxy is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::IncomingStream;
use kugetsu_api::{RepoRef, Scope};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::problem::{Answer, Problem};
use crate::app::App;

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
    /// Anybody.
    Unknown,
}

/// The socket, for the owner's processes only.
pub(crate) struct OwnersSocket(pub(crate) UnixListener);

impl axum::serve::Listener for OwnersSocket {
    type Io = UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = axum::serve::Listener::accept(&mut self.0).await;
            let owner = rustix::process::geteuid().as_raw();
            if stream
                .peer_cred()
                .is_ok_and(|peer| peer.uid() == owner || peer.uid() == 0)
            {
                return (stream, address);
            }
            tracing::warn!("a connection of another user to the socket is refused");
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, OwnersSocket>> for Peer {
    fn connect_info(_: IncomingStream<'_, OwnersSocket>) -> Self {
        Self::Socket
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let (Ok(own), other) = (stream.io().local_addr(), *stream.remote_addr()) else {
            return Self::Unknown;
        };
        let owner = rustix::process::geteuid().as_raw();
        match user_of(other, own) {
            Some(user) if user == owner && other.ip().is_loopback() => Self::Loopback(own),
            _ => Self::Unknown,
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
}

impl Access {
    const OWNER: Self = Self {
        scope: Scope::Admin,
        repos: Vec::new(),
    };

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

/// The access of a group of paths.
pub(super) async fn check(
    State((app, scope)): State<(Arc<App>, Scope)>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Answer<Response> {
    let access = access_of(&app, peer, request.headers()).await?;
    if access.scope < scope {
        return Err(Problem::forbidden(format!(
            "the token allows to {}, and this needs one that allows to {scope}",
            access.scope
        )));
    }
    request.extensions_mut().insert(access);
    Ok(next.run(request).await)
}

async fn access_of(app: &Arc<App>, peer: Peer, headers: &HeaderMap) -> Answer<Access> {
    if headers.contains_key(header::AUTHORIZATION) {
        let token = token_in(headers).unwrap_or_default();
        let (app, token) = (Arc::clone(app), token.to_owned());
        let checked = tokio::task::spawn_blocking(move || app.tokens.check(&token)).await;
        let found = match checked {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::error!("{error}");
                None
            }
            Err(_) => None,
        };
        return found
            .map(|token| Access {
                scope: token.scope,
                repos: token.repos,
            })
            .ok_or_else(|| Problem::unauthorized("the token is not known, or was revoked"));
    }
    let is_forwarded = app.behind_proxy || FORWARDED.iter().any(|name| headers.contains_key(*name));
    match peer {
        Peer::Socket => Ok(Access::OWNER),
        Peer::Loopback(own) if !is_forwarded => {
            check_names(headers, own)?;
            Ok(Access::OWNER)
        }
        Peer::Loopback(_) | Peer::Unknown => Err(Problem::unauthorized(
            "a token is needed: authorization: Bearer TOKEN",
        )
        .hint("make one: kugetsu daemon token create NAME")),
    }
}

fn token_in(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
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
    use super::*;

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
