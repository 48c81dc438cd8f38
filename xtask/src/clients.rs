//! Installs the clients from outside with which the tests use the API and the page.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use kugetsu_testing::Clients;

use crate::npm::{self, PAUSE};
use crate::packages;
use crate::step::{Failure, program, step};

/// Installs them unless they are installed already.
pub(crate) fn install() -> Result<(), Failure> {
    packages::install_missing(&packages::FOR_CLIENTS)?;
    // Debian's python3 alone makes no environments.
    let mut ask = Command::new("python3");
    let makes = ask
        .args(["-c", "import ensurepip"])
        .stderr(Stdio::null())
        .status();
    if !makes.is_ok_and(|status| status.success()) {
        packages::install(&["python3-venv"])?;
    }
    step("clients from outside", || {
        let folder = Clients::folder();
        fs::create_dir_all(&folder).map_err(Failure::because(folder.display()))?;
        // Two concurrent installs would mix their files; the lock ends with this process.
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(Failure::because(path.display()))?;
        lock.lock().map_err(Failure::because(path.display()))?;
        once(&folder, "npm", &Clients::NPM, from_npm)?;
        once(&folder, "pypi", &Clients::PYPI, from_pypi)
    })
}

/// Installs packages, and keeps on record which; does nothing if they are on record.
fn once(
    folder: &Path,
    from: &str,
    packages: &[&str],
    install: fn(&Path, &[&str]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let stamp = folder.join(format!("installed-from-{from}"));
    let wanted = packages.join("\n");
    if fs::read_to_string(&stamp).ok().as_deref() == Some(&wanted) {
        return Ok(());
    }
    install(folder, packages)?;
    fs::write(&stamp, wanted).map_err(Failure::because(stamp.display()))
}

fn from_npm(folder: &Path, packages: &[&str]) -> Result<(), Failure> {
    let programs = [Clients::axe(), Clients::openapi_typescript(), Clients::tsc()];
    let found = || programs.iter().all(|path| path.is_file()).then_some(());
    npm::install(Path::new("npm"), folder, packages, PAUSE, found)
}

fn from_pypi(_folder: &Path, packages: &[&str]) -> Result<(), Failure> {
    let python = Clients::python();
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&python);
    program("python3 -m venv", &mut make)?;
    let mut install = Command::new(python.join("bin/pip"));
    install
        .args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--retries",
            "5",
        ])
        .args(packages);
    program(&format!("pip install {}", packages.join(" ")), &mut install)
}
