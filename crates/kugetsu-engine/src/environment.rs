//! The environment of a request: captured at the edge of the program, passed to every started program.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The variables, the home and the program of the caller. Programs that the engine starts get these variables and those
/// that the engine sets, and no others. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(Arc<Captured>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Captured {
    variables: BTreeMap<OsString, OsString>,
    home: PathBuf,
    program: PathBuf,
}

impl Environment {
    /// `variables` is the whole environment, `home` the user's home folder, and `program` kugetsu's own binary, which
    /// is started again as a guard.
    pub fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        home: PathBuf,
        program: PathBuf,
    ) -> Self {
        Self(Arc::new(Captured {
            variables: variables.into_iter().collect(),
            home,
            program,
        }))
    }

    /// A variable; an empty one counts as absent.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        let value = self.0.variables.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value)
    }

    /// Every variable with its value.
    pub fn variables(&self) -> impl Iterator<Item = (&OsString, &OsString)> {
        self.0.variables.iter()
    }

    /// The user's home folder.
    pub fn home(&self) -> &Path {
        &self.0.home
    }

    /// kugetsu's own binary.
    pub fn program(&self) -> &Path {
        &self.0.program
    }
}
