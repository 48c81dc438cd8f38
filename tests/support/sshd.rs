//! A real `sshd` for one test: free port on loopback, own keys, own configuration, ended by its id.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kugetsu_testing::{World, kugetsu_binary};

/// The name of the host in [`Sshd::configure`].
pub(crate) const HOST: &str = "box";

/// A running sshd, and the files that a client needs to connect.
pub(crate) struct Sshd {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Sshd {
    /// Starts an sshd for this world. Its kugetsu has the world's environment, but the store and home of the other
    /// host.
    pub(crate) fn start(world: &World) -> Self {
        Self::start_with(world, |_| String::new())
    }

    /// [`Sshd::start`] with variables for logins, as `NAME=VALUE`. These may name its folder, which contains `kugetsu`.
    pub(crate) fn start_with(world: &World, variables: impl Fn(&Path) -> String) -> Self {
        // sshd drops its privileges to this folder when root starts it. Debian's service creates it, so it may be
        // missing.
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let folder = world.root().join("sshd");
        std::fs::create_dir_all(&folder).unwrap();
        for key in ["host", "user"] {
            let status = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(folder.join(key))
                .status()
                .expect("ssh-keygen is needed: apt-get install openssh-client");
            assert!(status.success());
        }
        std::fs::copy(folder.join("user.pub"), folder.join("authorized_keys")).unwrap();
        // An empty home for logins: the shell reads the user's own startup files even for a command, and what these print
        // would be in the output.
        std::fs::create_dir(folder.join("login")).unwrap();
        write_wrapper(world, &folder);
        // Another process may take the port before sshd starts; then another port is tried.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            if let Some(child) = serve(&folder, port, &variables(&folder)) {
                let key = std::fs::read_to_string(folder.join("host.pub")).unwrap();
                std::fs::write(folder.join("known_hosts"), format!("[127.0.0.1]:{port} {key}")).unwrap();
                return Self { child, folder, port };
            }
        }
        panic!("sshd does not start: {}", log(&folder));
    }

    /// Adds the host [`HOST`] to the world's `config.toml`, with `more` in its table.
    pub(crate) fn configure(&self, world: &World, more: &str) {
        let user = rustix::process::getuid().as_raw();
        let name = passwd_name(user);
        let path = |name: &str| self.folder.join(name).display().to_string();
        let text = format!(
            "[hosts.{HOST}]\naddress = \"{name}@127.0.0.1\"\nssh = [\"-F\", \"none\", \"-p\", \"{}\", \"-i\", \"{}\", \
             \"-o\", \"IdentitiesOnly=yes\", \"-o\", \"IdentityAgent=none\", \"-o\", \"StrictHostKeyChecking=yes\", \
             \"-o\", \"GlobalKnownHostsFile=none\", \"-o\", \"UserKnownHostsFile={}\"]\n{more}\n",
            self.port,
            path("user"),
            path("known_hosts"),
        );
        std::fs::write(world.kugetsu_home().join("config.toml"), text).unwrap();
    }

    /// The entry for [`HOST`] in `~/.ssh/config`.
    pub(crate) fn client_config(&self) -> String {
        let path = |name: &str| self.folder.join(name).display().to_string();
        format!(
            "Host {HOST}\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             IdentityAgent none\n  StrictHostKeyChecking yes\n  GlobalKnownHostsFile none\n  UserKnownHostsFile {}\n",
            self.port,
            passwd_name(rustix::process::getuid().as_raw()),
            path("user"),
            path("known_hosts"),
        )
    }

    /// The line that makes [`Sshd::configure`] use the kugetsu under test.
    pub(crate) fn kugetsu(&self) -> String {
        format!("kugetsu = \"{}\"", self.folder.join("kugetsu").display())
    }

    /// Kills the processes that serve open connections, so that the client sees dropped connections.
    pub(crate) fn drop_connections(&self) -> usize {
        let sessions = children(self.child.id());
        for pid in &sessions {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            // If sshd uses two processes, the one that serves the user is the child and notices the other's end.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        sessions.len()
    }

    /// Stops sshd, so that nobody can connect any more.
    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(folder: &Path, port: u16, variables: &str) -> Option<Child> {
    let config = folder.join("sshd_config");
    let file = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile {}\nUsePAM no\nStrictModes no\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\nPermitRootLogin prohibit-password\n\
         MaxStartups 100\nSetEnv HOME={} {variables}\n",
        file("host"),
        file("authorized_keys"),
        file("pid"),
        file("login"),
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    // sshd executes itself again for each connection and needs its absolute path for that.
    let mut child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("sshd is needed: apt-get install openssh-server");
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// Writes `kugetsu` of the other host: sshd gives it a login's environment, and this wrapper adds the world's.
fn write_wrapper(world: &World, folder: &Path) {
    let command = world.kugetsu(std::iter::empty::<&str>());
    let mut script = String::from("#!/bin/sh\n");
    // The terminal is the client's, and the store is the other host's own.
    let of_the_world = |name: &std::ffi::OsStr| name != "KUGETSU_HOME" && name != "TERM";
    for (name, value) in command.get_envs().filter(|(name, _)| of_the_world(name)) {
        let value = value.unwrap().to_str().unwrap();
        script.push_str(&format!("export {}='{value}'\n", name.to_str().unwrap()));
    }
    let home = other_home(world);
    script.push_str(&format!(
        ": \"${{KUGETSU_HOME:={}}}\"\nexport KUGETSU_HOME\n",
        home.display()
    ));
    script.push_str(&format!("exec '{}' \"$@\"\n", kugetsu_binary().display()));
    let path = folder.join("kugetsu");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// `KUGETSU_HOME` of the other host.
pub(crate) fn other_home(world: &World) -> PathBuf {
    world.root().join("other-kugetsu-home")
}

fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let above: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            (above == parent).then_some(pid)
        })
        .collect()
}

fn passwd_name(uid: u32) -> String {
    let output = Command::new("id")
        .args(["-nu", &uid.to_string()])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
