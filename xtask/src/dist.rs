//! `cargo xtask dist`: makes the packages of a release, and installs and runs each of them in a clean root.
//!
//! Packages: an archive for any Linux, a Debian package, and two npm packages (one holds the program, the other starts
//! it). Everything in them has the time of the last commit (or `SOURCE_DATE_EPOCH`), and no name of a local folder, so
//! the same compiler makes the same packages from the same commit.

mod archive;
mod clean_root;
mod deb;
mod npm;

pub(crate) use deb::install_tool as install_cargo_deb;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use kugetsu_testing::workspace_root;
use serde_json::Value;

use crate::fuzz::host;
use crate::packages::{self, FOR_PACKAGES, MUSL};
use crate::step::{Failure, cargo, output, program, step};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Package this program instead of a release build, and compress little. It may need shared libraries: the tests
    /// package the debug build
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Put the packages into this new or empty folder [default: target/dist, which is replaced]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// What the packages contain, and what they say about it.
struct Release {
    /// kugetsu's entry in the metadata of cargo: version, description, license, repository.
    cargo: Value,
    /// The platform that the program was built for, as the compiler names it.
    target: String,
    /// The time of every file, in seconds since 1970.
    time: String,
    /// The tree to install below `/usr` or `/usr/local`; the archive holds this folder.
    tree: PathBuf,
    /// A folder for intermediate files, beside the tree.
    stage: PathBuf,
    /// Where the packages go.
    packages: PathBuf,
    /// Whether to compress little, because nobody will download the packages.
    fast: bool,
}

impl Release {
    fn about(&self, field: &str) -> &str {
        self.cargo[field].as_str().unwrap_or_default()
    }

    fn version(&self) -> &str {
        self.about("version")
    }

    /// The processor, as the compiler names it: `x86_64`.
    fn machine(&self) -> &str {
        self.target.split('-').next().unwrap_or_default()
    }
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    packages::install_missing(&FOR_PACKAGES)?;
    let folder = free_folder(options.folder.as_deref())?;
    let time = time()?;
    install_cargo_deb()?;
    let (binary, target) = match &options.binary {
        Some(binary) => (binary.clone(), host()?),
        None => build()?,
    };
    let stage = workspace_root().join("target/dist-stage");
    let _lock = lock(&stage)?;
    if stage.exists() {
        fs::remove_dir_all(&stage).map_err(Failure::because(stage.display()))?;
    }
    let cargo = about_kugetsu()?;
    let name = format!(
        "kugetsu-{}-{target}",
        cargo["version"].as_str().unwrap_or_default()
    );
    let release = Release {
        cargo,
        target,
        time,
        tree: stage.join(name),
        packages: stage.join("packages"),
        stage,
        fast: options.binary.is_some(),
    };
    step("packages", || {
        archive::lay_out(&release, &binary)?;
        make_folder(&release.packages)?;
        archive::make(&release)?;
        deb::make(&release)?;
        npm::make(&release)?;
        archive::sums(&release)
    })?;
    step("each package in a clean root", || {
        clean_root::check(&release, &binary)
    })?;
    if options.folder.is_none() && folder.exists() {
        fs::remove_dir_all(&folder).map_err(Failure::because(folder.display()))?;
    }
    // While the packages were made, files may have come into the folder that was named.
    free_folder(options.folder.as_deref())?;
    publish(&release.packages, &folder)?;
    fs::remove_dir_all(&release.stage).map_err(Failure::because(release.stage.display()))
}

/// Waits until no other command uses the folder. A command that failed or was interrupted leaves files there.
fn lock(stage: &Path) -> Result<File, Failure> {
    let path = stage.with_extension("lock");
    make_folder(&workspace_root().join("target"))?;
    let lock = File::create(&path).map_err(Failure::because(path.display()))?;
    if lock.try_lock().is_err() {
        println!("=== another `cargo xtask dist` runs; waiting for its end");
        lock.lock().map_err(Failure::because(path.display()))?;
    }
    Ok(lock)
}

/// What the program contains instead of the folder of the sources.
const SOURCES: &str = "/kugetsu";
/// What the program contains instead of cargo's home.
const DEPENDENCIES: &str = "/cargo";

/// Builds a release that needs nothing but the kernel.
fn build() -> Result<(PathBuf, String), Failure> {
    let host = host()?;
    let Some((machine, _)) = host.split_once("-unknown-linux-") else {
        return Err(Failure::new(format!(
            "packages are made on Linux; the compiler is for {host}"
        )));
    };
    let musl = format!("{machine}-unknown-linux-musl");
    let target = if has_target(&musl) {
        packages::install_missing(&[MUSL])?;
        musl
    } else {
        println!(
            "=== {musl} is not installed: the program is linked statically with glibc. It finds host names by /etc/hosts \
             and DNS; other services of nsswitch.conf work only with the same version of glibc\n\
             === to use musl: rustup target add {musl}"
        );
        host
    };
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .ok_or_else(|| Failure::new("the home of cargo is not known: set CARGO_HOME"))?;
    let mut build = cargo(&[
        "build",
        "--release",
        "--locked",
        "--package",
        "kugetsu",
        "--bin",
        "kugetsu",
    ]);
    // With an explicit target, these flags are not used for build scripts and procedural macros, which must be dynamic.
    build
        .args(["--target", &target, "--target-dir", "target"])
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env(
            "RUSTFLAGS",
            format!(
                "-C target-feature=+crt-static --remap-path-prefix={}={SOURCES} --remap-path-prefix={}={DEPENDENCIES}",
                workspace_root().display(),
                home.display()
            ),
        );
    program("build", &mut build)?;
    let binary = workspace_root()
        .join("target")
        .join(&target)
        .join("release/kugetsu");
    let shared = clean_root::libraries(&binary)?;
    if !shared.is_empty() {
        return Err(Failure::new(format!(
            "the program is not static: it needs {shared:?}"
        )));
    }
    let bytes = fs::read(&binary).map_err(Failure::because(binary.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let sources = ["src/", "crates/"].map(|name| workspace_root().join(name));
    for local in sources.iter().chain([&home.join("registry/")]) {
        let is_replacement = local.starts_with(SOURCES) || local.starts_with(DEPENDENCIES);
        if !is_replacement && text.contains(&*local.to_string_lossy()) {
            return Err(Failure::new(format!(
                "the program contains the name of a local folder: {}",
                local.display()
            )));
        }
    }
    Ok((binary, target))
}

/// Whether the standard library for this platform is installed.
fn has_target(target: &str) -> bool {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .output();
    output.is_ok_and(|output| {
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success() && Path::new(&folder).is_dir()
    })
}

/// kugetsu's entry in the metadata of cargo.
fn about_kugetsu() -> Result<Value, Failure> {
    let text = output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value =
        serde_json::from_slice(&text).map_err(|error| Failure::new(format!("cargo metadata: {error}")))?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .into_iter()
        .find(|package| package["name"] == "kugetsu")
        .cloned()
        .ok_or_else(|| Failure::new("cargo metadata does not name kugetsu"))
}

/// The time of every file in the packages.
fn time() -> Result<String, Failure> {
    if let Ok(time) = std::env::var("SOURCE_DATE_EPOCH") {
        return match time.parse::<u32>() {
            Ok(_) => Ok(time),
            Err(_) => Err(Failure::new(format!(
                "SOURCE_DATE_EPOCH is `{time}`, not a number of seconds since 1970"
            ))),
        };
    }
    let mut log = Command::new("git");
    log.args(["log", "-1", "--format=%ct"])
        .current_dir(workspace_root());
    Ok(String::from_utf8_lossy(&output(&mut log)?).trim().to_owned())
}

/// The folder for the packages. Files of others are not removed, so a folder that is named must be empty.
fn free_folder(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let Some(folder) = named else {
        return Ok(workspace_root().join("target/dist"));
    };
    let is_empty = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(Failure::because(folder.display())(error)),
    };
    if is_empty {
        Ok(folder.to_owned())
    } else {
        Err(Failure::new(format!(
            "{} is not empty: name a new folder",
            folder.display()
        )))
    }
}

/// Moves the packages to where people look for them.
fn publish(packages: &Path, folder: &Path) -> Result<(), Failure> {
    make_folder(folder)?;
    let mut names = archive::names(packages)?;
    // Last, so that a folder with checksums is complete.
    names.sort_by_key(|name| name == archive::SUMS);
    for name in names {
        let to = folder.join(&name);
        // The folder may be on another disk, where a rename cannot go.
        fs::copy(packages.join(&name), &to).map_err(Failure::because(to.display()))?;
        println!("{}", to.display());
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(Failure::because(folder.display()))
}

/// The mode of a program; other files have 644. npm packs modes as they are, and the mask of the user is not the
/// packages' business.
const PROGRAM: u32 = 0o755;

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    fs::write(path, content).map_err(Failure::because(path.display()))?;
    set_mode(path, 0o644)
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    fs::copy(from, to).map_err(|error| {
        Failure::new(format!(
            "cannot copy {} to {}: {error}",
            from.display(),
            to.display()
        ))
    })?;
    set_mode(to, 0o644)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Failure> {
    let mode = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, mode).map_err(Failure::because(path.display()))
}
