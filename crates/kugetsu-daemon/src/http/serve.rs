//! Accepts connections and serves them, within limits: how many there are, and how long a client may take to agree on
//! TLS, to send the headers of a request, and to take an answer.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kugetsu_engine::raise_open_files;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use super::access::Peer;
use super::rates::counted_as;
use super::room::{Capacity, Guest, Room, Seat};

/// How long to wait if the system has no room for a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the log says that connections are refused.
const WARNING: Duration = Duration::from_mins(1);
/// The longest headers of a request, with its first line, in bytes.
const MAX_HEADERS: usize = 64 << 10;
/// How many open files the daemon asks the system for, and how many it counts on if it cannot learn the number.
const OPEN_FILES: u64 = 8192;
const FEW_OPEN_FILES: u64 = 256;

/// What clients may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How many connections there may be.
    pub(crate) connections: Capacity,
    /// How long a client may take to agree on TLS.
    pub(crate) handshake: Duration,
    /// How long a client may take to send the headers of a request, or to begin the next one.
    pub(crate) headers: Duration,
    /// How long a client may take nothing of an answer.
    pub(crate) stalled: Duration,
}

impl Limits {
    /// Those of an address.
    pub(crate) fn of_address(files: OpenFiles) -> Self {
        Self {
            connections: Capacity {
                owner: files.share(4),
                others: files.share(8),
                each: 128,
            },
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(30),
            stalled: Duration::from_mins(5),
        }
    }

    /// Those of the socket, where only the owner is. A command keeps its connection as long as its turn runs.
    pub(crate) fn of_socket(files: OpenFiles) -> Self {
        Self {
            headers: Duration::from_mins(5),
            stalled: Duration::from_hours(1),
            ..Self::of_address(files)
        }
    }
}

/// How many files the daemon may have open. Connections are files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFiles(u64);

impl OpenFiles {
    /// Raises the number to what the daemon needs, as far as the system lets it.
    pub(crate) fn raise() -> Self {
        let now = raise_open_files(OPEN_FILES).unwrap_or(OPEN_FILES);
        Self(now.clamp(FEW_OPEN_FILES, OPEN_FILES))
    }

    /// This part of them.
    pub(crate) fn share(self, divisor: u64) -> usize {
        (self.0 / divisor) as usize
    }
}

/// What connections come from.
pub(crate) enum Listener {
    /// The socket, for the owner's processes only.
    Socket(UnixListener),
    /// An address.
    Address {
        listener: TcpListener,
        /// With this, connections have TLS, and none of them is the owner's.
        tls: Option<TlsAcceptor>,
        /// Whether many clients come from the address of a proxy.
        is_shared: bool,
    },
}

enum Accepted {
    Socket(UnixStream),
    Address(TcpStream),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<(Accepted, Peer)> {
        match self {
            Self::Socket(listener) => loop {
                let (stream, _) = listener.accept().await?;
                if Peer::is_owners(&stream) {
                    return Ok((Accepted::Socket(stream), Peer::Socket));
                }
                tracing::warn!("a connection of another user to the socket is refused");
            },
            Self::Address {
                listener,
                tls,
                is_shared,
            } => {
                let (stream, other) = listener.accept().await?;
                // Behind TLS or a proxy, nobody is the owner because of the connection.
                let peer = if tls.is_some() || *is_shared {
                    Peer::Other(other.ip())
                } else {
                    Peer::of(&stream, other)
                };
                Ok((Accepted::Address(stream), peer))
            }
        }
    }

    fn guest(&self, peer: Peer) -> Guest<IpAddr> {
        let is_shared = matches!(self, Self::Address { is_shared: true, .. });
        match peer {
            Peer::Socket | Peer::Loopback(_) => Guest::Owner,
            // Who is on this machine may choose among millions of addresses.
            Peer::Other(address) if is_shared || address.to_canonical().is_loopback() => Guest::Others,
            Peer::Other(address) => Guest::Other(counted_as(address)),
        }
    }
}

/// Serves connections until `closing` is true, and then the requests that have begun.
pub(crate) async fn serve(
    listener: Listener,
    router: Router,
    limits: Limits,
    mut closing: watch::Receiver<bool>,
) {
    let room = Room::new(limits.connections);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(MAX_HEADERS);
    let mut connections = JoinSet::new();
    let mut warned = None::<Instant>;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = is_true(&mut closing) => break,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Some(seat) = room.enter(listener.guest(peer)) else {
            if warned.is_none_or(|at| at.elapsed() >= WARNING) {
                warned = Some(Instant::now());
                tracing::warn!("connections are refused: as many are open as may be");
            }
            continue;
        };
        let conversation = Conversation {
            http: http.clone(),
            router: router.clone(),
            limits,
            peer,
            closing: closing.clone(),
            _seat: seat,
        };
        match (stream, &listener) {
            (Accepted::Socket(stream), _) => connections.spawn(conversation.hold(stream)),
            (Accepted::Address(stream), Listener::Address { tls: Some(tls), .. }) => {
                let agreeing = tokio::time::timeout(limits.handshake, tls.accept(stream));
                connections.spawn(async move {
                    if let Ok(Ok(stream)) = agreeing.await {
                        conversation.hold(stream).await;
                    }
                })
            }
            (Accepted::Address(stream), _) => connections.spawn(conversation.hold(stream)),
        };
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Waits until this is true, or nobody can make it true any more.
async fn is_true(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// A connection with its requests.
struct Conversation {
    http: http1::Builder,
    router: Router,
    limits: Limits,
    peer: Peer,
    closing: watch::Receiver<bool>,
    _seat: Seat<IpAddr>,
}

impl Conversation {
    async fn hold(mut self, stream: impl AsyncRead + AsyncWrite + Send) {
        let (router, peer) = (self.router, self.peer);
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            router.clone().call(request)
        });
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.stalled));
        let connection = self
            .http
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        tokio::pin!(connection);
        // An error of a connection is its end.
        tokio::select! {
            _ = &mut connection => {}
            () = is_true(&mut self.closing) => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;

    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    /// A time that is over soon, and one that is not over in a test.
    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(120);

    const LIMITS: Limits = Limits {
        connections: Capacity {
            owner: 100,
            others: 0,
            each: 0,
        },
        handshake: LONG,
        headers: LONG,
        stalled: LONG,
    };

    struct Served {
        address: SocketAddr,
        closing: watch::Sender<bool>,
        serving: JoinHandle<()>,
    }

    async fn served(limits: Limits, router: Router) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = watch::Sender::new(false);
        let listener = Listener::Address {
            listener,
            tls: None,
            is_shared: false,
        };
        let serving = tokio::spawn(serve(listener, router, limits, closing.subscribe()));
        Served {
            address,
            closing,
            serving,
        }
    }

    fn greeting() -> Router {
        Router::new().route("/", get(|| async { "hello" }))
    }

    /// What the server says to these bytes until it closes the connection.
    async fn said_to(address: SocketAddr, bytes: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may have closed the connection already.
        let _ = stream.write_all(bytes.as_bytes()).await;
        let mut said = Vec::new();
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut said))
            .await
            .expect("the server closes the connection");
        String::from_utf8(said).unwrap()
    }

    async fn is_served(address: SocketAddr) -> bool {
        let said = said_to(address, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        said.ends_with("hello")
    }

    #[tokio::test]
    async fn a_client_that_sends_its_headers_too_slowly_is_not_waited_for() {
        let limits = Limits {
            headers: SHORT,
            ..LIMITS
        };
        let served = served(limits, greeting()).await;
        for begun in ["", "GET / HTTP/1.1\r\nhost: x\r\n"] {
            let said = said_to(served.address, begun).await;
            assert!(!said.contains("hello"), "{said}");
        }
        assert!(is_served(served.address).await);
    }

    #[tokio::test]
    async fn headers_without_end_are_not_read() {
        let served = served(LIMITS, greeting()).await;
        let long = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(2 * MAX_HEADERS));
        let said = said_to(served.address, &long).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 431 "), "{said}");
    }

    #[tokio::test]
    async fn more_connections_than_may_be_are_refused_until_there_is_room() {
        let mut limits = LIMITS;
        limits.connections.owner = 2;
        let served = served(limits, greeting()).await;
        let open = TcpStream::connect(served.address).await.unwrap();
        let other = TcpStream::connect(served.address).await.unwrap();
        assert!(!is_served(served.address).await);
        drop((open, other));
        let waiting = tokio::time::timeout(LONG, async {
            while !is_served(served.address).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waiting.await.expect("there is room again");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_of_an_answer_is_left() {
        let limits = Limits {
            stalled: SHORT,
            ..LIMITS
        };
        let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(1);
        let receiver = std::sync::Mutex::new(Some(receiver));
        let receiver = std::sync::Arc::new(receiver);
        let endless = get(move || {
            let receiver = receiver.lock().unwrap().take().unwrap();
            async { Body::from_stream(ReceiverStream::new(receiver)) }
        });
        let served = served(limits, Router::new().route("/", endless)).await;
        let mut client = TcpStream::connect(served.address).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let sending = tokio::time::timeout(LONG, async {
            while sender.send(Ok(Bytes::from(vec![b'x'; 1 << 16]))).await.is_ok() {}
        });
        sending.await.expect("the connection ends");
    }

    #[tokio::test]
    async fn serving_ends_although_clients_are_connected() {
        let served = served(LIMITS, greeting()).await;
        let mut idle = TcpStream::connect(served.address).await.unwrap();
        // One is in the middle of its connection.
        idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0];
        idle.read_exact(&mut first).await.unwrap();
        served.closing.send(true).unwrap();
        let ended = tokio::time::timeout(LONG, served.serving).await;
        ended.expect("it ends").unwrap();
    }
}
