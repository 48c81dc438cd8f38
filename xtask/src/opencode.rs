//! Installs the real opencode versions that the tests run on.
//!
//! Only the platform package's binary is needed, so install scripts are not run. The stamp that marks a version as
//! installed is written after its binary has answered with the version; an interrupted install is repeated.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kugetsu_testing::{Opencode, STAMP, Version, World, binaries_in, script_tour};

use crate::npm::{self, PAUSE};
use crate::step::{Failure, cargo, program, step};

/// Installs every version.
pub(crate) fn install_all() -> Result<(), Failure> {
    Version::ALL.into_iter().try_for_each(install)
}

/// A machine on which kugetsu was never used, with this opencode and a model that answers what the tour asks. The model
/// takes `pace` for each word.
pub(crate) fn new_machine(version: Version, pace: Duration) -> Result<World, Failure> {
    install(version)?;
    program(
        "build",
        &mut cargo(&["build", "--package", "kugetsu", "--bin", "kugetsu"]),
    )?;
    let world = World::before_first_use(Opencode::Real(version));
    script_tour(&world, pace);
    Ok(world)
}

/// Installs one version unless it is already installed.
pub(crate) fn install(version: Version) -> Result<(), Failure> {
    step(&format!("opencode {version}"), || {
        let folder = version.folder();
        fs::create_dir_all(&folder).map_err(Failure::because(folder.display()))?;
        // Two concurrent installs would mix their files; the lock ends with this process.
        let path = folder.with_file_name("lock");
        let lock = File::create(&path).map_err(Failure::because(path.display()))?;
        lock.lock().map_err(Failure::because(path.display()))?;
        let binary = match stamped(&folder).or_else(|| adopt(version, &folder)) {
            Some(binary) => binary,
            None => fetch(version, &folder, Path::new("npm"), PAUSE)?,
        };
        println!("{}", binary.display());
        Ok(())
    })
}

fn stamped(folder: &Path) -> Option<PathBuf> {
    let named = fs::read_to_string(folder.join(STAMP)).ok()?;
    Some(folder.join(named.trim())).filter(|binary| binary.is_file())
}

/// Stamps the first binary found that answers with the right version.
fn adopt(version: Version, folder: &Path) -> Option<PathBuf> {
    let binary = binaries_in(folder)
        .into_iter()
        .find(|binary| answers(binary, version))?;
    let relative = binary.strip_prefix(folder).ok()?;
    fs::write(folder.join(STAMP), relative.to_str()?).ok()?;
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

fn fetch(version: Version, folder: &Path, npm: &Path, pause: Duration) -> Result<PathBuf, Failure> {
    let package = format!("opencode-ai@{version}");
    npm::install(npm, folder, &[&package], pause, || adopt(version, folder))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// A folder to install into, and a fake npm that records its attempts in `attempts`. `install` is its script, with
    /// `$attempt`, its number, and `$bin`, the path of the binary.
    fn npm(install: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("1.3.2");
        fs::create_dir(&folder).unwrap();
        let program = root.path().join("npm");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\n\
             echo \"$@\" >> '{root}/attempts'\nattempt=$(wc -l < '{root}/attempts')\n\
             bin='{root}/1.3.2/node_modules/opencode-linux-x64/bin'\n{install}\n",
            root = root.path().display()
        );
        // A shell writes the file: while this process had it open for writing, a child of another test could inherit
        // the descriptor, and nobody could execute the file.
        let write = "printf '%s' \"$1\" > \"$2\"; chmod +x \"$2\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", write, "sh", &script]).arg(&program);
        assert!(shell.status().unwrap().success());
        (root, folder, program)
    }

    fn attempts(root: &tempfile::TempDir) -> Vec<String> {
        let text = fs::read_to_string(root.path().join("attempts")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn fetched(folder: &Path, npm: &Path) -> Result<PathBuf, Failure> {
        fetch(Version::V1_3_2, folder, npm, Duration::ZERO)
    }

    #[test]
    fn an_install_that_fails_is_tried_again() {
        // First the network is gone, then half a package arrives, then all of it.
        let (root, folder, npm) = npm(
            "case $attempt in 1) exit 1;; 2) mkdir -p $bin; touch $bin/opencode $bin/half; exit 0;; esac\n\
             mkdir -p $bin; printf '#!/bin/sh\\necho 1.3.2\\n' > $bin/opencode; chmod +x $bin/opencode",
        );
        let binary = fetched(&folder, &npm).unwrap();
        let attempts = attempts(&root);
        assert_eq!(attempts.len(), 3, "{attempts:?}");
        assert!(
            attempts.iter().all(|words| words.ends_with(" opencode-ai@1.3.2")),
            "{attempts:?}"
        );
        assert!(
            !binary.with_file_name("half").exists(),
            "what was half there was not removed"
        );
        assert_eq!(stamped(&folder), Some(binary));
    }

    #[test]
    fn an_install_that_always_fails_reports_what_to_check() {
        for (install, why) in [
            ("exit 7", "npm install opencode-ai@1.3.2: exit status: 7"),
            ("exit 0", "npm brought no program of opencode-ai@1.3.2"),
            // A binary with another version does not count.
            (
                "mkdir -p $bin; printf '#!/bin/sh\\necho 1.3.3\\n' > $bin/opencode; chmod +x $bin/opencode",
                "npm brought no program of opencode-ai@1.3.2",
            ),
        ] {
            let (root, folder, npm) = npm(install);
            let failure = fetched(&folder, &npm).unwrap_err();
            for word in [why, "look at what npm says", folder.to_str().unwrap()] {
                assert!(failure.message.contains(word), "{word:?} in {failure:?}");
            }
            assert_eq!(failure.status, 1);
            assert_eq!(attempts(&root).len(), 3);
            assert_eq!(
                (stamped(&folder), folder.join("node_modules").exists()),
                (None, false)
            );
        }
    }

    #[test]
    fn a_missing_npm_is_named() {
        let (root, folder, npm) = npm("exit 0");
        let failure = fetched(&folder, &npm.with_file_name("no-npm")).unwrap_err();
        for word in ["npm is not found", "apt-get install npm"] {
            assert!(failure.message.contains(word), "{word:?} in {failure:?}");
        }
        assert!(attempts(&root).is_empty());
    }
}
