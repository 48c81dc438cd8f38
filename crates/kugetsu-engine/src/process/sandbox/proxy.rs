//! The only way from a sandbox to other hosts: an HTTP proxy that connects to the listed hosts and ports.
//!
//! A client asks for `CONNECT host:port` (HTTPS), or for an absolute URL (HTTP). The proxy resolves the name, so the
//! sandbox needs no DNS. A name that leads to the loopback or to a link-local address is refused, because a listed host
//! must not become a way to services of this machine.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The longest head of a request.
const MAX_HEAD: usize = 64 << 10;
/// How long a client may take to send the head, and a host to accept the connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many connections may be open at once.
const MOST: usize = 256;
/// How long to wait after the system could not accept a connection, for example because no file may be opened.
const PAUSE: Duration = Duration::from_millis(50);

/// Handles each connection in a thread of its own, until the listener fails for good.
pub(super) fn serve(listener: &TcpListener, handle: impl Fn(TcpStream) + Send + Sync + 'static) {
    let handle = Arc::new(handle);
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => return,
            Err(_) => {
                std::thread::sleep(PAUSE);
                continue;
            }
        };
        if open.fetch_add(1, Ordering::Relaxed) >= MOST {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (handle, counted) = (Arc::clone(&handle), Arc::clone(&open));
        let spawned = std::thread::Builder::new()
            .name("connection".into())
            .spawn(move || {
                handle(client);
                counted.fetch_sub(1, Ordering::Relaxed);
            });
        if spawned.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Copies both ways until both sides are done.
pub(super) fn pump(left: &TcpStream, right: &TcpStream) {
    let (Ok(mut from_left), Ok(mut to_left)) = (left.try_clone(), left.try_clone()) else {
        return;
    };
    let (Ok(mut from_right), Ok(mut to_right)) = (right.try_clone(), right.try_clone()) else {
        return;
    };
    let forth = std::thread::Builder::new().name("pump".into()).spawn(move || {
        let _ = std::io::copy(&mut from_left, &mut to_right);
        let _ = to_right.shutdown(Shutdown::Write);
    });
    if forth.is_err() {
        return;
    }
    let _ = std::io::copy(&mut from_right, &mut to_left);
    let _ = to_left.shutdown(Shutdown::Write);
    if let Ok(forth) = forth {
        let _ = forth.join();
    }
}

/// Serves one client of the proxy.
pub(super) fn handle(mut client: TcpStream, allowed: &[(String, u16)]) {
    let _ = client.set_read_timeout(Some(PATIENCE));
    let Some(head) = read_head(&mut client) else {
        return;
    };
    let answer = match connect(&head, allowed) {
        Ok((mut server, first)) => {
            let _ = client.set_read_timeout(None);
            let begun = match &first {
                First::Established => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n"),
                First::Request(request) => server.write_all(request),
            };
            if begun.is_ok() {
                pump(&client, &server);
            }
            return;
        }
        Err(refusal) => refusal,
    };
    let body = format!("{}\n", answer.1);
    let _ = client.write_all(
        format!(
            "HTTP/1.1 {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            answer.0,
            body.len()
        )
        .as_bytes(),
    );
}

/// The head of a request with its end, and what the client has sent after it.
struct Head {
    method: String,
    target: String,
    /// The lines of the head after the first one, each with its end; the last one is empty.
    fields: Vec<u8>,
    rest: Vec<u8>,
}

fn read_head(client: &mut TcpStream) -> Option<Head> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let end = loop {
        if let Some(at) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            break at + 4;
        }
        if bytes.len() > MAX_HEAD {
            return None;
        }
        match client.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    };
    let rest = bytes.split_off(end);
    let line_end = memchr::memmem::find(&bytes, b"\r\n")?;
    let fields = bytes.split_off(line_end + 2);
    let line = std::str::from_utf8(&bytes[..line_end]).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(Head {
        method,
        target,
        fields,
        rest,
    })
}

/// What goes to which side first.
enum First {
    /// The client hears that the connection stands.
    Established,
    /// The server gets this request.
    Request(Vec<u8>),
}

fn connect(head: &Head, allowed: &[(String, u16)]) -> Result<(TcpStream, First), (&'static str, String)> {
    const BAD: &str = "400 Bad Request";
    let bad = |what: &str| (BAD, format!("kugetsu's sandbox: {what}"));
    if head.method == "CONNECT" {
        let (host, port) = split(&head.target, None).ok_or_else(|| bad("the target is not HOST:PORT"))?;
        let server = open(&host, port, allowed)?;
        return Ok((server, First::Established));
    }
    let Some(target) = head.target.strip_prefix("http://") else {
        return Err(bad(
            "this is a proxy; ask for an absolute http:// URL, or CONNECT",
        ));
    };
    let (authority, path) = match target.find('/') {
        Some(at) => target.split_at(at),
        None => (target, "/"),
    };
    let (host, port) = split(authority, Some(80)).ok_or_else(|| bad("the URL has no host"))?;
    let server = open(&host, port, allowed)?;
    let mut request = format!("{} {path} HTTP/1.1\r\n", head.method).into_bytes();
    // One request for each connection: the next one could be for another host.
    request.extend_from_slice(format!("host: {authority}\r\nconnection: close\r\n").as_bytes());
    for line in head.fields.split_inclusive(|&byte| byte == b'\n') {
        let name = line
            .split(|&byte| byte == b':')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        if !matches!(
            name.as_slice(),
            b"host" | b"connection" | b"proxy-connection" | b"proxy-authorization" | b"keep-alive"
        ) {
            request.extend_from_slice(line);
        }
    }
    request.extend_from_slice(&head.rest);
    Ok((server, First::Request(request)))
}

/// Splits `host:port`, also with an IPv6 address in brackets. User information is not allowed.
fn split(authority: &str, default: Option<u16>) -> Option<(String, u16)> {
    if authority.contains('@') {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            (host, after.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok()?,
        None => default?,
    };
    (!host.is_empty()).then(|| (host.to_ascii_lowercase(), port))
}

fn open(host: &str, port: u16, allowed: &[(String, u16)]) -> Result<TcpStream, (&'static str, String)> {
    if !allowed
        .iter()
        .any(|(name, number)| name.eq_ignore_ascii_case(host) && *number == port)
    {
        return Err((
            "403 Forbidden",
            format!("kugetsu's sandbox does not allow connections to {host}:{port}; see `sandbox_hosts`"),
        ));
    }
    let unreachable = |why: String| {
        (
            "502 Bad Gateway",
            format!("{host}:{port} cannot be reached: {why}"),
        )
    };
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|error| unreachable(error.to_string()))?;
    let literal = host.parse::<IpAddr>().is_ok();
    let mut why = "it has no address".to_owned();
    for address in addresses {
        if !literal && is_of_this_machine(&address) {
            "its address belongs to this machine".clone_into(&mut why);
            continue;
        }
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(server) => return Ok(server),
            Err(error) => why = error.to_string(),
        }
    }
    Err(unreachable(why))
}

fn is_of_this_machine(address: &SocketAddr) -> bool {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_split_into_host_and_port() {
        let some = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(split("Example.com:443", None), some("example.com", 443));
        assert_eq!(split("example.com", Some(80)), some("example.com", 80));
        assert_eq!(split("[::1]:8", None), some("::1", 8));
        for bad in ["", ":80", "a@b:80", "a:b", "a:99999", "[::1", "a"] {
            assert_eq!(split(bad, None), None, "{bad}");
        }
    }

    #[test]
    fn only_listed_hosts_and_ports_are_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let allowed = [("127.0.0.1".to_owned(), port), ("localhost".to_owned(), port)];
        assert!(open("127.0.0.1", port, &allowed).is_ok());
        assert_eq!(
            open("127.0.0.1", port ^ 1, &allowed).unwrap_err().0,
            "403 Forbidden"
        );
        assert_eq!(
            open("example.com", port, &allowed).unwrap_err().0,
            "403 Forbidden"
        );
        let (status, why) = open("localhost", port, &allowed).unwrap_err();
        assert_eq!(status, "502 Bad Gateway");
        assert!(why.contains("belongs to this machine"), "{why}");
    }
}
