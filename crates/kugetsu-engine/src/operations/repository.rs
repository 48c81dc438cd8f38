//! Finds the repository that a folder is a clone of.

use std::path::{Path, PathBuf};

use super::Engine;
use kugetsu_api::{RefError, RepoRef};

impl Engine {
    /// The repository that a clone's `origin` names; `None` outside a clone, or without an origin. Blocks.
    pub fn origin_of(&self, folder: &Path) -> Option<Result<RepoRef, RefError>> {
        let url = self.git_output(folder, &["remote", "get-url", "origin"])?;
        Some(RepoRef::from_remote_url(&url))
    }

    /// The top folder of the clone that contains `folder`, if there is one. Blocks.
    pub(super) fn top_of(&self, folder: &Path) -> Option<PathBuf> {
        self.git_output(folder, &["rev-parse", "--show-toplevel"])
            .map(PathBuf::from)
    }

    fn git_output(&self, folder: &Path, args: &[&str]) -> Option<String> {
        let output = self.git().at(folder).ask(args).ok()?;
        let text = output.text().trim().to_owned();
        (output.ok && !text.is_empty()).then_some(text)
    }
}
