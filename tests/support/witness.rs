//! Programs that note what they are told and what every user can see, for tests of secrets.

use std::path::{Path, PathBuf};

use kugetsu_testing::World;

/// Notes the environment of programs, and the arguments of every process of the machine.
pub(crate) struct Witness {
    folder: PathBuf,
}

impl Witness {
    pub(crate) fn of(world: &World) -> Self {
        let witness = Self {
            folder: world.root().join("witness"),
        };
        for folder in [witness.seen(), witness.folder.join("bin")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let note = format!(
            "#!/bin/sh\nfile=$(mktemp '{}'/\"$1\".XXXXXX)\nenv > \"$file\"\n\
             cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' '\\n' > \"$file.list\"\n",
            witness.seen().display()
        );
        write_program(&witness.note(), &note);
        witness
    }

    fn seen(&self) -> PathBuf {
        self.folder.join("seen")
    }

    /// The program that notes: its argument is the name of the one that it runs in.
    pub(crate) fn note(&self) -> PathBuf {
        self.folder.join("note")
    }

    /// A command of a shell that notes.
    pub(crate) fn command(&self, name: &str) -> String {
        format!("'{}' {name}", self.note().display())
    }

    /// A program with this name that notes and then does the rest of its work.
    pub(crate) fn program(&self, name: &str, rest: &str) -> PathBuf {
        let program = self.folder.join("bin").join(name);
        let text = format!("#!/bin/sh\n'{}' {name}\n{rest}\n", self.note().display());
        write_program(&program, &text);
        program
    }

    /// `PATH` with these programs first.
    pub(crate) fn path(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        format!("{}:{path}", self.folder.join("bin").display())
    }

    /// git, which notes.
    pub(crate) fn git(&self) {
        let real = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join("git"))
            .find(|git| git.is_file())
            .expect("git is installed");
        self.program("git", &format!("exec '{}' \"$@\"", real.display()));
    }

    /// The environments of all programs of this name.
    pub(crate) fn environments(&self, name: &str) -> Vec<String> {
        self.noted(|file| {
            file.split_once('.')
                .is_some_and(|(noted, end)| noted == name && !end.contains('.'))
        })
    }

    /// The names of the programs that noted something, and the arguments of all processes at that time.
    pub(crate) fn lists(&self) -> Vec<String> {
        self.noted(|file| file.strip_suffix(".list").is_some())
    }

    /// The names of the programs in whose environment the text is, each once.
    pub(crate) fn told(&self, text: &str) -> Vec<String> {
        let mut names: Vec<_> = self
            .files()
            .into_iter()
            .filter(|(name, content)| name.strip_suffix(".list").is_none() && content.contains(text))
            .map(|(name, _)| name.split('.').next().unwrap_or_default().to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    fn noted(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let files = self.files().into_iter();
        files
            .filter(|(name, _)| is_wanted(name))
            .map(|(_, content)| content)
            .collect()
    }

    fn files(&self) -> Vec<(String, String)> {
        let entries = std::fs::read_dir(self.seen()).unwrap();
        entries
            .map(|entry| {
                let entry = entry.unwrap();
                let bytes = std::fs::read(entry.path()).unwrap();
                (
                    entry.file_name().into_string().unwrap(),
                    String::from_utf8_lossy(&bytes).into_owned(),
                )
            })
            .collect()
    }
}

fn write_program(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}
