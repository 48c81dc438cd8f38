//! A look at the configuration of a clone that costs no process: can it name a program at all? Few clones' can.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::inert;

/// The largest configuration that is looked at, in bytes.
const MAX_LENGTH: u64 = 1 << 20;

/// Whether the configuration of any repository that git may find from this folder can name a program. True as well if
/// that cannot be known.
pub(super) fn may_name_programs(folder: &Path) -> bool {
    // git goes up until it finds a valid repository. What it holds for valid is not repeated here: all are looked at.
    folder.ancestors().any(|folder| {
        let dot_git = folder.join(".git");
        let linked = match dot_git.metadata() {
            Ok(found) if found.is_dir() => in_git_folder(&dot_git),
            Ok(_) => linked_git_folder(folder).is_none_or(|git| in_git_folder(&git)),
            Err(error) => error.kind() != ErrorKind::NotFound,
        };
        let is_bare = || folder.join("HEAD").symlink_metadata().is_ok();
        linked || (is_bare() && in_git_folder(folder))
    })
}

fn in_git_folder(folder: &Path) -> bool {
    let named = folder.join("commondir");
    let common = match named.symlink_metadata() {
        Ok(_) => match pointer(&named, b"") {
            Some(path) => folder.join(path),
            None => return true,
        },
        Err(_) => folder.to_owned(),
    };
    let files = [
        common.join("config"),
        common.join("config.worktree"),
        folder.join("config.worktree"),
    ];
    files.iter().any(|file| match content(file) {
        Ok(content) => {
            let content = content.to_ascii_lowercase();
            inert::words().any(|word| memchr::memmem::find(&content, word.as_bytes()).is_some())
        }
        Err(error) => error.kind() != ErrorKind::NotFound,
    })
}

/// The git folder that the `.git` file of a linked worktree or a submodule names. `None` also if it cannot be read.
pub(crate) fn linked_git_folder(top: &Path) -> Option<PathBuf> {
    pointer(&top.join(".git"), b"gitdir: ").map(|path| top.join(path))
}

/// The path that a file of git holds.
fn pointer(file: &Path, prefix: &[u8]) -> Option<PathBuf> {
    let content = content(file).ok()?;
    let path = content.strip_prefix(prefix)?;
    let end = path.iter().rposition(|byte| !b"\r\n".contains(byte))?;
    Some(Path::new(OsStr::from_bytes(&path[..=end])).to_owned())
}

fn content(file: &Path) -> std::io::Result<Vec<u8>> {
    let found = file.metadata()?;
    // Reading a pipe would wait.
    if !found.is_file() || found.len() > MAX_LENGTH {
        return Err(ErrorKind::Other.into());
    }
    std::fs::read(file)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the test writes the files of a clone")]
mod tests {
    use super::*;

    struct Clone(tempfile::TempDir);

    impl Clone {
        fn new() -> Self {
            let clone = Self(tempfile::tempdir().unwrap());
            for folder in [".git/worktrees/14", "tree/below"] {
                std::fs::create_dir_all(clone.0.path().join(folder)).unwrap();
            }
            clone.write(".git/HEAD", "ref: refs/heads/main\n");
            clone.write(
                ".git/config",
                "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = x\n[branch \"main\"]\n\tmerge = refs/heads/main\n",
            );
            clone.write("tree/.git", "gitdir: ../.git/worktrees/14\n");
            clone.write(".git/worktrees/14/commondir", "../..\n");
            clone
        }

        fn write(&self, file: &str, content: impl AsRef<[u8]>) {
            std::fs::write(self.0.path().join(file), content).unwrap();
        }

        fn may(&self, folder: &str) -> bool {
            may_name_programs(&self.0.path().join(folder))
        }
    }

    #[test]
    fn an_ordinary_clone_names_no_program() {
        let clone = Clone::new();
        assert!(!clone.may(""));
        assert!(!clone.may("tree"));
        assert!(!clone.may("tree/below"));
    }

    #[test]
    fn every_place_of_a_configuration_is_looked_at() {
        let clone = Clone::new();
        clone.write(".git/worktrees/14/config.worktree", "[Filter \"x\"] CLEAN = evil");
        assert!(!clone.may(""));
        assert!(clone.may("tree/below"));

        let clone = Clone::new();
        clone.write(".git/config", "[include]\npath = more");
        assert!(clone.may("") && clone.may("tree"));

        // A bare repository in a folder of the worktree, and a configuration that cannot be read.
        let clone = Clone::new();
        clone.write("tree/below/HEAD", "ref: refs/heads/main\n");
        clone.write("tree/below/config", "[core]\nsshCommand = evil");
        assert!(clone.may("tree/below"));
        let clone = Clone::new();
        clone.write("tree/.git", "gitdir: /nowhere\0/.git");
        assert!(clone.may("tree"));
        clone.write("tree/.git", "nothing");
        assert!(clone.may("tree"));
        let clone = Clone::new();
        clone.write(".git/config", vec![b'#'; 1 << 21]);
        assert!(clone.may(""));
    }
}
