//! Escapes from the sandbox: each one fails, on both versions, while an ordinary turn works.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::kit::{SOON, run, text};
use kugetsu_testing::{Output, Reply, World, on_both_versions};
use serde_json::{Value, json};

/// What only the user may see.
const KEY: &str = "THE-PRIVATE-KEY";
const TOKEN: &str = "the-token-of-the-user";

/// The escapes that the commands of a tool try. `$1` is the user's home, `$2` kugetsu's home, `$3` opencode's shared
/// database, `$4` the clone, `$5` a port of this machine, `$6` a socket of this machine, `$7` the port of the model. A line of
/// output that begins with `REACHED` is an escape.
const ESCAPES: &str = r#"
reached() { echo "REACHED $1"; }
tried() { echo "tried $1"; }
connect() { python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1].replace("@", "\0"))' "$1"; }
private=$(git rev-parse --git-dir)
common=$(git rev-parse --path-format=absolute --git-common-dir)
python3 -c 'import socket' || reached nothing-without-python
tried read-a-key;            grep -q PRIVATE "$1/.ssh/id_rsa" && reached read-a-key
tried read-a-token;          env | grep -q SECRET_TOKEN && reached read-a-token
tried read-the-records;      ls "$2/sessions" && reached read-the-records
tried write-a-record;        echo x >> "$2/sessions/github.com/shoko/kugetsu/2.json" && reached write-a-record
tried read-the-database;     head -c 1 "$3" | grep -q . && reached read-the-database
tried write-the-database;    echo x >> "$3" && reached write-the-database
tried read-its-own-database; head -c 1 "$HOME/../opencode/data/opencode/opencode.db" | grep -q . && reached read-its-own-database
tried write-its-own-rules;   echo x >> "$HOME/../opencode/data/opencode/opencode.db" && reached write-its-own-rules
tried read-the-providers-key; grep -q . "$HOME/../opencode/data/opencode/auth.json" && reached read-the-providers-key
tried read-the-configuration; grep -q . "$1/.config/opencode/opencode.json" && reached read-the-configuration
tried change-the-shell;      echo x >> "$SHELL_FILE" && reached change-the-shell
tried read-the-configuration-content; env | grep -q OPENCODE_CONFIG_CONTENT && reached read-the-configuration-content
tried read-the-password;     cat /proc/[0-9]*/environ | tr '\0' '\n' | grep -q OPENCODE_SERVER_PASSWORD && reached read-the-password
opencode=$(for p in /proc/[0-9]*; do tr '\0' ' ' 2> /dev/null < "$p/cmdline" | grep -q 'bin/opencode' && echo "${p#/proc/}"; done | head -n 1)
tried trace-opencode;        test -n "$opencode" && grep -q . "/proc/$opencode/maps" && reached trace-opencode
tried signal-opencode;       test -n "$opencode" && kill -STOP "$opencode" && reached signal-opencode
tried find-opencode;         test -n "$opencode" || reached find-opencode
tried see-other-processes;   test "$(ls -d /proc/[0-9]* | wc -l)" -gt 20 && reached see-other-processes
tried connect-elsewhere;     (exec 3<>"/dev/tcp/127.0.0.1/$5") && reached connect-elsewhere
tried connect-by-the-proxy;  exec 3<>"/dev/tcp/127.0.0.1/${http_proxy##*:}"; printf 'CONNECT 127.0.0.1:%s HTTP/1.1\r\n\r\n' "$5" >&3; head -n 1 <&3 | grep -q 200 && reached connect-by-the-proxy
tried ask-for-the-model-by-the-proxy; exec 3<>"/dev/tcp/127.0.0.1/${http_proxy##*:}"; printf 'CONNECT 127.0.0.2:%s HTTP/1.1\r\n\r\n' "$7" >&3; head -n 1 <&3 | grep -q 200 && reached ask-for-the-model-by-the-proxy
tried the-models-port-elsewhere; (exec 3<>"/dev/tcp/127.0.0.2/$7") && reached the-models-port-elsewhere
tried connect-to-a-socket;   connect "$6" && reached connect-to-a-socket
tried connect-to-an-abstract-socket; connect "@kugetsu-test-$5" && reached connect-to-an-abstract-socket
tried use-a-terminal;        for terminal in /dev/pts/[0-9]* /dev/tty; do (echo INJECTED > "$terminal") && reached use-a-terminal; done
tried resolve-a-name;        (exec 3<>/dev/udp/192.0.2.1/53 && echo x >&3) && reached resolve-a-name
tried write-a-hook;          echo x > "$4/.git/hooks/post-checkout" && reached write-a-hook
tried replace-the-hooks;     mv "$4/.git/hooks" "$4/.git/away" && reached replace-the-hooks
tried write-gits-settings;   git config core.fsmonitor /bin/true && reached write-gits-settings
tried read-gits-settings;    grep -rq secret-of-the-remote "$4/.git/config" && reached read-gits-settings
tried redirect-the-worktree; echo "gitdir: /tmp" > .git && reached redirect-the-worktree
tried replace-the-link;      mv .git away && reached replace-the-link
tried redirect-git;          echo /tmp > "$(git rev-parse --git-dir)/commondir" && reached redirect-git
tried damage-a-pack;         touch "$4/.git/objects/pack/x" && reached damage-a-pack
tried write-the-clone;       echo x > "$4/README.md" && reached write-the-clone
tried graft-a-commit;        mkdir -p "$common/info"; echo "$(git rev-parse HEAD)" > "$common/info/grafts" && reached graft-a-commit
tried make-it-shallow;       git rev-parse HEAD > "$common/shallow" && reached make-it-shallow
tried borrow-objects;        mkdir -p "$common/objects/info"; echo "$1" > "$common/objects/info/alternates" && reached borrow-objects
tried replace-the-worktree;  mv "$PWD" "$PWD.away" && reached replace-the-worktree
tried replace-gits-folder;   mv "$private" "$private.away" && reached replace-gits-folder
tried make-a-namespace;      unshare --user true && reached make-a-namespace
tried mount-something;       mount -t tmpfs none "$HOME" && reached mount-something
tried plant-a-configuration; ln -sf "$1/.ssh/id_rsa" "$private/config.worktree" && reached plant-a-configuration
ln -sf "$1/victim" "$private/logs/HEAD"
ln -sf "$1/victim" "$common/logs/HEAD"
ln -sf "$1/victim" "$private/planted"
ln -sf "$1/victim" "$private/COMMIT_EDITMSG"
ln -sf "$1/victim" "$common/refs/heads/planted"
ln -sfn "$1/victims" "$common/refs/remotes"
for byte in {0..9}{{0..9},{a..f}} {a..f}{{0..9},{a..f}}; do test -e "$common/objects/$byte" || ln -s "$1/victims" "$common/objects/$byte"; done
printf '#!/bin/sh\ntouch evil\nexec /bin/sh "$@"\n' > evil.sh; chmod +x evil.sh
echo "{\"shell\": \"$PWD/evil.sh\"}" > opencode.json
tried replace-a-commit;      git replace HEAD HEAD~0 2> /dev/null && reached replace-a-commit
tried leave-a-process;       (setsid sleep 100000 > /dev/null 2>&1 < /dev/null &)
ln -s "$1/.ssh/id_rsa" link
ln -s "$3" database
echo finished
"#;

/// The number of escapes above.
fn escapes() -> usize {
    ESCAPES.lines().filter(|line| line.starts_with("tried ")).count()
}

/// A port of this machine, with the number of connections to it.
fn service() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (port, count)
}

/// A user with a key, a configuration of opencode and a base whose sessions are sandboxed.
fn prepare(world: &World) -> PathBuf {
    let write = |path: PathBuf, text: &str| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(world.home().join(".ssh/id_rsa"), KEY);
    let repo = world.repo();
    write(repo.join("escapes.sh"), ESCAPES);
    write(repo.join("hello.c"), "int main(void) { return 1; }\n");
    world.git(&repo, ["add", "."]).expect_status(0);
    world.git(&repo, ["commit", "-qm", "escapes"]).expect_status(0);
    world
        .git(&repo, ["config", "http.extraheader", "secret-of-the-remote"])
        .expect_status(0);
    run(world, ["init", "--sandbox"]).expect_status(0);
    repo
}

/// What this machine has besides the model: a service, sockets and a terminal.
struct Services {
    port: u16,
    connections: Arc<AtomicUsize>,
    /// The same port as the model's, at another address.
    _elsewhere: TcpListener,
    _sockets: [UnixListener; 2],
    /// Holds a terminal open until its input ends, which is when this is dropped.
    _terminal: std::process::Child,
}

fn services(world: &World) -> Services {
    use std::io::Read as _;
    let (port, connections) = service();
    let name = SocketAddr::from_abstract_name(format!("kugetsu-test-{port}")).unwrap();
    let sockets = [
        UnixListener::bind(world.tmp().join("socket")).unwrap(),
        UnixListener::bind_addr(&name).unwrap(),
    ];
    let mut terminal = std::process::Command::new("python3")
        .args([
            "-c",
            "import pty, sys; pty.openpty(); print('!', flush=True); sys.stdin.read()",
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    terminal.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    Services {
        port,
        connections,
        _elsewhere: TcpListener::bind(("127.0.0.2", world.model.address().port())).unwrap(),
        _sockets: sockets,
        _terminal: terminal,
    }
}

/// The command that tries the escapes. Its arguments hide from opencode's own check of external directories.
fn escapes_command(world: &World, port: u16) -> String {
    let arguments = [
        world.home(),
        world.kugetsu_home(),
        world.opencode_db(),
        world.repo(),
        PathBuf::from(port.to_string()),
        world.tmp().join("socket"),
        PathBuf::from(world.model.address().port().to_string()),
    ];
    let arguments = arguments.map(|path| path.display().to_string().replace('/', ","));
    format!(
        "SHELL_FILE=$(dirname $GIT_CONFIG_GLOBAL)/bash bash escapes.sh $(echo {} | tr , /) 2>&1",
        arguments.join(" ")
    )
}

fn turn(world: &World, issue: &str, transport: &str, prompt: &str) -> Output {
    let mut command = world.kugetsu([
        "start",
        issue,
        "--worktree",
        "--transport",
        transport,
        "--output",
        "json",
        prompt,
    ]);
    command.env("SECRET_TOKEN", TOKEN);
    world.start(command, kugetsu_testing::Stdin::Null).wait(SOON)
}

/// What the tools of a turn answered.
fn results(world: &World, prompt: &str) -> String {
    let requests = world.model.turn_requests_with(prompt);
    requests
        .last()
        .map(|request| request.tool_results().join("\n"))
        .unwrap_or_default()
}

on_both_versions! {
    fn no_escape_succeeds_and_a_coding_turn_does(world: &World) {
        let repo = prepare(world);
        let services = services(world);
        let database = world.opencode_db();
        let before = std::fs::read(&database).unwrap();
        let victims = world.home().join("victims");
        std::fs::create_dir(&victims).unwrap();
        let escapes_command = escapes_command(world, services.port);
        for (issue, transport) in [("#1", "serve"), ("#2", "run")] {
            let worktree = repo.join(".worktrees/github.com/shoko/kugetsu").join(&issue[1..]);
            let file = |name: &str| worktree.join(name);
            let prompt = format!("escape over {transport}");
            world.model.on(
                prompt.clone(),
                vec![
                    Reply::bash(&escapes_command),
                    Reply::tool("read", json!({"filePath": file("link")})),
                    Reply::tool("read", json!({"filePath": file("database")})),
                    Reply::text("tried"),
                ],
            );
            let output = turn(world, issue, transport, &prompt);
            let results = results(world, &prompt);
            assert_eq!(output.json()["verdict"], "completed", "{output}\n{results}");
            assert!(results.contains("finished"), "{output}\n{results}");
            let count = |word: &str| results.lines().filter(|line| line.trim_start().starts_with(word)).count();
            assert_eq!(count("tried "), escapes(), "{results}");
            assert!(!results.contains("REACHED"), "{results}");
            assert!(!results.contains(KEY) && !results.contains("SQLite"), "{results}");
            assert_eq!(sandbox_of(world, issue), "bubblewrap");
            world.wait_nothing_left(SOON);
            // The user's own git follows no link that the turn has planted.
            world.git(&worktree, ["commit", "-q", "--allow-empty", "-m", "of the user"]).expect_status(0);
            assert!(!world.home().join("victim").exists());
            assert_eq!(std::fs::read_dir(&victims).unwrap().count(), 0);
        }
        assert_eq!(services.connections.load(Ordering::Relaxed), 0);
        assert_eq!(std::fs::read(&database).unwrap(), before);

        // The next turn of the same session edits, builds, tests and commits.
        let worktree = repo.join(".worktrees/github.com/shoko/kugetsu/1");
        world.model.on(
            "fix the program",
            vec![
                Reply::tool("read", json!({"filePath": worktree.join("hello.c")})),
                Reply::tool("edit", json!({"filePath": worktree.join("hello.c"), "oldString": "return 1", "newString": "return 0"})),
                Reply::bash("cc -o hello hello.c && ./hello && mktemp && rm -f link database && git add hello.c && git commit -qm fixed && git log --oneline"),
                Reply::text("fixed"),
            ],
        );
        let output = run(world, ["continue", "#1", "--output", "json", "fix the program"]);
        let results = results(world, "fix the program");
        assert_eq!(output.json()["verdict"], "completed", "{output}\n{results}");
        assert_eq!(output.json()["changes"]["commits"][0]["subject"], "fixed", "{output}\n{results}");
        let log = world.git(&worktree, ["log", "-1", "--format=%an %s"]);
        assert!(log.stdout().contains("fixed"), "{log}");
        // The shell that the first turn configured in its worktree did not run.
        assert!(worktree.join("evil.sh").exists() && !worktree.join("evil").exists());

        // Whatever takes the place of the sandbox's database is not opened outside.
        let sandboxes = std::fs::read_dir(world.kugetsu_home().join("sandboxes")).unwrap();
        for sandbox in sandboxes.flatten() {
            let own = sandbox.path().join("opencode/data/opencode/opencode.db");
            std::fs::remove_file(&own).unwrap();
            std::os::unix::fs::symlink(&database, &own).unwrap();
        }
        let refused = run(world, ["continue", "#2", "go on"]);
        refused.expect_status(69);
        assert!(refused.stderr().contains("is not as opencode makes it"), "{refused}");
        run(world, ["destroy", "#2", "-y", "--force"]).expect_status(0);
        assert_eq!(std::fs::read(&database).unwrap(), before);
        drop(services);
        world.wait_nothing_left(SOON);
    }

    fn without_bubblewrap_landlock_stops_all_but_the_known_gaps(world: &World) {
        let repo = prepare(world);
        let services = services(world);
        let path = path_without_bubblewrap(world);
        let prompt = "escape without bubblewrap";
        world.model.on(prompt, vec![Reply::bash(escapes_command(world, services.port)), Reply::text("tried")]);
        let start = |flag: &str| {
            let mut command = world.kugetsu(["start", "#1", "--worktree", flag, "--output", "json", prompt]);
            command.env("PATH", &path).env("KUGETSU_SANDBOX_READ", &path).env("SECRET_TOKEN", TOKEN);
            world.start(command, kugetsu_testing::Stdin::Null).wait(SOON)
        };
        let refused = start("--sandbox");
        refused.expect_status(69);
        assert!(refused.stderr().contains("bwrap") && refused.stdout().contains("no-sandbox"), "{refused}");
        run(world, ["init", "--force", "--sandbox=off"]).expect_status(0);
        let output = start("--sandbox=auto");
        let results = results(world, prompt);
        assert_eq!(output.json()["verdict"], "completed", "{output}\n{results}");
        assert!(results.contains("finished"), "{results}");
        let reached: Vec<&str> = results.lines().filter_map(|line| line.trim_start().strip_prefix("REACHED ")).collect();
        let unexpected: Vec<&&str> = reached.iter().filter(|name| !LANDLOCKS_GAPS.contains(name)).collect();
        assert!(unexpected.is_empty(), "{unexpected:?}\n{results}");
        assert_eq!(services.connections.load(Ordering::Relaxed), 0);
        assert_eq!(sandbox_of(world, "#1"), "landlock");
        let doctor = run(world, ["doctor"]);
        assert!(doctor.stdout().contains("bubblewrap /"), "{doctor}");
        drop((repo, services));
        world.wait_nothing_left(SOON);
    }
}

/// The escapes that Landlock alone does not stop. `doctor` and `docs/sandbox.md` name them.
const LANDLOCKS_GAPS: [&str; 13] = [
    "borrow-objects",
    "connect-to-a-socket",
    "the-models-port-elsewhere",
    "make-a-namespace",
    "plant-a-configuration",
    "replace-a-commit",
    "see-other-processes",
    "resolve-a-name",
    "read-gits-settings",
    "redirect-the-worktree",
    "replace-the-link",
    "redirect-git",
    "damage-a-pack",
];

/// A `PATH` with every program of the system but bubblewrap.
fn path_without_bubblewrap(world: &World) -> PathBuf {
    let folder = world.tmp().join("bin");
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir("/usr/bin").unwrap().flatten() {
        if entry.file_name() != "bwrap" {
            std::os::unix::fs::symlink(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    folder
}

/// What confined the last turn of a session.
fn sandbox_of(world: &World, issue: &str) -> String {
    let shown: Value = run(world, ["show", issue, "--json"]).json();
    text(&shown["last"]["sandbox"])
}
