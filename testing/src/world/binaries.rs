//! Locates the programs under test.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The name of [`Version::stamp`].
pub const STAMP: &str = "installed";

/// A real version of opencode that the tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// 1.3.2, the oldest supported version.
    V1_3_2,
    /// 1.18.33, the newest supported version.
    V1_18_33,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 2] = [Self::V1_3_2, Self::V1_18_33];

    /// As `opencode --version` prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1_3_2 => "1.3.2",
            Self::V1_18_33 => "1.18.33",
        }
    }

    /// The folder that `cargo xtask opencode` installs it into.
    pub fn folder(self) -> PathBuf {
        workspace_root().join(".opencode").join(self.as_str())
    }

    /// The file in [`Version::folder`] with the relative path of the binary that was verified after its installation.
    pub fn stamp(self) -> PathBuf {
        self.folder().join(STAMP)
    }

    /// The binaries of the platform packages found in [`Version::folder`], the most likely one first.
    pub fn candidates(self) -> Vec<PathBuf> {
        binaries_in(&self.folder())
    }

    /// The real binary, not the node shim in front of it; `None` if it is not installed.
    pub fn installed(self) -> Option<PathBuf> {
        let named = std::fs::read_to_string(self.stamp())
            .ok()
            .map(|path| self.folder().join(path.trim()));
        named
            .filter(|binary| binary.is_file())
            .or_else(|| self.candidates().into_iter().next())
    }

    /// [`Version::installed`]; panics with instructions if it is not installed.
    #[track_caller]
    pub fn binary(self) -> PathBuf {
        self.installed()
            .unwrap_or_else(|| panic!("opencode {self} is not installed: run `cargo xtask opencode`"))
    }
}

/// The binaries of opencode's platform packages that npm installed into a folder, most likely first: the plain package
/// precedes `-baseline` (for processors without AVX2) and `-musl`.
pub fn binaries_in(folder: &Path) -> Vec<PathBuf> {
    let packages = std::fs::read_dir(folder.join("node_modules"))
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<PathBuf> = packages
        .filter(|package| {
            let name = package.file_name();
            let name = name.to_string_lossy();
            name.starts_with("opencode-") && name != "opencode-ai"
        })
        .map(|package| package.path().join("bin").join("opencode"))
        .filter(|binary| binary.is_file())
        .collect();
    found.sort_by_key(|binary| (binary.as_os_str().len(), binary.clone()));
    found
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|version| version.as_str() == text);
        known.ok_or_else(|| format!("opencode {text} is not one of the tested versions"))
    }
}

/// The opencode of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opencode {
    /// The real binary.
    Real(Version),
    /// The scripted fake of this package.
    Fake,
}

impl Opencode {
    /// The binary; panics with instructions if it is missing.
    #[track_caller]
    pub fn binary(self) -> PathBuf {
        match self {
            Self::Real(version) => version.binary(),
            Self::Fake => fake_binary(),
        }
    }
}

/// The folder of the workspace's `Cargo.toml`.
pub fn workspace_root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("this package is a folder of the workspace")
}

/// A program of the workspace that was built beside the running one.
fn beside_us(name: &str) -> Option<PathBuf> {
    let us = std::env::current_exe().ok()?;
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    // target/debug/xtask, or target/debug/deps/some_test-0123456789abcdef
    us.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(&name))
        .find(|path| path.is_file())
}

/// `kugetsu`: the program that `KUGETSU_BIN` names, else the one that cargo built for this test, else the one beside
/// the running program.
#[track_caller]
pub fn kugetsu_binary() -> PathBuf {
    let named = ["KUGETSU_BIN", "CARGO_BIN_EXE_kugetsu"]
        .into_iter()
        .find_map(std::env::var_os);
    named
        .map(PathBuf::from)
        .or_else(|| beside_us("kugetsu"))
        .expect("the program kugetsu is not built: run `cargo build --workspace`")
}

/// The fake opencode; panics if it is not built or is older than its source.
#[track_caller]
pub fn fake_binary() -> PathBuf {
    let binary =
        beside_us("fake-opencode").expect("the fake opencode is not built: run `cargo build --workspace`");
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in [
        "bin/fake-opencode/main.rs",
        "bin/fake-opencode/play.rs",
        "bin/fake-opencode/store.rs",
        "fake.rs",
    ] {
        assert!(
            modified(&source.join(file)) <= modified(&binary),
            "the fake opencode is older than {file}: run `cargo build --workspace`"
        );
    }
    binary
}
