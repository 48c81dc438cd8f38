//! The base of a world's repository: made by `kugetsu init` once for each version of opencode, then copied.
//!
//! `init` starts an opencode, which takes seconds of a core. What it leaves is the same in all worlds, except for their
//! folders and the id that opencode gives to their repositories.

use std::fs::Permissions;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rusqlite::Connection;

use super::{Opencode, Version, World};
use crate::files_below;

/// How long processes of `init` may still be alive after it.
const SOON: Duration = Duration::from_mins(1);

/// What `kugetsu init` left in the first world of this process.
struct Base {
    root: String,
    project: String,
    files: Vec<SavedFile>,
}

/// A file with its path below the world's root. All folders above it have the mode of the folder that it is in.
struct SavedFile {
    path: String,
    content: Vec<u8>,
    mode: u32,
    folder_mode: u32,
}

impl World {
    /// Gives the repository a base, as `kugetsu init` does; with the real opencode, by a copy of what `init` left in
    /// another world.
    #[track_caller]
    pub fn make_base(&self) {
        static BASES: [OnceLock<Base>; Version::ALL.len()] = [const { OnceLock::new() }; Version::ALL.len()];
        let Opencode::Real(version) = self.opencode() else {
            self.run(["init"]).expect_status(0);
            return;
        };
        let mut made_here = false;
        let base = BASES[version as usize].get_or_init(|| {
            made_here = true;
            self.run(["init"]).expect_status(0);
            self.save_base()
        });
        if !made_here {
            self.load_base(base);
        }
    }

    fn save_base(&self) -> Base {
        self.wait_nothing_left(SOON);
        self.sql_write("PRAGMA wal_checkpoint(TRUNCATE)");
        let is_lasting = |path: &PathBuf| {
            let name = path.to_string_lossy();
            !["-wal", "-shm", ".log"]
                .iter()
                .any(|ending| name.ends_with(ending))
        };
        let files = [self.home(), self.kugetsu_home()]
            .iter()
            .flat_map(|folder| files_below(folder))
            // Each world has a model of its own.
            .filter(|path| path.is_file() && is_lasting(path) && *path != self.opencode_config_file())
            .map(|path| SavedFile {
                content: std::fs::read(&path).expect("a file of the world"),
                mode: mode(&path),
                folder_mode: mode(path.parent().expect("the file is in a folder")),
                path: text(
                    path.strip_prefix(self.root())
                        .expect("the file is below the root"),
                ),
            })
            .collect();
        Base {
            root: text(self.root()),
            project: self.project(),
            files,
        }
    }

    fn load_base(&self, base: &Base) {
        let changes = [
            (base.root.as_str(), text(self.root())),
            (base.project.as_str(), self.project()),
        ];
        for file in &base.files {
            let mut path = file.path.clone();
            let mut content = file.content.clone();
            for (old, new) in &changes {
                path = path.replace(old, new);
                if let Ok(text) = std::str::from_utf8(&content) {
                    content = text.replace(old, new).into_bytes();
                }
            }
            let path = self.root().join(path);
            let folder = path.parent().expect("the file is in a folder");
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(file.folder_mode)
                .create(folder)
                .and_then(|()| std::fs::write(&path, content))
                .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(file.mode)))
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        let connection = Connection::open(self.opencode_db()).expect("it was just copied");
        for (old, new) in &changes {
            replace_everywhere(&connection, old, new).expect("no other process uses the database");
        }
    }

    /// The id that opencode gives to the world's repository: its first commit.
    fn project(&self) -> String {
        let first = self.git(&self.repo(), ["rev-list", "--max-parents=0", "HEAD"]);
        first.stdout().trim().to_owned()
    }
}

/// Replaces a text in every text of every table.
fn replace_everywhere(connection: &Connection, old: &str, new: &str) -> rusqlite::Result<()> {
    let columns = "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c \
                   WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'";
    let columns: Vec<(String, String)> = connection
        .prepare(columns)?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    connection.execute_batch("PRAGMA foreign_keys = OFF; BEGIN")?;
    for (table, column) in columns {
        let update = format!(
            "UPDATE \"{table}\" SET \"{column}\" = replace(\"{column}\", ?1, ?2) \
             WHERE typeof(\"{column}\") = 'text' AND instr(\"{column}\", ?1) > 0"
        );
        connection.execute(&update, (old, new))?;
    }
    connection.execute_batch("COMMIT")
}

fn text(path: &Path) -> String {
    path.to_str()
        .expect("a temporary folder's path is text")
        .to_owned()
}

fn mode(path: &Path) -> u32 {
    let metadata = path.metadata().expect("it exists");
    metadata.permissions().mode() & 0o7777
}
