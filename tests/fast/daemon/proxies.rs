//! The snippets of contrib for proxies, in a real nginx and a real Caddy.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kugetsu_testing::{Stdin, World};
use serde_json::json;

use super::prometheus::contrib;
use super::{create_token, has_got, status, submit, world_with};
use crate::support::daemon::certificate;
use crate::support::kit::{SOON, run, text};

/// The login of a proxy that asks for a password of its own: `me:secret`.
const PASSWORD: &str = "me:secret";

/// A proxy in front of a world's daemon, with TLS.
struct Proxy<'a> {
    world: &'a World,
    server: Child,
    url: String,
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn snippet(name: &str) -> String {
    std::fs::read_to_string(contrib(&format!("proxy/{name}"))).unwrap()
}

/// The snippet with these values instead of its own, each of which it must have.
fn filled(snippet: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(snippet.to_owned(), |text, (own, value)| {
        assert!(text.contains(own), "{own} is not in\n{snippet}");
        text.replace(own, value)
    })
}

impl<'a> Proxy<'a> {
    /// Starts a proxy whose configuration `configure` makes for the address to listen on, in its folder.
    fn start(world: &'a World, program: &str, configure: impl Fn(&str, &Path) -> Vec<String>) -> Self {
        let folder = world.root().join(program);
        std::fs::create_dir(&folder).unwrap();
        // Another program may take the port first.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port().to_string();
            drop(free);
            let log = std::fs::File::create(folder.join("log")).unwrap();
            // Debian has nginx among the programs of administrators.
            let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
            let server = Command::new(program)
                .env("PATH", path)
                .args(configure(&port, &folder))
                .env("XDG_DATA_HOME", &folder)
                .env("XDG_CONFIG_HOME", &folder)
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap_or_else(|_| panic!("{program} is needed: apt-get install {program}"));
            let mut this = Self {
                world,
                server,
                url: format!("https://localhost:{port}"),
            };
            let mut ended = false;
            world.wait_until("the proxy listens", SOON, || {
                ended = this.server.try_wait().unwrap().is_some();
                ended || this.status("/healthz", &[]) == "200"
            });
            if !ended {
                return this;
            }
        }
        panic!("{}", std::fs::read_to_string(folder.join("log")).unwrap());
    }

    fn curl(&self, path: &str, words: &[&str]) -> Command {
        let mut curl = self.world.command("curl");
        curl.args(["--silent", "--no-buffer", "--max-time", "60", "--cacert"])
            .arg(self.world.root().join("cert.pem"))
            .args(words)
            .arg(format!("{}{path}", self.url));
        curl
    }

    /// The status of the answer to a request.
    fn status(&self, path: &str, words: &[&str]) -> String {
        let words = [&["--output", "/dev/null", "--write-out", "%{http_code}"], words].concat();
        let output = self.world.finish(self.curl(path, &words), Stdin::Null);
        output.stdout().clone()
    }
}

/// A daemon behind a proxy is as its users expect it: tokens, logins, streams and limits work.
fn check(start: impl for<'a> FnOnce(&'a World, &str) -> Proxy<'a>) {
    let world = world_with(&["--listen", "127.0.0.1:0", "--insecure-behind-proxy"]);
    certificate(&world, world.root());
    let listen = text(&status(&world)["listen"]);
    let proxy = start(&world, listen.strip_prefix("http://").unwrap());
    let own = ["--user", PASSWORD];
    let bearer = format!("authorization: Bearer {}", create_token(&world, &["remote"]));
    let token = ["--header", &bearer];
    assert_eq!(
        proxy.status("/v1/tasks", &own),
        "401",
        "the password of the proxy is no token"
    );
    assert_eq!(proxy.status("/v1/tasks", &token), "200");
    let large = format!("{{\"prompt\":\"{}\"}}", "x".repeat(2 << 20));
    let file = world.root().join("large");
    std::fs::write(&file, large).unwrap();
    let body = format!("@{}", file.display());
    let post = [
        "--data-binary",
        &body,
        "--header",
        "content-type: application/json",
    ];
    // A proxy may end the connection while the rest of the body is on its way.
    let refused = proxy.status("/v1/tasks", &[&token[..], &post].concat());
    assert!(["413", "502", "000"].contains(&refused.as_str()), "{refused}");

    // Events come while the turn runs.
    let task = submit(&world, &["1", "hang"]);
    world.wait_until("the turn runs", SOON, || has_got(&world, "hang"));
    let mut stream = proxy.curl(&format!("/v1/tasks/{task}/events"), &token);
    let mut reading = stream.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(reading.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("agent_start"), "{line}");
    assert_eq!(
        run(&world, ["task", "show", &task, "--json"]).json()["state"],
        "running"
    );
    reading.kill().unwrap();
    reading.wait().unwrap();
    run(&world, ["task", "cancel", &task]).expect_status(0);

    // A browser logs in by the link, also where the proxy asks for a password first.
    let opened = run(&world, ["daemon", "open", "--json", "--url", &proxy.url]);
    let link = text(&opened.expect_status(0).json()["url"]);
    let code = json!({"code": link.split_once("#code=").unwrap().1}).to_string();
    let jar = world.root().join("cookies");
    let jar = jar.to_str().unwrap();
    let origin = format!("origin: {}", proxy.url);
    let log_in = [
        "--data",
        &code,
        "--header",
        "content-type: application/json",
        "--header",
        &origin,
    ];
    let log_in = [&own[..], &log_in, &["--cookie-jar", jar]].concat();
    assert_eq!(proxy.status("/page/login", &log_in), "204");
    assert_eq!(
        proxy.status("/v1/status", &[&own[..], &["--cookie", jar]].concat()),
        "200"
    );
    assert_eq!(proxy.status("/", &own), "200");
}

#[test]
fn a_daemon_behind_nginx_works() {
    check(|world, listen| {
        Proxy::start(world, "nginx", |port, folder| {
            let root = world.root().display();
            let server = filled(
                &snippet("nginx.conf"),
                &[
                    ("listen 443 ssl;", &format!("listen 127.0.0.1:{port} ssl;")),
                    ("/etc/ssl/kugetsu.pem", &format!("{root}/cert.pem")),
                    ("/etc/ssl/private/kugetsu.key", &format!("{root}/key.pem")),
                    ("127.0.0.1:7878", listen),
                ],
            );
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let temporary = temporary.map(|kind| format!("{kind}_temp_path {kind};"));
            let whole = format!(
                "daemon off; pid nginx.pid; error_log stderr; events {{}}\nhttp {{ access_log off; {}\n{server} }}\n",
                temporary.join(" ")
            );
            let file = folder.join("nginx.conf");
            std::fs::write(&file, whole).unwrap();
            let [file, folder] = [file.as_path(), folder].map(|path| path.display().to_string());
            ["-e", "stderr", "-p", &folder, "-c", &file]
                .map(str::to_owned)
                .to_vec()
        })
    });
}

#[test]
fn a_daemon_behind_caddy_works() {
    check(|world, listen| {
        Proxy::start(world, "caddy", |port, folder| {
            let root = world.root().display();
            let site = filled(
                &snippet("Caddyfile"),
                &[
                    (
                        "\nkugetsu.example.org {",
                        &format!(
                            "\nhttps://localhost:{port} {{\n\tbind 127.0.0.1\n\ttls {root}/cert.pem {root}/key.pem"
                        ),
                    ),
                    ("127.0.0.1:7878", listen),
                ],
            );
            let file = folder.join("Caddyfile");
            std::fs::write(&file, format!("{{\n\tadmin off\n\tauto_https off\n}}\n{site}")).unwrap();
            let file = file.display().to_string();
            ["run", "--adapter", "caddyfile", "--config", &file]
                .map(str::to_owned)
                .to_vec()
        })
    });
}
