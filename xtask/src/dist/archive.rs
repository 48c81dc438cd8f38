//! The tree of files to install, the archive of it, and the checksums.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use kugetsu_testing::workspace_root;

use super::{PROGRAM, Release, copy, set_mode, write};
use crate::step::{Failure, output};

/// The file with the checksums.
pub(super) const SUMS: &str = "SHA256SUMS";

/// What the README refers to, so that its links work without a network.
const DOCUMENTS: [&str; 7] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "docs",
    "skills/kugetsu/SKILL.md",
];

/// Where each shell looks for completions, below `share`.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/kugetsu"),
    ("zsh", "zsh/site-functions/_kugetsu"),
    ("fish", "fish/vendor_completions.d/kugetsu.fish"),
];

/// zsh loads the file at the first Tab key, as the body of the function that completes. The script of clap only defines
/// another function then, so this call completes what the first Tab key asked for.
const ZSH_FIRST_TAB: &str = "[[ $funcstack[1] == _kugetsu ]] && _clap_dynamic_completer_kugetsu \"$@\"\n";

/// Lays out what is installed. The program itself prints its manual pages and completions.
pub(super) fn lay_out(release: &Release, binary: &Path) -> Result<(), Failure> {
    let tree = &release.tree;
    let program = tree.join("bin/kugetsu");
    copy(binary, &program)?;
    set_mode(&program, PROGRAM)?;
    let share = tree.join("share");
    for name in documents()? {
        copy(
            &workspace_root().join(&name),
            &share.join("doc/kugetsu").join(&name),
        )?;
    }
    let main = kugetsu(release, &["man"])?;
    for verb in pages(&main) {
        let page = kugetsu(release, &["man", &verb])?;
        write(&share.join(format!("man/man1/kugetsu-{verb}.1")), page)?;
    }
    write(&share.join("man/man1/kugetsu.1"), main)?;
    let pages = share.join("man/man1");
    let mut gzip = Command::new("gzip");
    gzip.args(["-9", "--no-name"])
        .args(names(&pages)?)
        .current_dir(&pages);
    output(&mut gzip)?;
    for (shell, path) in COMPLETIONS {
        let mut script = kugetsu(release, &["completions", shell])?;
        if shell == "zsh" {
            script.push_str(ZSH_FIRST_TAB);
        }
        write(&share.join(path), script)?;
    }
    Ok(())
}

/// The documents that git knows, and no other file that lies there.
fn documents() -> Result<Vec<String>, Failure> {
    let mut list = Command::new("git");
    list.args(["ls-files", "-z", "--"])
        .args(DOCUMENTS)
        .current_dir(workspace_root());
    let listed = String::from_utf8_lossy(&output(&mut list)?).into_owned();
    let names = listed.split('\0').filter(|name| !name.is_empty());
    Ok(names.map(str::to_owned).collect())
}

/// What the packaged program prints, in an empty home.
fn kugetsu(release: &Release, arguments: &[&str]) -> Result<String, Failure> {
    let home = release.stage.join("home");
    let mut command = Command::new(release.tree.join("bin/kugetsu"));
    command.args(arguments).env_clear().env("HOME", home);
    let text = output(&mut command)?;
    String::from_utf8(text).map_err(|error| Failure::new(format!("kugetsu {}: {error}", arguments.join(" "))))
}

/// The commands whose pages the main page refers to.
fn pages(main: &str) -> Vec<String> {
    let words = main.split([' ', ',', '\n']);
    words
        .filter_map(|word| word.strip_prefix("kugetsu\\-")?.strip_suffix("(1)"))
        .map(|verb| verb.replace("\\-", "-"))
        .collect()
}

/// Makes the archive.
pub(super) fn make(release: &Release) -> Result<(), Failure> {
    let name = release.tree.file_name().unwrap_or_default();
    let mut file = release.packages.join(name).into_os_string();
    file.push(".tar.gz");
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--format=gnu",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ])
    .args(["--mode=u=rwX,go=rX", &format!("--mtime=@{}", release.time)])
    .arg(format!(
        "--use-compress-program=gzip -n{}",
        if release.fast { 1 } else { 9 }
    ))
    .arg("--create")
    .arg("--file")
    .arg(file)
    .arg("--directory")
    .arg(&release.stage)
    .arg(name);
    output(&mut tar).map(drop)
}

/// Writes the checksums of all packages.
pub(super) fn sums(release: &Release) -> Result<(), Failure> {
    let mut command = Command::new("sha256sum");
    command
        .args(names(&release.packages)?)
        .current_dir(&release.packages);
    write(&release.packages.join(SUMS), output(&mut command)?)
}

/// The names of the files in a folder, in order.
pub(super) fn names(folder: &Path) -> Result<Vec<OsString>, Failure> {
    let failed = Failure::because(folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(&failed)? {
        names.push(entry.map_err(&failed)?.file_name());
    }
    names.sort();
    Ok(names)
}
