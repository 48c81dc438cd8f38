//! An HTTP/1.1 server over loopback, with as much of the protocol as the clients in tests use: requests with a length or
//! in chunks.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, Error, ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Serves every connection on a thread of its own. Dropping it ends every connection, including those that hang, and
/// returns when no thread is left.
pub(crate) struct HttpServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Listens on a free port of 127.0.0.1. An error that `serve` returns ends only its own connection.
    pub(crate) fn start(serve: impl Fn(&TcpStream) -> Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let stop = Arc::new(AtomicBool::new(false));
        let acceptor = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || accept(&listener, &stop, &Arc::new(serve))
        });
        Self {
            address,
            stop,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // This connection wakes the acceptor, which checks the flag before it serves the connection.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept<F>(listener: &TcpListener, stop: &AtomicBool, serve: &Arc<F>)
where
    F: Fn(&TcpStream) -> Result<()> + Send + Sync + 'static,
{
    let open = Arc::new(Mutex::new(HashMap::new()));
    let mut workers: Vec<JoinHandle<()>> = Vec::new();
    for (id, connection) in listener.incoming().enumerate() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = connection else { continue };
        let Ok(handle) = stream.try_clone() else { continue };
        locked(&open).insert(id, handle);
        let (open, serve) = (Arc::clone(&open), Arc::clone(serve));
        workers.retain(|worker| !worker.is_finished());
        workers.push(std::thread::spawn(move || {
            let _ = serve(&stream);
            let _ = stream.shutdown(Shutdown::Both);
            locked(&open).remove(&id);
        }));
    }
    for connection in locked(&open).values() {
        let _ = connection.shutdown(Shutdown::Both);
    }
    for worker in workers {
        let _ = worker.join();
    }
}

/// A poisoned lock means that a test has already failed; the rest still has to be torn down.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct HttpRequest {
    pub(crate) method: String,
    /// The path with its query.
    pub(crate) path: String,
    /// The headers, with names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

fn line(reader: &mut impl BufRead) -> Result<Option<String>> {
    let mut text = String::new();
    let read = reader.by_ref().take(64 * 1024).read_line(&mut text)?;
    Ok((read > 0).then(|| text.trim_end().to_owned()))
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what.to_owned())
}

/// The next request of a connection; `None` if the client closed it.
pub(crate) fn read_request(reader: &mut impl BufRead) -> Result<Option<HttpRequest>> {
    let Some(first) = line(reader)? else {
        return Ok(None);
    };
    let mut words = first.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words
        .next()
        .ok_or_else(|| bad("a request line without a path"))?
        .to_owned();
    let (mut length, mut chunked) = (0, false);
    let mut headers = Vec::new();
    while let Some(header) = line(reader)?.filter(|header| !header.is_empty()) {
        let Some((name, value)) = header.split_once(':') else {
            continue;
        };
        let (name, value) = (name.to_lowercase(), value.trim());
        if name == "content-length" {
            length = value
                .parse()
                .map_err(|_| bad("the content-length is not a number"))?;
        } else if name == "transfer-encoding" {
            chunked = value.eq_ignore_ascii_case("chunked");
        }
        headers.push((name, value.to_owned()));
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = line(reader)?.ok_or_else(|| bad("a body that ends early"))?;
            let size = u64::from_str_radix(&size, 16).map_err(|_| bad("a chunk without a size"))?;
            reader.by_ref().take(size).read_to_end(&mut body)?;
            line(reader)?;
            if size == 0 {
                break;
            }
        }
    } else {
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
    }
    Ok(Some(HttpRequest {
        method,
        path,
        headers,
        body,
    }))
}

/// Writes an answer with a length.
pub(crate) fn answer(
    mut stream: &TcpStream,
    code: u16,
    headers: &[(String, String)],
    body: &[u8],
) -> Result<()> {
    let mut head = format!("HTTP/1.1 {code} scripted\r\ncontent-type: application/json\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = write!(head, "content-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}
