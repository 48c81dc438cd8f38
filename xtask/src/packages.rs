//! Programs that the project needs from the operating system, installed if possible.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;

use crate::step::{Failure, program};

/// A program, and the Debian package that contains it.
type Needed = (&'static str, &'static str);

/// What the tests run.
pub(crate) const FOR_TESTS: [Needed; 18] = [
    ("bwrap", "bubblewrap"),
    ("cc", "gcc"),
    ("curl", "curl"),
    ("faketime", "faketime"),
    ("sqlite3", "sqlite3"),
    ("fish", "fish"),
    ("git", "git"),
    ("jq", "jq"),
    ("tmux", "tmux"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("sshd", "openssh-server"),
    ("zsh", "zsh"),
    ("openssl", "openssl"),
    ("dpkg", "dpkg"),
    ("xz", "xz-utils"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
];

/// What the tests with clients from outside run.
pub(crate) const FOR_CLIENTS: [Needed; 6] = [
    ("caddy", "caddy"),
    ("nginx", "nginx-light"),
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
    ("npm", "npm"),
    ("python3", "python3"),
];

/// What packages are made and checked with.
pub(crate) const FOR_PACKAGES: [Needed; 5] = [
    ("git", "git"),
    ("dpkg", "dpkg"),
    ("npm", "npm"),
    ("xz", "xz-utils"),
    ("unshare", "util-linux"),
];

/// The C compiler for programs with musl.
pub(crate) const MUSL: Needed = ("musl-gcc", "musl-tools");

/// Installs the missing programs.
pub(crate) fn install_missing(needed: &[Needed]) -> Result<(), Failure> {
    let mut missing: Vec<_> = needed
        .iter()
        .filter(|(name, _)| !installed(name))
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    install(&missing)
}

/// Installs these packages.
pub(crate) fn install(packages: &[&str]) -> Result<(), Failure> {
    let root = rustix::process::geteuid().is_root();
    if !packages.is_empty() {
        let install = format!("apt-get install -y {}", packages.join(" "));
        if !root || !installed("apt-get") {
            return Err(Failure::new(format!(
                "what this command needs is not installed\ninstall it, on Debian as root: {install}"
            )));
        }
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
            command
        };
        let _no_services = NoServices::begin()?;
        program("apt-get update", &mut apt(&["update", "-qq"]))?;
        let mut arguments = vec!["install", "-y", "--no-install-recommends"];
        arguments.extend(packages);
        program(&install, &mut apt(&arguments))?;
    }
    Ok(())
}

/// Keeps Debian's packages from starting their services while they are installed: tests start the programs that they need.
struct NoServices {
    /// Whether the file is ours, and not the administrator's.
    is_own: bool,
}

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn begin() -> Result<Self, Failure> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(Self::POLICY);
        match file {
            Ok(mut file) => {
                let this = Self { is_own: true };
                file.write_all(b"#!/bin/sh\nexit 101\n")
                    .map_err(Failure::because(Self::POLICY))?;
                Ok(this)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Self { is_own: false }),
            Err(error) => Err(Failure::because(Self::POLICY)(error)),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.is_own {
            let _ = std::fs::remove_file(Self::POLICY);
        }
    }
}

/// Whether a program is in `PATH` or in Debian's folders for administrators' programs.
pub(crate) fn installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).is_file())
}
