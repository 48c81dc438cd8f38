//! Installs Prism, which judges requests by GitHub's published OpenAPI document, and that document.

use std::fs::{self, File};
use std::path::Path;

use kugetsu_testing::Prism;

use crate::npm::{self, PAUSE};
use crate::step::{Failure, step};

/// Installs both unless they are installed already.
pub(crate) fn install() -> Result<(), Failure> {
    step("Prism and the OpenAPI document of GitHub", || {
        let folder = Prism::folder();
        fs::create_dir_all(&folder).map_err(Failure::because(folder.display()))?;
        // Two concurrent installs would mix their files; the lock ends with this process.
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(Failure::because(path.display()))?;
        lock.lock().map_err(Failure::because(path.display()))?;
        let stamp = folder.join("installed");
        let wanted = Prism::PACKAGES.join("\n");
        let is_there = || Prism::program().is_file() && Prism::document().is_file();
        if !is_there() || fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted) {
            let found = || is_there().then_some(());
            npm::install(Path::new("npm"), &folder, &Prism::PACKAGES, PAUSE, found)?;
            fs::write(&stamp, wanted).map_err(Failure::because(stamp.display()))?;
        }
        println!("{}", Prism::program().display());
        Ok(())
    })
}
