//! What a sandboxed program sees and reaches, by both mechanisms.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use super::*;
use crate::cancel::Cancel;
use crate::process::sandbox::{
    Available, Backend, Host, Landlock, Limits, Mount, Network, Sandbox, ToolBounds, available,
};
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
    assert_eq!(
        machine().landlock,
        Landlock::FilesAndTcp,
        "these tests need Linux 6.7"
    );
    [bubblewrap(), Backend::Landlock]
}

struct Place {
    folder: tempfile::TempDir,
    world: World,
}

impl Place {
    /// A folder with a file that may be written, one that may be read, and one that is not listed.
    fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    fn below(folder: &Path) -> Self {
        let folder = tempfile::tempdir_in(folder).unwrap();
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

#[test]
fn bubblewrap_allows_no_further_user_namespace() {
    let place = Place::new();
    let output = place.run(&bubblewrap(), "unshare --user true && echo made; echo done");
    let said = said(&output);
    assert!(said.contains("done") && !said.contains("made\n"), "{said}");
}

#[tokio::test]
async fn nobody_outside_reaches_what_a_program_listens_on() {
    let place = Place::new();
    let script = "python3 -c 'import socket, time; \
        server = socket.create_server((\"0.0.0.0\", 0)); \
        print(server.getsockname()[1], flush=True); \
        print(\"ready\", flush=True); \
        time.sleep(100000)'";
    let mut process = Guarded::spawn(place.spec(place.sandbox(&bubblewrap()), script))
        .await
        .unwrap();
    let mut said = String::new();
    let stdout = process.stdout.as_mut().unwrap();
    while !said.ends_with("ready\n") {
        said.push(char::from(stdout.read_u8().await.unwrap()));
    }
    let port: u16 = said.lines().next().unwrap().parse().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "{port}");
    process.kill().await;
    process.wait().await;
    place.world.until_nothing_left();
}

#[test]
fn memory_is_said_to_be_limited_where_it_is() {
    let place = Place::new();
    let mut sandbox = place.sandbox(&bubblewrap());
    sandbox.limits.memory = Some(200 << 20);
    let script = "python3 -c 'bytearray(b\"x\") * (500 << 20)'; echo status $?";
    let said = said(&run_to_end(place.spec(sandbox, script), DEADLINE).unwrap());
    let limited = crate::process::cgroup::limitable().memory;
    assert_eq!(!said.contains("status 0"), limited, "{said}");
}

/// Runs a command as the tool of a program in this sandbox would.
fn run_as_tool(place: &Place, mut sandbox: Sandbox, command: &str) -> Output {
    use std::os::unix::fs::PermissionsExt as _;
    let fixed = place.path().join("fixed");
    std::fs::create_dir(&fixed).unwrap();
    sandbox.mounts.push(Mount::read(&fixed));
    let bounds = ToolBounds::of(
        &sandbox,
        vec!["TEST_SECRET".into()],
        &place.path().join("write"),
        true,
    );
    let (file, shell) = (fixed.join("tools.json"), fixed.join("bash"));
    std::fs::write(&file, serde_json::to_vec(&bounds).unwrap()).unwrap();
    std::fs::write(&shell, ToolBounds::script(&sandbox, &kugetsu_binary(), &file)).unwrap();
    std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut spec = place.spec(sandbox, "");
    spec.program = shell;
    spec.args = vec!["-c".into(), command.into()];
    spec.set_env.push(("TEST_SECRET".into(), "the key".into()));
    // kugetsu gives none to a sandbox.
    spec.remove_env.push("TMPDIR".into());
    run_to_end(spec, DEADLINE).unwrap()
}

#[test]
fn a_tool_does_not_see_what_is_secret_wherever_it_lies() {
    // Both folders are writable for tools inside bubblewrap.
    for folder in ["/tmp", "/dev/shm"] {
        for backend in backends() {
            let place = Place::below(folder.as_ref());
            let mut sandbox = place.sandbox(&backend);
            sandbox
                .mounts
                .push(Mount::write(place.path().join("hidden")).secret());
            if backend == Backend::Landlock {
                sandbox.mounts.push(Mount::read(kugetsu_binary()));
            }
            let command = "cat file; cat ../hidden/file; echo x > ../read/file; echo x > ../hidden/new; env | grep TEST_SECRET; \
                           echo new > file; file=$(mktemp) && rm $file && echo done";
            let said = said(&run_as_tool(&place, sandbox, command));
            assert!(
                said.contains("write\n") && said.contains("done\n"),
                "{backend:?}: {said}"
            );
            assert!(
                !said.contains("hidden\n") && !said.contains("the key"),
                "{backend:?}: {said}"
            );
            let read = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap();
            assert_eq!(
                (read("read/file").as_str(), read("write/file").as_str()),
                ("read\n", "new\n")
            );
            assert!(!place.path().join("hidden/new").exists());
        }
    }
}

#[test]
fn calls_that_reach_past_the_sandbox_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    for backend in backends() {
        let place = Place::new();
        let command = format!(
            "chmod 4755 file; install -m 4755 file other; perl -e 'sysopen(F, \"third\", 0101, 04755)'; \
             perl -e 'print \"keys \", syscall({keyctl}, 0, -3, 0) < 0 ? $! : \"seen\", \"\\n\"'; \
             perl -e 'print \"vsock \", socket(F, {vsock}, 1, 0) ? \"made\" : $!, \"\\n\"'; \
             prlimit --pid $$ --nofile=100:100; ulimit -n 200 && chmod 755 file && echo done",
            keyctl = libc::SYS_keyctl,
            vsock = libc::AF_VSOCK,
        );
        let said = said(&place.run(&backend, &command));
        for refused in [
            "keys Operation not permitted\n",
            "vsock Operation not permitted\n",
        ] {
            assert!(said.contains(refused), "{backend:?}: {said}");
        }
        assert!(
            said.contains("failed to set the NOFILE resource limit"),
            "{backend:?}: {said}"
        );
        assert!(said.contains("done\n"), "{backend:?}: {said}");
        for name in ["file", "other", "third"] {
            let metadata = place.path().join("write").join(name).metadata();
            assert!(
                !metadata.is_ok_and(|file| file.permissions().mode() & 0o4000 != 0),
                "{name}"
            );
        }
    }
}

#[test]
fn a_tool_makes_named_pipes_only_where_nobody_else_reads() {
    for backend in backends() {
        // Below /tmp, everything is the tool's own.
        let place = Place::below("/var/tmp".as_ref());
        let mut sandbox = place.sandbox(&backend);
        let clone = place.path().join("clone");
        std::fs::create_dir(&clone).unwrap();
        sandbox.mounts.push(Mount::write(&clone));
        if backend == Backend::Landlock {
            sandbox.mounts.push(Mount::read(kugetsu_binary()));
        }
        let command = "mkfifo ../clone/pipe; mkfifo pipe && mv pipe ../clone/moved; echo x > ../clone/file; mkfifo own && echo done";
        let said = said(&run_as_tool(&place, sandbox, command));
        assert!(said.contains("done"), "{backend:?}: {said}");
        let there = |name: &str| clone.join(name).symlink_metadata().is_ok();
        assert_eq!(
            (there("file"), there("pipe"), there("moved")),
            (true, false, false),
            "{backend:?}: {said}"
        );
    }
}

#[test]
fn a_tool_of_a_clone_in_a_temporary_folder_changes_no_more_than_elsewhere() {
    let place = Place::below("/tmp".as_ref());
    let said = said(&run_as_tool(
        &place,
        place.sandbox(&bubblewrap()),
        "echo x > ../read/file; echo x > ../read/new; mv ../read ../away; mv ../write ../away; cat ../hidden/file; echo done",
    ));
    assert!(said.contains("done") && !said.contains("hidden\n"), "{said}");
    assert_eq!(
        std::fs::read_to_string(place.path().join("read/file")).unwrap(),
        "read\n"
    );
    assert!(!place.path().join("read/new").exists() && !place.path().join("away").exists());
}

/// Ordinary users need other ways than root: namespaces of users, no cgroups, privileges that are missing.
#[test]
fn all_of_this_holds_for_a_user_who_is_not_root() {
    const NAME: &str = "process::tests::sandbox::all_of_this_holds_for_a_user_who_is_not_root";
    use std::os::unix::fs::PermissionsExt as _;
    if !rustix::process::geteuid().is_root() {
        // The tests beside this one are run by such a user.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(folder.path(), 0o755);
    let as_user = |program: &Path| {
        let mut command = std::process::Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(program);
        command
    };
    // Only root may enter the folder of some checkouts.
    let program = |path: PathBuf, name: &str| {
        let test = as_user("test".as_ref()).arg("-x").arg(&path).status().unwrap();
        if test.success() {
            return path;
        }
        let copy = folder.path().join(name);
        std::fs::copy(&path, &copy).unwrap();
        open(&copy, 0o755);
        copy
    };
    let tests = program(std::env::current_exe().unwrap(), "tests");
    let kugetsu = program(kugetsu_binary(), "kugetsu");
    let tmp = folder.path().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    open(&tmp, 0o1777);
    let output = as_user(&tests)
        .args(["process::tests::sandbox::", "--skip", NAME, "--test-threads", "1"])
        .env("KUGETSU_BIN", kugetsu)
        .env("TMPDIR", &tmp)
        .current_dir(&tmp)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!said.contains(" 0 passed"), "{said}");
}
