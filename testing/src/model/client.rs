//! The answering side of a connection of the model: answers whole or as an event stream.

use std::io::{Error, ErrorKind, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Shared;
use crate::http;

/// The interval at which a waiting thread checks whether its client or the server is gone.
const POLL: Duration = Duration::from_millis(20);

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
        http::answer(&self.stream, code, headers, body)
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
