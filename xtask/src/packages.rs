//! Programs that the project needs from the operating system, installed if possible.

use std::process::Command;

use crate::step::{Failure, program};

/// A program, and the Debian package that contains it.
type Needed = (&'static str, &'static str);

/// What the tests run.
pub(crate) const FOR_TESTS: [Needed; 15] = [
    ("bwrap", "bubblewrap"),
    ("cc", "gcc"),
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
    let root = rustix::process::geteuid().is_root();
    if !missing.is_empty() {
        let install = format!("apt-get install -y {}", missing.join(" "));
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
        program("apt-get update", &mut apt(&["update", "-qq"]))?;
        let mut arguments = vec!["install", "-y", "--no-install-recommends"];
        arguments.extend(missing);
        program(&install, &mut apt(&arguments))?;
    }
    Ok(())
}

/// Whether a program is in `PATH` or in Debian's folders for administrators' programs.
pub(crate) fn installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).is_file())
}
