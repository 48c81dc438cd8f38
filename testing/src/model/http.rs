//! The subset of HTTP/1.1 that a model's client uses: requests with a length or in chunks, answers whole or in chunks.

use std::fmt::Write as _;
use std::io::{BufRead, Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Shared;

/// The interval at which a waiting thread checks whether its client or the server is gone.
const POLL: Duration = Duration::from_millis(20);

pub(super) struct HttpRequest {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Vec<u8>,
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
pub(super) fn read_request(reader: &mut impl BufRead) -> Result<Option<HttpRequest>> {
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
    while let Some(header) = line(reader)?.filter(|header| !header.is_empty()) {
        let Some((name, value)) = header.split_once(':') else {
            continue;
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = value
                .parse()
                .map_err(|_| bad("the content-length is not a number"))?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        }
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
    Ok(Some(HttpRequest { method, path, body }))
}

/// The answering side of a connection.
pub(super) struct Client<'a> {
    stream: TcpStream,
    pub(super) shared: &'a Shared,
}

impl<'a> Client<'a> {
    pub(super) fn new(stream: TcpStream, shared: &'a Shared) -> Self {
        Self { stream, shared }
    }

    /// An answer with a length.
    pub(super) fn whole(&mut self, code: u16, headers: &[(String, String)], body: &[u8]) -> Result<()> {
        let mut head = format!("HTTP/1.1 {code} scripted\r\ncontent-type: application/json\r\n");
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "content-length: {}\r\n\r\n", body.len());
        self.stream.write_all(head.as_bytes())?;
        self.stream.write_all(body)
    }

    /// The head of an event stream.
    pub(super) fn begin_stream(&mut self) -> Result<()> {
        self.stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
              transfer-encoding: chunked\r\n\r\n",
        )
    }

    /// One event of the stream.
    pub(super) fn event(&mut self, data: &str) -> Result<()> {
        let event = format!("data: {data}\n\n");
        self.stream
            .write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
    }

    /// The clean end of the stream.
    pub(super) fn end_stream(&mut self) -> Result<()> {
        self.stream.write_all(b"0\r\n\r\n")
    }

    /// The error that ends only this connection.
    pub(super) fn hang_up() -> Error {
        Error::new(ErrorKind::ConnectionAborted, "hung up as scripted")
    }

    /// Whether the client has disconnected. Takes up to [`POLL`].
    pub(super) fn is_gone(&self) -> bool {
        if self.shared.stopped() {
            return true;
        }
        // This sets the connection's read timeout, which is safe because its only reader is this thread.
        let _ = self.stream.set_read_timeout(Some(POLL));
        let seen = self.stream.peek(&mut [0]);
        let _ = self.stream.set_read_timeout(None);
        match seen {
            Ok(0) => true,
            Ok(_) => {
                std::thread::sleep(POLL);
                false
            }
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// Waits; fails if the client or the server goes away meanwhile.
    pub(super) fn pause(&self, time: Option<Duration>) -> Result<()> {
        let end = time.map(|time| Instant::now() + time);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            match left {
                Some(left) if left.is_zero() => return Ok(()),
                Some(left) if left < POLL => std::thread::sleep(left),
                _ if self.is_gone() => return Err(Self::hang_up()),
                _ => {}
            }
        }
    }
}
