//! What a sandboxed program sees and reaches, by both mechanisms.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use super::*;
use crate::cancel::Cancel;
use crate::process::sandbox::{Available, Backend, Host, Limits, Mount, Network, Sandbox, available};
use crate::process::{Output, run_to_end};

fn machine() -> Available {
    let containment = World::new().spec("").containment;
    available(&containment, &Cancel::default())
}

fn bubblewrap() -> Backend {
    let found = machine().bubblewrap;
    Backend::Bubblewrap(found.expect("install it: apt-get install bubblewrap"))
}

fn backends() -> [Backend; 2] {
    assert!(machine().landlock, "these tests need a kernel with Landlock");
    [bubblewrap(), Backend::Landlock]
}

struct Place {
    folder: tempfile::TempDir,
    world: World,
}

impl Place {
    /// A folder with a file that may be written, one that may be read, and one that is not listed.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["write", "read", "hidden"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("file"), format!("{name}\n")).unwrap();
        }
        Self {
            folder,
            world: World::new(),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn sandbox(&self, backend: &Backend) -> Sandbox {
        Sandbox {
            backend: backend.clone(),
            mounts: vec![
                Mount::write(self.path().join("write")),
                Mount::read(self.path().join("read")),
            ],
            network: Network::default(),
            limits: Limits::default(),
        }
    }

    fn spec(&self, sandbox: Sandbox, script: &str) -> GuardSpec {
        let mut spec = self.world.spec(script);
        spec.sandbox = Some(sandbox);
        spec.cwd = self.path().join("write");
        spec.stderr = Sink::Piped;
        spec.containment.grace = Duration::from_secs(5);
        spec
    }

    fn run(&self, backend: &Backend, script: &str) -> Output {
        run_to_end(self.spec(self.sandbox(backend), script), DEADLINE).unwrap()
    }
}

/// What a run wrote on both outputs.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn only_the_listed_paths_are_seen_and_only_the_writable_ones_change() {
    for backend in backends() {
        let place = Place::new();
        let output = place.run(
            &backend,
            "cat file ../read/file; echo new > file; echo new > ../read/file; cat ../hidden/file; echo x > ../hidden/new; \
             echo done",
        );
        let said = said(&output);
        assert!(said.starts_with("write\nread\n"), "{backend:?}: {said}");
        assert!(!said.contains("hidden\n"), "{backend:?}: {said}");
        assert!(said.contains("done"), "{backend:?}: {said}");
        let read = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap();
        assert_eq!(read("write/file"), "new\n");
        assert_eq!(read("read/file"), "read\n");
        assert!(!place.path().join("hidden/new").exists());
    }
}

#[test]
fn the_program_gets_its_input_and_its_status_comes_back() {
    for backend in backends() {
        let place = Place::new();
        let mut spec = place.spec(place.sandbox(&backend), "cat; exit 7");
        spec.stdin = b"the prompt".to_vec().into();
        let output = run_to_end(spec, DEADLINE).unwrap();
        assert_eq!(
            (output.exit, said(&output)),
            (Exit::Code(7), "the prompt".to_owned()),
            "{backend:?}"
        );
        let output = place.run(&backend, "kill -9 $$");
        assert_eq!(output.exit, Exit::Signal(9), "{backend:?}: {}", said(&output));
    }
}

#[tokio::test]
async fn a_request_to_end_reaches_the_program_and_nothing_is_left() {
    for backend in backends() {
        let place = Place::new();
        let script =
            "trap 'echo ended; exit 3' TERM; setsid SLEEP & echo ready; while :; do sleep 0.05; done";
        let mut process = Guarded::spawn(place.spec(place.sandbox(&backend), script))
            .await
            .unwrap();
        let mut stdout = process.stdout.take().unwrap();
        let mut said = String::new();
        let mut chunk = [0; 64];
        while !said.contains("ready") {
            let count = stdout.read(&mut chunk).await.unwrap();
            assert!(count > 0, "{backend:?}: {said}");
            said += &String::from_utf8_lossy(&chunk[..count]);
        }
        process.terminate().await;
        assert_eq!(process.wait().await, Exit::Code(3), "{backend:?}");
        stdout.read_to_string(&mut said).await.unwrap();
        assert!(said.ends_with("ended\n"), "{backend:?}: {said}");
        place.world.until_nothing_left();
    }
}

#[test]
fn bubblewrap_shows_no_other_process_and_no_secret_of_the_guard() {
    let place = Place::new();
    let output = place.run(
        &bubblewrap(),
        "echo /proc/[0-9]*/ | wc -w; ls /root /home 2>&1 | head -3; cat /etc/shadow 2>&1; id -u",
    );
    let said = said(&output);
    let processes: u32 = said.lines().next().unwrap().trim().parse().unwrap();
    assert!(processes < 8, "{said}");
    assert!(said.contains("No such file"), "{said}");
    assert!(!said.contains("root:"), "{said}");
}

/// Answers each connection with this text.
fn answering(text: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut chunk = [0; 1024];
            let _ = client.read(&mut chunk);
            let _ = write!(
                client,
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                text.len()
            );
        }
    });
    port
}

#[test]
fn only_the_listed_hosts_and_ports_are_reached() {
    let (listed, proxied, other) = (answering("LISTED"), answering("PROXIED"), answering("OTHER"));
    for backend in backends() {
        let place = Place::new();
        let mut sandbox = place.sandbox(&backend);
        sandbox.network.loopback = vec![listed];
        sandbox.network.hosts = vec![Host {
            name: "127.0.0.1".to_owned(),
            port: proxied,
            private: false,
        }];
        let script = format!(
            "get() {{ exec 3<>/dev/tcp/127.0.0.1/$1 && printf \"$2\" >&3 && cat <&3; exec 3>&-; }}; \
             get {listed} 'GET / HTTP/1.1\\r\\n\\r\\n'; \
             get {other} 'GET / HTTP/1.1\\r\\n\\r\\n'; \
             get ${{http_proxy##*:}} 'GET http://127.0.0.1:{proxied}/ HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'; \
             get ${{http_proxy##*:}} 'CONNECT 127.0.0.1:{other} HTTP/1.1\\r\\n\\r\\n'; true"
        );
        let mut spec = place.spec(sandbox, &script);
        spec.program = "/bin/bash".into();
        let said = said(&run_to_end(spec, DEADLINE).unwrap());
        assert!(
            said.contains("LISTED") && said.contains("PROXIED"),
            "{backend:?}: {said}"
        );
        assert!(!said.contains("OTHER"), "{backend:?}: {said}");
        assert!(said.contains("403 Forbidden"), "{backend:?}: {said}");
    }
}

#[tokio::test]
async fn the_server_of_a_program_is_reached_from_outside() {
    let place = Place::new();
    let mut sandbox = place.sandbox(&bubblewrap());
    sandbox.network.serve = Some(4096);
    let script = "python3 -c 'import http.server; \
        http.server.HTTPServer((\"127.0.0.1\", 4096), http.server.SimpleHTTPRequestHandler).serve_forever()'";
    let mut process = Guarded::spawn(place.spec(sandbox, script)).await.unwrap();
    let port = process.port().unwrap();
    until("the server answers", || {
        let Ok(mut client) = TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        let _ = client.write_all(b"GET /file HTTP/1.0\r\n\r\n");
        let mut text = String::new();
        let _ = client.read_to_string(&mut text);
        text.ends_with("write\n")
    });
    process.kill().await;
    process.wait().await;
    place.world.until_nothing_left();
}

#[test]
fn the_number_of_processes_is_limited() {
    let place = Place::new();
    let mut sandbox = place.sandbox(&bubblewrap());
    sandbox.limits.processes = Some(20);
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do sleep 5 & done; \
                  echo /proc/[0-9]*/ | wc -w";
    let said = said(&run_to_end(place.spec(sandbox, script), DEADLINE).unwrap());
    assert!(said.contains("fork"), "{said}");
}
