//! A connection to the daemon's socket that is kept, for loads and measurements.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::World;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_mins(2);

/// A connection to the daemon of a world.
pub struct DaemonConnection {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl World {
    /// The socket of the world's daemon.
    pub fn daemon_socket(&self) -> PathBuf {
        self.kugetsu_home().join("run/daemon.sock")
    }

    /// Connects to the world's daemon.
    pub fn connect_daemon(&self) -> std::io::Result<DaemonConnection> {
        let writer = UnixStream::connect(self.daemon_socket())?;
        writer.set_read_timeout(Some(LIMIT))?;
        Ok(DaemonConnection {
            reader: BufReader::new(writer.try_clone()?),
            writer,
        })
    }
}

impl DaemonConnection {
    /// Sends a request without waiting for its answer.
    pub fn send(&mut self, method: &str, path: &str, headers: &str, body: &str) -> std::io::Result<()> {
        self.writer
            .write_all(request(method, path, headers, body).as_bytes())
    }

    /// Sends a request, and reads the whole answer. Returns its status and its body.
    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> std::io::Result<(u16, String)> {
        self.send(method, path, headers, body)?;
        let mut line = String::new();
        self.line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other(format!("not a status line: {line:?}")))?;
        let mut length = 0;
        loop {
            self.line(&mut line)?;
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// The JSON of an answer with the status 200.
    pub fn json(&mut self, path: &str) -> std::io::Result<Value> {
        let (status, body) = self.ask("GET", path, "", "")?;
        if status != 200 {
            return Err(std::io::Error::other(format!("{path}: {status}: {body}")));
        }
        serde_json::from_str(&body).map_err(std::io::Error::other)
    }

    /// The stream, to read what comes or to leave it.
    pub fn into_stream(self) -> BufReader<UnixStream> {
        self.reader
    }

    fn line(&mut self, line: &mut String) -> std::io::Result<()> {
        line.clear();
        if self.reader.read_line(line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// The text of a request. The headers end with `\r\n` each.
pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    let kind = if body.is_empty() {
        ""
    } else {
        "content-type: application/json\r\n"
    };
    format!(
        "{method} {path} HTTP/1.1\r\nhost: kugetsu\r\n{kind}{headers}content-length: {length}\r\n\r\n{body}"
    )
}
