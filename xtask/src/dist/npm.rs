//! The npm packages: one holds the program of a platform, and the other, which people install, starts it.

use std::path::Path;
use std::process::Command;

use kugetsu_testing::workspace_root;
use serde_json::{Value, json};

use super::{PROGRAM, Release, copy, set_mode, write};
use crate::step::{Failure, output};

/// The package that people install.
pub(super) const NAME: &str = "kugetsu-cli";

/// Starts the program. A shell script costs a tenth of what node does, and can replace itself by the program, which then
/// gets every signal.
const LAUNCHER: &str = include_str!("launcher.sh");

/// Makes both packages.
pub(super) fn make(release: &Release) -> Result<(), Failure> {
    let cpu = match release.machine() {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => return Err(Failure::new(format!("npm has no name for the processor {other}"))),
    };
    let platform = format!("{NAME}-linux-{cpu}");
    let about = |name: &str| {
        json!({
            "name": name,
            "version": release.version(),
            "description": release.about("description"),
            "license": release.about("license"),
            "repository": {"type": "git", "url": format!("git+{}.git", release.about("repository"))},
            "os": ["linux"],
            "cpu": [cpu],
        })
    };

    let folder = release.stage.join("npm").join(&platform);
    let program = folder.join("bin/kugetsu");
    copy(&release.tree.join("bin/kugetsu"), &program)?;
    set_mode(&program, PROGRAM)?;
    pack(release, &folder, &about(&platform))?;

    let folder = release.stage.join("npm").join(NAME);
    let launcher = LAUNCHER
        .replace("@MACHINE@", release.machine())
        .replace("@PACKAGE@", &platform);
    let path = folder.join("bin/kugetsu");
    write(&path, launcher)?;
    set_mode(&path, PROGRAM)?;
    let mut main = about(NAME);
    main["bin"] = json!({"kugetsu": "bin/kugetsu"});
    main["optionalDependencies"] = json!({platform: release.version()});
    pack(release, &folder, &main)
}

fn pack(release: &Release, folder: &Path, about: &Value) -> Result<(), Failure> {
    for name in ["README.md", "LICENSE"] {
        copy(&workspace_root().join(name), &folder.join(name))?;
    }
    write(&folder.join("package.json"), format!("{about:#}\n"))?;
    let mut npm = Command::new("npm");
    npm.args(["pack", "--ignore-scripts", "--silent", "--pack-destination"])
        .arg(&release.packages)
        .current_dir(folder);
    output(&mut npm).map(drop)
}
