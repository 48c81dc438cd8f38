//! The arguments of bubblewrap (`bwrap(1)`).

use std::ffi::OsString;
use std::path::Path;

use super::{Access, Bubblewrap, INSIDE, Sandbox};

/// The flag that keeps programs inside from making user namespaces. It needs `--unshare-user`.
pub(super) const DISABLE_USERNS: &str = "--disable-userns";

/// System folders that programs need, apart from `/etc`. They hold no secrets of a user.
const SYSTEM: [&str; 9] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt",
    "/nix/store",
    "/gnu/store",
];

/// Files in `/etc` that programs need. The rest may hold secrets, which root could read.
const ETC: [&str; 24] = [
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "fonts",
    "group",
    "host.conf",
    "hosts",
    "inputrc",
    "java-17-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "pki",
    "protocols",
    "services",
    "ssl",
    "terminfo",
];

/// The paths of the system that every sandboxed program may read.
pub(super) fn system() -> impl Iterator<Item = String> {
    let etc = ETC.iter().map(|name| format!("/etc/{name}"));
    SYSTEM.iter().map(ToString::to_string).chain(etc)
}

/// All arguments, up to the program that bubblewrap starts. `own` is our own binary.
pub(super) fn arguments(
    bubblewrap: &Bubblewrap,
    sandbox: &Sandbox,
    own: &Path,
    directory: &Path,
) -> Vec<OsString> {
    let mut args = Args::default();
    args.add([
        "--unshare-user",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-net",
        "--unshare-cgroup-try",
        "--die-with-parent",
        // A terminal of the caller cannot be typed into.
        "--new-session",
        "--cap-drop",
        "ALL",
        "--hostname",
        "sandbox",
    ]);
    if bubblewrap.disables_userns {
        args.add([DISABLE_USERNS]);
    }
    for path in system() {
        match std::fs::read_link(&path) {
            // `/bin` is a link to `usr/bin` on merged systems. A link in `/etc` may lead to `/run` or `/usr`.
            Ok(target) if !path.starts_with("/etc/") => {
                args.add(["--symlink".as_ref(), target.as_os_str(), path.as_ref()]);
            }
            _ => args.bind("--ro-bind-try", Path::new(&path), Path::new(&path)),
        }
    }
    args.add(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    for mount in &sandbox.mounts {
        let flag = match mount.access {
            Access::Read => "--ro-bind",
            Access::Write => "--bind",
        };
        args.bind(flag, mount.source.as_deref().unwrap_or(&mount.path), &mount.path);
    }
    args.bind("--ro-bind", own, &Path::new(INSIDE).join("kugetsu"));
    args.add(["--chdir".as_ref(), directory.as_os_str()]);
    args.add(["--"]);
    args.0
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn add<A: Into<OsString>>(&mut self, words: impl IntoIterator<Item = A>) {
        self.0.extend(words.into_iter().map(Into::into));
    }

    fn bind(&mut self, flag: &str, source: &Path, path: &Path) {
        self.add([flag.as_ref(), source.as_os_str(), path.as_os_str()]);
    }
}
