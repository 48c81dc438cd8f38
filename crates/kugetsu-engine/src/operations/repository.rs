//! Which repository a folder is a clone of.

use std::path::{Path, PathBuf};

use kugetsu_api::{RefError, RepoRef};

/// The top folder of the clone that holds `folder`, if one does.
pub(super) fn top_of(folder: &Path) -> Option<PathBuf> {
    git(folder, &["rev-parse", "--show-toplevel"]).map(PathBuf::from)
}

/// The repository that a clone's `origin` names: `None` outside a clone, or without an origin.
pub fn origin_of(folder: &Path) -> Option<Result<RepoRef, RefError>> {
    let url = git(folder, &["remote", "get-url", "origin"])?;
    Some(RepoRef::from_remote_url(&url))
}

fn git(folder: &Path, args: &[&str]) -> Option<String> {
    let output = duct::cmd("git", args)
        .dir(folder)
        .stdin_null()
        .stdout_capture()
        .stderr_null()
        .unchecked()
        .run()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
