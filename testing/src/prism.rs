//! Prism, a proxy that judges each request by GitHub's published OpenAPI document.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::workspace_root;

/// How long Prism may take to read the document, on a busy machine.
const START_LIMIT: Duration = Duration::from_mins(3);

/// A running Prism. It ends when dropped.
pub struct Prism {
    child: Child,
    port: u16,
}

impl Prism {
    /// What must be installed, with exact versions.
    pub const PACKAGES: [&str; 2] = ["@stoplight/prism-cli@5.14.2", "@octokit/openapi@23.0.2"];

    /// The folder of the installation, which git ignores.
    pub fn folder() -> PathBuf {
        workspace_root().join(".prism")
    }

    /// The script for node.
    pub fn program() -> PathBuf {
        Self::folder().join("node_modules/@stoplight/prism-cli/dist/index.js")
    }

    /// The OpenAPI document of github.com.
    pub fn document() -> PathBuf {
        Self::folder().join("node_modules/@octokit/openapi/generated/api.github.com.json")
    }

    /// Starts a proxy before a server. It answers requests that the document does not allow with an error.
    pub fn start(server: &str) -> Self {
        assert!(
            Self::program().is_file() && Self::document().is_file(),
            "Prism is not installed: run `cargo xtask test forge::`"
        );
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
        let port = free.local_addr().expect("a bound socket has an address").port();
        drop(free);
        let child = Command::new("node")
            .arg(Self::program())
            .args([
                "proxy",
                "--errors",
                "--host",
                "127.0.0.1",
                "--port",
                &port.to_string(),
            ])
            .arg(Self::document())
            .arg(server)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("node is needed");
        let mut prism = Self { child, port };
        let end = Instant::now() + START_LIMIT;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = prism.child.try_wait().expect("a child of this process");
            assert!(
                ended.is_none() && Instant::now() < end,
                "Prism did not start: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        prism
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sends a request that may be wrong, and returns the status of the answer and the rest.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("it listens");
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), answer)
    }
}

impl Drop for Prism {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
