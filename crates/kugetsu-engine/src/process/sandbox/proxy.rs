//! The only way from a sandbox to other hosts: an HTTP proxy that connects to the listed hosts and ports.
//!
//! A client asks for `CONNECT host:port` (HTTPS), or for an absolute URL (HTTP). The proxy resolves the name, so the
//! sandbox needs no DNS. Whoever owns a listed name decides where it leads, so a name must not become a way to services of
//! this machine or of its network: an address of this machine or a link-local one is refused, and so is one of a private
//! network, unless the address is listed itself, or the name is that of the model's provider.

use std::io::{Read as _, Write as _};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Host;

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
pub(super) fn handle(mut client: TcpStream, allowed: &[Host]) {
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

fn connect(head: &Head, allowed: &[Host]) -> Result<(TcpStream, First), (&'static str, String)> {
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

fn open(host: &str, port: u16, allowed: &[Host]) -> Result<TcpStream, (&'static str, String)> {
    let addresses = choose(host, port, allowed, |host, port| {
        Ok((host, port).to_socket_addrs()?.collect())
    })?;
    let mut why = String::new();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(server) => return Ok(server),
            Err(error) => why = error.to_string(),
        }
    }
    Err(unreachable(host, port, &why))
}

fn unreachable(host: &str, port: u16, why: &str) -> (&'static str, String) {
    (
        "502 Bad Gateway",
        format!("{host}:{port} cannot be reached: {why}"),
    )
}

/// The addresses of a host that may be connected to: at least one.
fn choose(
    host: &str,
    port: u16,
    allowed: &[Host],
    resolve: impl Fn(&str, u16) -> std::io::Result<Vec<SocketAddr>>,
) -> Result<Vec<SocketAddr>, (&'static str, String)> {
    let mut listed = allowed
        .iter()
        .filter(|listed| listed.name.eq_ignore_ascii_case(host) && listed.port == port)
        .peekable();
    if listed.peek().is_none() {
        return Err((
            "403 Forbidden",
            format!("kugetsu's sandbox does not allow connections to {host}:{port}; see `sandbox_hosts`"),
        ));
    }
    let private = listed.any(|listed| listed.private);
    let is_listed = |ip: IpAddr| {
        let mut listed = allowed.iter().filter(|listed| listed.port == port);
        listed.any(|listed| listed.name.parse() == Ok(ip))
    };
    let mut why = "it has no address".to_owned();
    let found = resolve(host, port).map_err(|error| unreachable(host, port, &error.to_string()))?;
    let mut chosen = Vec::new();
    for address in found {
        let ip = address.ip();
        let refused = match place_of(ip) {
            _ if is_listed(ip) => None,
            Place::ThisMachine => Some("belongs to this machine"),
            Place::Link => Some("is one of the local link"),
            Place::PrivateNetwork if !private => Some("is one of a private network"),
            Place::PrivateNetwork | Place::Internet => None,
        };
        match refused {
            Some(what) => {
                why = format!("its address {ip} {what}; to allow that, list the address in `sandbox_hosts`");
            }
            None => chosen.push(address),
        }
    }
    if chosen.is_empty() {
        return Err(unreachable(host, port, &why));
    }
    Ok(chosen)
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    ThisMachine,
    /// The link of an interface, where clouds have services that know secrets of the machine, or everybody on it.
    Link,
    PrivateNetwork,
    Internet,
}

fn place_of(ip: IpAddr) -> Place {
    let ip = embedded(ip.to_canonical());
    let place = match ip {
        IpAddr::V4(ip) => place_of_v4(ip),
        IpAddr::V6(ip) => place_of_v6(ip),
    };
    if is_own(ip) { Place::ThisMachine } else { place }
}

fn place_of_v4(ip: Ipv4Addr) -> Place {
    let [first, second, third, _] = ip.octets();
    match (first, second, third) {
        // "This host on this network" (RFC 1122); Linux connects to itself.
        (0 | 127, _, _) => Place::ThisMachine,
        (169, 254, _) | (224.., _, _) => Place::Link,
        // Networks of providers (RFC 6598), of protocols (RFC 6890) and of benchmarks (RFC 2544).
        (100, 64..=127, _) | (192, 0, 0) | (198, 18..=19, _) => Place::PrivateNetwork,
        _ if ip.is_private() => Place::PrivateNetwork,
        _ => Place::Internet,
    }
}

fn place_of_v6(ip: Ipv6Addr) -> Place {
    match ip.segments() {
        // Link-local (`fe80::/10`) and multicast.
        [0xfe80..=0xfebf | 0xff00.., ..] => Place::Link,
        // Unique local (`fc00::/7`), and the older site-local (`fec0::/10`).
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => Place::PrivateNetwork,
        // A network's own NAT64 (RFC 8215) and Teredo (RFC 4380), which can lead to any address behind a gateway.
        [0x64, 0xff9b, 1, ..] | [0x2001, 0, ..] => Place::PrivateNetwork,
        _ => Place::Internet,
    }
}

/// The address of version 4 that a gateway turns an address into: of NAT64 (`64:ff9b::/96`), 6to4 (`2002::/16`) and automatic
/// tunnels (`::/96`). `::` and `::1` become addresses of this machine too.
fn embedded(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = ip else { return ip };
    let four = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match six.segments() {
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            four(high, low)
        }
        _ => ip,
    }
}

/// Whether an interface of this machine has the address. To one of its own, a machine sends from the same address. A
/// datagram socket that is connected sends nothing.
fn is_own(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    from().is_ok_and(|from: SocketAddr| from.ip() == ip)
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

    fn host(name: &str, port: u16, private: bool) -> Host {
        Host {
            name: name.to_owned(),
            port,
            private,
        }
    }

    #[test]
    fn only_listed_hosts_and_ports_are_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let allowed = [host("127.0.0.1", port, false)];
        assert!(open("127.0.0.1", port, &allowed).is_ok());
        for (name, port) in [("127.0.0.1", port ^ 1), ("example.com", port), ("127.1", port)] {
            let refused = open(name, port, &allowed).unwrap_err();
            assert_eq!(refused.0, "403 Forbidden", "{name}:{port}");
        }
        let (status, why) = open("localhost", port, &[host("localhost", port, true)]).unwrap_err();
        assert_eq!(status, "502 Bad Gateway");
        assert!(why.contains("belongs to this machine"), "{why}");
    }

    #[test]
    fn a_name_leads_to_no_service_of_this_machine_or_of_its_network() {
        let leads = |private: bool, addresses: &[&str]| {
            let listed = [
                host("name.example", 443, private),
                host("10.0.0.7", 443, false),
                host("10.0.0.8", 80, false),
            ];
            choose("name.example", 443, &listed, |_, port| {
                Ok(addresses
                    .iter()
                    .map(|ip| SocketAddr::new(ip.parse().unwrap(), port))
                    .collect())
            })
        };
        for ip in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
            "::169.254.169.254",
        ] {
            assert!(leads(true, &[ip]).is_err(), "{ip}");
        }
        for ip in [
            "10.0.0.1",
            "10.0.0.8",
            "172.31.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "::10.0.0.1",
            "64:ff9b:1::a00:1",
            "64:ff9b:1:a00:0:100::",
            "2001:0:c000:201::f5ff:fffe",
        ] {
            let (status, why) = leads(false, &[ip]).unwrap_err();
            assert_eq!(status, "502 Bad Gateway", "{ip}");
            assert!(why.contains("sandbox_hosts"), "{why}");
            // The user's own provider may be there.
            assert!(leads(true, &[ip]).is_ok(), "{ip}");
        }
        for ip in [
            "192.0.2.1",
            "172.32.0.1",
            "2001:db8::1",
            "64:ff9b::c000:201",
            "10.0.0.7",
        ] {
            assert!(leads(false, &[ip]).is_ok(), "{ip}");
        }
        let some = leads(false, &["10.0.0.1", "192.0.2.1"]).unwrap();
        assert_eq!(some, [SocketAddr::new("192.0.2.1".parse().unwrap(), 443)]);
    }

    #[test]
    fn an_address_of_an_interface_belongs_to_this_machine() {
        let own = || {
            let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
            socket.connect("192.0.2.1:9").ok()?;
            Some(socket.local_addr().ok()?.ip())
        };
        // Without a network, the loopback is the only interface.
        let own = own().unwrap_or(Ipv4Addr::LOCALHOST.into());
        assert_eq!(place_of(own), Place::ThisMachine, "{own}");
        assert_eq!(place_of("192.0.2.1".parse().unwrap()), Place::Internet);
    }
}
