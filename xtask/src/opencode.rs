//! Installs the real opencode versions that the tests run on.
//!
//! Only the platform package's binary is needed, so install scripts are not run. The stamp that says "installed" is
//! written after that binary has answered with its version; an install that was cut off is done again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kugetsu_testing::Version;

use crate::step::{Failure, step};

const TRIES: u32 = 3;

/// Installs every version.
pub(crate) fn install_all() -> Result<(), Failure> {
    Version::ALL.into_iter().try_for_each(install)
}

/// Installs one version where it is not installed yet.
pub(crate) fn install(version: Version) -> Result<(), Failure> {
    step(&format!("opencode {version}"), || {
        let folder = version.folder();
        fs::create_dir_all(&folder).map_err(Failure::because(folder.display()))?;
        // Two of us at once would mix their files; the lock ends with this process.
        let path = folder.with_file_name("lock");
        let lock = File::create(&path).map_err(Failure::because(path.display()))?;
        lock.lock().map_err(Failure::because(path.display()))?;
        let binary = match stamped(version).or_else(|| adopt(version)) {
            Some(binary) => binary,
            None => fetch(version, &folder)?,
        };
        println!("{}", binary.display());
        Ok(())
    })
}

fn stamped(version: Version) -> Option<PathBuf> {
    let named = fs::read_to_string(version.stamp()).ok()?;
    Some(version.folder().join(named.trim())).filter(|binary| binary.is_file())
}

/// Stamps the first binary found that answers with the right version.
fn adopt(version: Version) -> Option<PathBuf> {
    let binary = version
        .candidates()
        .into_iter()
        .find(|binary| answers(binary, version))?;
    let relative = binary.strip_prefix(version.folder()).ok()?;
    fs::write(version.stamp(), relative.to_str()?).ok()?;
    Some(binary)
}

fn answers(binary: &Path, version: Version) -> bool {
    let Ok(home) = tempfile::tempdir() else {
        return false;
    };
    let output = Command::new(binary)
        .arg("--version")
        .current_dir(home.path())
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .env("OPENCODE_DISABLE_MODELS_FETCH", "1")
        .env("OPENCODE_DISABLE_AUTOUPDATE", "1")
        .stdin(Stdio::null())
        .output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == version.as_str())
}

fn fetch(version: Version, folder: &Path) -> Result<PathBuf, Failure> {
    let npm = Command::new("npm").arg("--version").stdin(Stdio::null()).output();
    if !npm.is_ok_and(|output| output.status.success()) {
        return Err(Failure::new(
            "npm is not found\ninstall Node.js with npm: apt-get install npm",
        ));
    }
    let package = format!("opencode-ai@{version}");
    let mut why = String::new();
    for attempt in 1..=TRIES {
        if attempt > 1 {
            println!("{why}; once more ({attempt} of {TRIES})");
            std::thread::sleep(Duration::from_secs(2) * attempt);
        }
        let status = Command::new("npm")
            .args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--include=optional",
                "--prefix",
            ])
            .arg(folder)
            .arg(&package)
            .current_dir(folder)
            .stdin(Stdio::null())
            .status()
            .map_err(Failure::because("npm"))?;
        if let Some(binary) = adopt(version) {
            return Ok(binary);
        }
        why = if status.success() {
            format!("npm brought no binary of {package} that answers on this machine")
        } else {
            format!("npm install {package}: {status}")
        };
        // What is half there would be taken for complete by npm.
        let _ = fs::remove_dir_all(folder.join("node_modules"));
    }
    Err(Failure::new(format!(
        "{why}\nlook at what npm says above; the folder is {}",
        folder.display()
    )))
}
