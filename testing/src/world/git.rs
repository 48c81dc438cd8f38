//! The git repositories of a world.

use std::path::{Path, PathBuf};

use super::{Output, Stdin, World};

impl World {
    /// Runs git in a folder; panics with its output if it fails.
    #[track_caller]
    pub fn git<'a>(&self, folder: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Output {
        let mut command = self.command("git");
        command.current_dir(folder).args(arguments);
        let output = self.finish(command, Stdin::Null);
        output.expect_status(0);
        output
    }

    pub(super) fn make_repository(&self, name: &str, origin: &str) -> PathBuf {
        let folder = self.root().join(name);
        std::fs::create_dir(&folder).expect("a new folder in the temporary folder");
        std::fs::write(folder.join("README.md"), format!("# {name}\n"))
            .expect("a file in the temporary folder");
        std::fs::write(folder.join("notes.txt"), "notes\n").expect("a file in the temporary folder");
        self.git(&folder, ["init", "--quiet", "--initial-branch=main"]);
        self.git(&folder, ["remote", "add", "origin", origin]);
        self.git(&folder, ["add", "--all"]);
        // The message contains the name, so that two repositories never have the same first commit: opencode uses that
        // commit's id as the project's id.
        self.git(
            &folder,
            ["commit", "--quiet", "--message", &format!("Begin {name}")],
        );
        folder
    }

    /// Creates another repository of one commit beside the first one.
    pub fn clone_repo(&self, name: &str, origin: &str) -> PathBuf {
        self.make_repository(name, origin)
    }

    /// A bare repository that `git push origin` in the world's repository writes to, while `origin` still reads
    /// `https://github.com/shoko/kugetsu.git`. Created by the first call.
    pub fn bare_remote(&self) -> PathBuf {
        let bare = self.root().join("remote.git");
        if !bare.exists() {
            let path = bare.to_str().expect("a temporary folder's path is text");
            self.git(
                self.root(),
                ["init", "--quiet", "--bare", "--initial-branch=main", path],
            );
            self.git(&self.repo(), ["remote", "set-url", "--push", "origin", path]);
        }
        bare
    }
}
