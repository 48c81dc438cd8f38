//! Installs packages from npm into ignored folders, without their install scripts.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::step::Failure;

const TRIES: u32 = 3;
/// The pause before the second attempt; it grows with each further one.
pub(crate) const PAUSE: Duration = Duration::from_secs(4);

/// Installs packages into a folder until `found` finds in it what they are for.
pub(crate) fn install<T>(
    npm: &Path,
    folder: &Path,
    packages: &[&str],
    pause: Duration,
    found: impl Fn() -> Option<T>,
) -> Result<T, Failure> {
    let there = Command::new(npm).arg("--version").stdin(Stdio::null()).output();
    if !there.is_ok_and(|output| output.status.success()) {
        return Err(Failure::new(
            "npm is not found\ninstall Node.js with npm: apt-get install npm",
        ));
    }
    let names = packages.join(" ");
    let mut why = String::new();
    for attempt in 1..=TRIES {
        if attempt > 1 {
            println!("{why}; once more ({attempt} of {TRIES})");
            std::thread::sleep(pause * (attempt - 1));
        }
        let status = Command::new(npm)
            .args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--include=optional",
                "--prefix",
            ])
            .arg(folder)
            .args(packages)
            .current_dir(folder)
            .stdin(Stdio::null())
            .status()
            .map_err(Failure::because("npm"))?;
        if let Some(found) = found() {
            return Ok(found);
        }
        why = if status.success() {
            format!("npm brought no program of {names} that works on this machine")
        } else {
            format!("npm install {names}: {status}")
        };
        // npm would take a partial install for a complete one.
        let _ = fs::remove_dir_all(folder.join("node_modules"));
    }
    Err(Failure::new(format!(
        "{why}\nlook at what npm says above; the folder is {}",
        folder.display()
    )))
}
