//! The Debian package. `Cargo.toml` lists what is in it.

use std::path::PathBuf;
use std::process::Command;

use kugetsu_testing::workspace_root;

use super::{Release, make_folder};
use crate::step::{Failure, cargo, output, program};

/// The version of cargo-deb that makes it.
const VERSION: &str = "3.8.0";

fn tool() -> PathBuf {
    workspace_root().join(".tools/bin/cargo-deb")
}

/// Installs cargo-deb into the ignored folder `.tools` unless it is there.
pub(crate) fn install_tool() -> Result<(), Failure> {
    let there = Command::new(tool()).arg("--version").output();
    if there
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == format!("cargo-deb {VERSION}"))
    {
        return Ok(());
    }
    // Without its features, cargo-deb leaves the compression to `xz`. It is built for debugging because that takes less
    // than half of the time, and it has little to do. cargo holds a lock on the folder.
    let mut install = cargo(&[
        "install",
        "cargo-deb",
        "--version",
        VERSION,
        "--locked",
        "--force",
    ]);
    install
        .args(["--no-default-features", "--debug", "--root", ".tools"])
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS");
    program("cargo install cargo-deb", &mut install)
}

/// Makes the package.
pub(super) fn make(release: &Release) -> Result<(), Failure> {
    let built = release.stage.join("target").join(&release.target);
    make_folder(&built)?;
    let link = built.join("release");
    std::os::unix::fs::symlink(&release.tree, &link).map_err(Failure::because(link.display()))?;
    let mut command = Command::new(tool());
    command
        .args(["--no-build", "--no-strip", "--locked", "--offline", "--quiet"])
        .args(["--target", &release.target, "--output"])
        .arg(&release.packages)
        .args(release.fast.then_some("--fast"))
        .current_dir(workspace_root())
        .env("CARGO_TARGET_DIR", release.stage.join("target"))
        .env("SOURCE_DATE_EPOCH", &release.time);
    output(&mut command).map(drop)
}
