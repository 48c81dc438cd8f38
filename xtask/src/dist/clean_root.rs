//! Installs each package in a folder with nothing else in it, and runs what it brought.
//!
//! The program of the archive and of the Debian package runs with that folder as its root: it finds no loader, library or
//! other program. A program that is not static gets copies of the libraries it needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::npm::NAME;
use super::{PROGRAM, Release, copy, make_folder, set_mode, write};
use crate::step::{Failure, output};

/// A host name that only `/etc/hosts` of the clean root knows. Nothing listens on its port.
const HOST: &str = "forge.test:1";

/// Checks every package.
pub(super) fn check(release: &Release, binary: &Path) -> Result<(), Failure> {
    let libraries = libraries(binary)?;
    let package = |start: &str, end: &str| {
        let names = super::archive::names(&release.packages)?;
        names
            .iter()
            .find(|name| {
                name.to_str()
                    .is_some_and(|name| name.starts_with(start) && name.ends_with(end))
            })
            .map(|name| release.packages.join(name))
            .ok_or_else(|| Failure::new(format!("there is no package {start}*{end}")))
    };

    let root = Root::new(release, "archive", &libraries)?;
    let usr = root.folder.join("usr/local");
    make_folder(&usr)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=1", "--file"])
        .arg(package("kugetsu-", ".tar.gz")?)
        .arg("--directory")
        .arg(&usr);
    output(&mut tar)?;
    root.runs("/usr/local/bin/kugetsu")?;
    root.has(
        &["man/man1/kugetsu.1.gz", "zsh/site-functions/_kugetsu"]
            .map(|place| format!("usr/local/share/{place}")),
    )?;

    let root = Root::new(release, "deb", &libraries)?;
    root.dpkg(&["--install"], &package("kugetsu_", ".deb")?)?;
    root.runs("/usr/bin/kugetsu")?;
    root.has(
        &[
            "man/man1/kugetsu.1.gz",
            "man/man1/kugetsu-start.1.gz",
            "bash-completion/completions/kugetsu",
            "zsh/vendor-completions/_kugetsu",
            "fish/vendor_completions.d/kugetsu.fish",
            "doc/kugetsu/copyright",
        ]
        .map(|place| format!("usr/share/{place}")),
    )?;
    root.dpkg(&["--purge"], Path::new("kugetsu"))?;
    if root.folder.join("usr/bin/kugetsu").exists() {
        return Err(Failure::new("dpkg --purge leaves the program"));
    }

    for (name, options, started) in [
        ("npm", &["--ignore-scripts"][..], "node_modules/.bin/kugetsu"),
        ("npm-global", &["--ignore-scripts", "--global"], "bin/kugetsu"),
    ] {
        let root = Root::new(release, name, &[])?;
        let mut install = Command::new("npm");
        install
            .args(["install", "--offline", "--no-audit", "--no-fund"])
            .args(options)
            .arg("--prefix")
            .arg(&root.folder)
            .arg(package(&format!("{NAME}-linux-"), ".tgz")?)
            .arg(package(&format!("{NAME}-{}", release.version()), ".tgz")?)
            .current_dir(&root.folder)
            .env("HOME", root.folder.join("home"))
            .env("npm_config_cache", root.folder.join("cache"));
        output(&mut install)?;
        let mut started = Command::new(root.folder.join(started));
        started
            .arg("--version")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", root.folder.join("home"));
        root.expect(&mut started, &format!("kugetsu {}\n", release.version()))?;
    }
    Ok(())
}

/// The shared libraries that a program needs, with their loader.
pub(super) fn libraries(binary: &Path) -> Result<Vec<PathBuf>, Failure> {
    // ldd fails if the program needs none.
    let output = Command::new("ldd")
        .arg(binary)
        .env("LC_ALL", "C")
        .output()
        .map_err(Failure::because("ldd"))?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(words
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

/// A folder that is the root for a program.
struct Root<'a> {
    folder: PathBuf,
    version: &'a str,
}

impl<'a> Root<'a> {
    fn new(release: &'a Release, name: &str, libraries: &[PathBuf]) -> Result<Self, Failure> {
        let folder = release.stage.join("root").join(name);
        make_folder(&folder.join("home"))?;
        write(&folder.join("etc/hosts"), "127.0.0.1 forge.test\n")?;
        for library in libraries {
            let path = folder.join(library.strip_prefix("/").unwrap_or(library));
            copy(library, &path)?;
            set_mode(&path, PROGRAM)?;
        }
        Ok(Self {
            folder,
            version: release.version(),
        })
    }

    /// Runs the program with this folder as its root.
    fn runs(&self, program: &str) -> Result<(), Failure> {
        self.expect(
            self.inside(program).arg("--version"),
            &format!("kugetsu {}\n", self.version),
        )?;
        let help = output(self.inside(program).arg("--help"))?;
        if !String::from_utf8_lossy(&help).contains("Usage: kugetsu") {
            return Err(Failure::new(format!("{program} --help shows no usage")));
        }
        let list = output(self.inside(program).args(["list", "--json"]))?;
        if !String::from_utf8_lossy(&list).contains("\"sessions\":[]") {
            return Err(Failure::new(format!(
                "{program} list does not show an empty home"
            )));
        }
        let issue = self
            .inside(program)
            .args(["issue", &format!("{HOST}/a/b#1")])
            .output()
            .map_err(Failure::because(program))?;
        let error = String::from_utf8_lossy(&issue.stderr);
        if !error.contains("Connection refused") {
            return Err(Failure::new(format!(
                "{program} does not find a host name in /etc/hosts:\n{error}"
            )));
        }
        Ok(())
    }

    /// A command in this root. Without the rights of root, it runs in a user namespace, where it has them.
    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .arg("--root")
            .arg(&self.folder)
            .args(["--wd", "/", program])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", "/home");
        command
    }

    fn dpkg(&self, arguments: &[&str], package: &Path) -> Result<(), Failure> {
        let state = self.folder.join("var/lib/dpkg");
        for folder in ["info", "updates"] {
            make_folder(&state.join(folder))?;
        }
        if !state.join("status").exists() {
            write(&state.join("status"), "")?;
        }
        let mut command = Command::new("dpkg");
        command
            .arg("--root")
            .arg(&self.folder)
            .args(["--force-not-root", "--force-bad-path", "--log=/dev/null"])
            .args(arguments)
            .arg(package);
        output(&mut command).map(drop)
    }

    fn has(&self, paths: &[String]) -> Result<(), Failure> {
        match paths.iter().find(|path| !self.folder.join(path).exists()) {
            None => Ok(()),
            Some(path) => Err(Failure::new(format!("a package did not install /{path}"))),
        }
    }

    fn expect(&self, command: &mut Command, expected: &str) -> Result<(), Failure> {
        let stdout = output(command)?;
        let stdout = String::from_utf8_lossy(&stdout);
        if stdout == expected {
            return Ok(());
        }
        let name = self.folder.file_name().unwrap_or_default().display();
        Err(Failure::new(format!(
            "the program of the package {name} printed {stdout:?}, not {expected:?}"
        )))
    }
}
